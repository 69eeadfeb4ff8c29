//! What a server's log says about its start and its end.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use serde_json::Value;

/// The last `count` lines.
pub(super) fn tail(path: &Path, count: usize) -> io::Result<Vec<String>> {
    let text = end_of(path, 0)?;
    let lines: Vec<_> = text.lines().map(str::to_owned).collect();
    Ok(lines[lines.len().saturating_sub(count)..].to_vec())
}

/// Whether the log contains `message`.
pub(super) fn says(path: &Path, message: &str) -> io::Result<bool> {
    Ok(end_of(path, 0)?.contains(message))
}

/// The lines after byte `from` that tell why the server ended: its errors if there are any, else
/// the last lines, each without the fields that only a machine needs.
pub(super) fn explain(path: &Path, from: u64) -> String {
    let text = match end_of(path, from) {
        Ok(text) => text,
        Err(error) => return format!("  (its log `{}` cannot be read: {error})", path.display()),
    };
    let entries: Vec<_> = text.lines().map(entry).collect();
    let has_errors = entries.iter().any(|(is_error, _)| *is_error);
    let entries = entries.into_iter();
    let told: Vec<_> = entries
        .filter(|(is_error, _)| *is_error == has_errors)
        .filter_map(|(_, text)| (!text.is_empty()).then(|| format!("  {text}")))
        .collect();
    told[told.len().saturating_sub(MOST_LINES)..].join("\n")
}

/// Whether a line is an error, and its text.
fn entry(line: &str) -> (bool, String) {
    let (is_error, text) = match serde_json::from_str(line) {
        Ok(Value::Object(fields)) => {
            let field = |name| fields.get(name).and_then(Value::as_str);
            let level = field("level").unwrap_or("?");
            let said: Vec<_> = ["msg", "error"].into_iter().filter_map(field).collect();
            (
                !matches!(level, "debug" | "info" | "warn"),
                format!("{level}: {}", said.join(": ")),
            )
        }
        // What comes before the logger, and panics.
        _ => (!line.trim().is_empty(), line.trim_end().to_owned()),
    };
    (is_error, text.chars().take(MOST_CHARACTERS).collect())
}

/// At most the last [`MOST_BYTES`], and nothing before `from`.
fn end_of(path: &Path, from: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(from.max(length.saturating_sub(MOST_BYTES))))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

const MOST_BYTES: u64 = 1 << 20;
const MOST_CHARACTERS: usize = 400;
const MOST_LINES: usize = 10;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const LOG: &str = r#"{"level":"info","msg":"Build info."}
{"level":"fatal","msg":"Failed to start gRPC listener","error":"bind: address already in use"}
{"level":"info","msg":"Quota changed"}
"#;

    fn explained(text: &str, from: u64) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        explain(file.path(), from)
    }

    #[test]
    fn errors_come_without_the_rest() {
        assert_eq!(
            explained(LOG, 0),
            "  fatal: Failed to start gRPC listener: bind: address already in use"
        );
    }

    #[test]
    fn text_before_the_logger_counts_as_an_error() {
        let text = format!("{LOG}Unable to load configuration: no such file.\n");
        assert!(explained(&text, 0).ends_with("\n  Unable to load configuration: no such file."));
    }

    #[test]
    fn without_errors_the_last_lines_are_told() {
        let from = LOG.find(r#"{"level":"info","msg":"Quota"#).unwrap();
        let from = u64::try_from(from).unwrap();
        assert_eq!(explained(LOG, from), "  info: Quota changed");
    }

    #[test]
    fn the_tail_is_unchanged_lines() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), LOG).unwrap();
        assert_eq!(
            tail(file.path(), 1).unwrap(),
            [r#"{"level":"info","msg":"Quota changed"}"#]
        );
        assert_eq!(tail(file.path(), 9).unwrap().len(), 3);
    }
}
