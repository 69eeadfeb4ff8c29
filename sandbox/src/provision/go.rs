//! The server built from its source.
//!
//! `go install` verifies the source against Go's checksum database.

use std::io;
use std::path::{self, Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::VERSION;
use super::progress::Progress;
use crate::guard::Guard;

/// Builds the server in the guard's folder.
pub(super) async fn install(
    go: &Path,
    guard: &Guard,
    progress: &dyn Progress,
) -> Result<PathBuf, GoError> {
    let go = if go.components().count() > 1 {
        // A path, and Go is not started in our working folder.
        path::absolute(go).unwrap_or_else(|_| go.to_owned())
    } else {
        go.to_owned()
    };
    let run_failed = |source| GoError::Run {
        go: go.clone(),
        source,
    };
    let mut version = command(&go, guard);
    let version = version.args(["env", "GOVERSION"]).stderr(Stdio::null());
    let version = version.output().await.map_err(run_failed)?;
    let found = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    if parse(&found) < Some(NEEDED) {
        return Err(GoError::TooOld { go, found });
    }

    progress.step("building temporal-server with Go, which takes about 6 minutes");
    let mut install = command(&go, guard);
    install
        .args(["install", "-v", &format!("{PACKAGE}@v{VERSION}")])
        .env("CGO_ENABLED", "0")
        .env("GOBIN", guard.folder())
        // Go refuses GOBIN when it builds for another machine.
        .env_remove("GOOS")
        .env_remove("GOARCH")
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = install.spawn().map_err(run_failed)?;
    let mut said = String::new();
    if let Some(stderr) = child.stderr.take() {
        let mut lines = BufReader::new(stderr).lines();
        while let Some(line) = lines.next_line().await.map_err(run_failed)? {
            progress.output(&line);
            if !is_progress(&line) {
                said = format!("{said}  {line}\n");
            }
        }
    }
    let status = child.wait().await.map_err(run_failed)?;
    if status.success() {
        // Go names a binary after the last part of its package.
        Ok(guard.folder().join("server"))
    } else {
        Err(GoError::Failed { status, said })
    }
}

/// Why Go built no server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GoError {
    /// Go does not run.
    #[error("failed to run `{}`; install Go {} or later from https://go.dev/dl", go.display(), dotted(NEEDED))]
    Run {
        /// The command.
        go: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The server needs a later Go.
    #[error("`{}` is version `{found}`; install Go {} or later from https://go.dev/dl", go.display(), dotted(NEEDED))]
    TooOld {
        /// The command.
        go: PathBuf,
        /// What it says of itself.
        found: String,
    },
    /// The build failed.
    #[error("`go install` failed ({status}) and said:\n{said}")]
    Failed {
        /// How it ended.
        status: ExitStatus,
        /// Everything but its progress.
        said: String,
    },
}

/// In a folder of ours, so that no `go.mod` around us has a say.
fn command(go: &Path, guard: &Guard) -> Command {
    let mut command = Command::new(go);
    command
        .current_dir(guard.folder())
        // Or a build that is killed leaves its work behind.
        .env("GOTMPDIR", guard.folder());
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
    let mut parts = word.split('.');
    let mut next = || {
        let part = parts.next()?;
        let end = part.find(|c: char| !c.is_ascii_digit());
        part[..end.unwrap_or(part.len())].parse().ok()
    };
    Some((next()?, next()?, next().unwrap_or(0)))
}

fn dotted((major, minor, patch): (u32, u32, u32)) -> String {
    format!("{major}.{minor}.{patch}")
}

const PACKAGE: &str = "go.temporal.io/server/cmd/server";
/// What go.mod of the server at that version asks for.
const NEEDED: (u32, u32, u32) = (1, 26, 4);

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
