//! The server built from its source.
//!
//! `go install` verifies the source against Go's checksum database.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, ensure};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::{Progress, VERSION};
use crate::guard::Guard;

/// Builds the server in the guard's folder.
pub(super) async fn install(
    go: &Path,
    guard: &Guard,
    progress: &dyn Progress,
) -> anyhow::Result<PathBuf> {
    let run_failed = || format!("failed to run `{}`; {INSTALL_GO}", go.display());
    let version = command(go, guard)
        .args(["env", "GOVERSION"])
        .stderr(Stdio::null())
        .output()
        .await
        .with_context(run_failed)?;
    let found = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    ensure!(
        parse(&found) >= Some(NEEDED),
        "`{}` is version `{found}`; {INSTALL_GO}",
        go.display()
    );

    progress.step("building temporal-server with Go, which takes about 6 minutes");
    let mut child = command(go, guard)
        .args(["install", "-v", &format!("{PACKAGE}@v{VERSION}")])
        .env("CGO_ENABLED", "0")
        .env("GOBIN", guard.folder())
        // Go refuses GOBIN when it builds for another machine.
        .env_remove("GOOS")
        .env_remove("GOARCH")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(run_failed)?;
    let mut said = String::new();
    if let Some(stderr) = child.stderr.take() {
        let mut lines = BufReader::new(stderr).lines();
        while let Some(line) = lines.next_line().await.with_context(run_failed)? {
            progress.output(&line);
            if !is_progress(&line) {
                said = format!("{said}  {line}\n");
            }
        }
    }
    let status = child.wait().await.with_context(run_failed)?;
    ensure!(
        status.success(),
        "`go install` failed ({status}) and said:\n{said}"
    );
    // Go names a binary after the last part of its package.
    Ok(guard.folder().join("server"))
}

fn command(go: &Path, guard: &Guard) -> Command {
    let mut command = Command::new(go);
    // Or a build that is killed leaves its work behind.
    command.env("GOTMPDIR", guard.folder());
    guard.adopt_async(&mut command);
    command
}

/// With `-v` Go prints the package that it compiles.
fn is_progress(line: &str) -> bool {
    line.starts_with("go: downloading ") || !line.contains(char::is_whitespace)
}

/// Reads `go1.26.8`, `go1.27rc1` and `devel go1.28-0123abc`.
fn parse(version: &str) -> Option<(u32, u32, u32)> {
    let mut words = version.split_whitespace();
    let word = words.find_map(|word| word.strip_prefix("go"))?;
    let end = word.find(|c: char| c != '.' && !c.is_ascii_digit());
    let mut parts = word[..end.unwrap_or(word.len())].split('.');
    let mut next = || parts.next()?.parse().ok();
    Some((next()?, next()?, next().unwrap_or(0)))
}

const PACKAGE: &str = "go.temporal.io/server/cmd/server";
/// What go.mod of the server at that version asks for.
const NEEDED: (u32, u32, u32) = (1, 26, 4);
const INSTALL_GO: &str = "install Go 1.26.4 or later from https://go.dev/dl";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        for (version, expected) in [
            ("go1.26.8", Some((1, 26, 8))),
            ("go1.26", Some((1, 26, 0))),
            ("go1.27rc1", Some((1, 27, 0))),
            ("go1.26.4 X:nodwarf5", Some((1, 26, 4))),
            ("devel go1.28-0123abc Mon Jan 1", Some((1, 28, 0))),
            ("", None),
            ("version 2", None),
        ] {
            assert_eq!(parse(version), expected, "{version}");
        }
        assert!(parse("go1.26.3") < Some(NEEDED) && parse("") < Some(NEEDED));
        assert!(parse("go1.26.4") >= Some(NEEDED));
    }

    #[test]
    fn an_error_is_not_progress() {
        assert!(is_progress(
            "go: downloading google.golang.org/grpc v1.79.3"
        ));
        assert!(is_progress("go.temporal.io/server/common/log"));
        assert!(!is_progress("./main.go:3:1: syntax error"));
    }
}
