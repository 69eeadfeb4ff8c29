//! What differs from run to run, taken out of a text.

/// Replaces each of `known` by its name, and then ports, serials, key ids, times and spans of time
/// wherever they stand.
pub fn redact(text: &str, known: &[(String, &str)]) -> String {
    let mut text = text.to_owned();
    for (found, name) in known {
        text = text.replace(found, name);
    }
    let mut redacted = String::new();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let end = rest.find(|c| !in_word(c)).unwrap_or(rest.len());
        let (word, others) = rest.split_at(end);
        redacted.push_str(&redact_word(word));
        let next = others.find(in_word).unwrap_or(others.len());
        redacted.push_str(&others[..next]);
        rest = &others[next..];
    }
    redacted = without_numbers(&redacted);
    // Of how many parts a span consists varies, too.
    while redacted.contains("[SPAN] [SPAN]") {
        redacted = redacted.replace("[SPAN] [SPAN]", "[SPAN]");
    }
    redacted
}

/// The numbers of errors, and of processes before an `@`.
fn without_numbers(text: &str) -> String {
    let digits = |c: char| c.is_ascii_digit();
    let mut parts = text.split("(os error ");
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        shown += "(os error [N]";
        shown += part.trim_start_matches(digits);
    }
    let mut parts = shown.split('@').peekable();
    let mut without = String::new();
    while let Some(part) = parts.next() {
        let kept = part.trim_end_matches(digits);
        if parts.peek().is_some() && kept.len() < part.len() {
            without = without + kept + "[PID]@";
        } else {
            without += part;
        }
    }
    without
}

fn in_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_:.+-µ".contains(c)
}

fn redact_word(word: &str) -> String {
    // It may end in a dash.
    if is_kid(word) {
        return "[KID]".to_owned();
    }
    let end = word.trim_end_matches([':', '.', '-']);
    let after = &word[end.len()..];
    let shown = match end {
        _ if is_time(end) => "[TIME]".to_owned(),
        _ if is_name_of_ca(end) => "[ID]".to_owned(),
        _ if is_serial(end) => "[SERIAL]".to_owned(),
        _ if is_workflow_id(end) => "[WORKFLOW]".to_owned(),
        _ if is_span(end) => "[SPAN]".to_owned(),
        _ => match end.rsplit_once(':') {
            Some((host, port)) if is_port(port) => format!("{host}:[PORT]"),
            _ => end.to_owned(),
        },
    };
    shown + after
}

fn is_time(word: &str) -> bool {
    word.len() >= 20 && word.as_bytes()[10] == b'T' && word.ends_with('Z')
}

fn is_serial(word: &str) -> bool {
    let hex = |c: char| c.is_ascii_hexdigit() || c == ':';
    word.len() >= 16 && word.chars().all(hex)
}

/// With which the name of a generated CA ends.
fn is_name_of_ca(word: &str) -> bool {
    let hex = |c: char| c.is_ascii_digit() || ('A'..='F').contains(&c);
    word.len() == 8 && word.chars().all(hex)
}

/// A thumbprint of RFC 7638.
fn is_kid(word: &str) -> bool {
    word.len() == 43
        && word
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_-".contains(c))
}

/// One that the starter has made: `hello-` and a UUID.
fn is_workflow_id(word: &str) -> bool {
    word.len() == 42 && word.starts_with("hello-")
}

fn is_span(word: &str) -> bool {
    let digits = |c: char| c.is_ascii_digit() || c == '.';
    let unit = word.trim_start_matches(digits);
    let units = ["ns", "us", "µs", "ms", "s", "m", "h", "day", "days"];
    unit.len() < word.len() && units.contains(&unit)
}

fn is_port(word: &str) -> bool {
    word.len() >= 4 && word.chars().all(|c| c.is_ascii_digit())
}

#[test]
fn what_varies_is_taken_out() {
    let folder = [("/tmp/x1".to_owned(), "[FOLDER]")];
    for (text, expected) in [
        (
            "`127.0.0.1:34567` at 2026-11-22T03:26:22Z (in 4m 59s)",
            "`127.0.0.1:[PORT]` at [TIME] (in [SPAN])",
        ),
        (
            "serial 59CCD4DE1644EA4BE71161CA038C469B of CA 59CCD4DE",
            "serial [SERIAL] of CA [ID]",
        ),
        (
            "file `/tmp/x1/token`: empty",
            "file `[FOLDER]/token`: empty",
        ),
        ("refused (os error 111)", "refused (os error [N])"),
        ("by 12@host", "by [PID]@host"),
        (
            "`hello-02e3d7cc-7cc4-4d2b-bf5d-d8bcf610a0d4`: late",
            "`[WORKFLOW]`: late",
        ),
        ("within 1s.", "within [SPAN]."),
        ("exit code 79 and 2 keys", "exit code 79 and 2 keys"),
    ] {
        assert_eq!(redact(text, &folder), expected);
    }
}
