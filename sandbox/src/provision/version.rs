//! Whether a file is the server that everything here was made for.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use std::{io, path};

use tokio::process::Command;
use tokio::time::{sleep, timeout};

use super::VERSION;

/// Runs `binary --version`, and returns its absolute path when the answer is right.
pub(super) async fn check(binary: &Path) -> Result<PathBuf, VersionError> {
    let run_failed = |source| VersionError::Run {
        binary: binary.to_owned(),
        source,
    };
    // A name without a slash is a file here, not something to look for in `PATH`.
    let absolute = path::absolute(binary).map_err(run_failed)?;
    let said = ask(&absolute).await.map_err(run_failed)?;
    // `temporal version 1.31.2`
    if said.split_whitespace().eq(["temporal", "version", VERSION]) {
        Ok(absolute)
    } else {
        Err(VersionError::Wrong {
            binary: binary.to_owned(),
            said: said.chars().take(200).collect(),
        })
    }
}

/// Why a file is not a usable server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VersionError {
    /// It does not run.
    #[error("failed to run `{} --version`", binary.display())]
    Run {
        /// The file.
        binary: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It runs, but is something else.
    #[error("`{} --version` should say `temporal version {VERSION}` and says: `{said}`", binary.display())]
    Wrong {
        /// The file.
        binary: PathBuf,
        /// What it said.
        said: String,
    },
}

async fn ask(binary: &Path) -> io::Result<String> {
    let mut command = Command::new(binary);
    command
        .arg("--version")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let mut tries = 0;
    loop {
        let output = timeout(LIMIT, command.output())
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
        match output {
            // A child that another thread is just starting has our descriptors until it is started,
            // among them that of the file we have written (golang/go#22315).
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && tries < 20 => {
                tries += 1;
                sleep(Duration::from_millis(50)).await;
            }
            Err(error) => return Err(error),
            Ok(output) => {
                let said = if output.stdout.is_empty() {
                    output.stderr
                } else {
                    output.stdout
                };
                return Ok(String::from_utf8_lossy(&said).trim().to_owned());
            }
        }
    }
}

/// macOS looks at a large binary for a while before its first run.
const LIMIT: Duration = Duration::from_secs(60);
