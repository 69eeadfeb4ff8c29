//! Worker, starter and keyutil, as they were just built.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, BufReader},
    process::Command,
};

use crate::{guard::Guard, provision::Progress};

/// The programs of the workspace.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// The worker.
    pub worker: PathBuf,
    /// The starter.
    pub starter: PathBuf,
    /// The tool.
    pub keyutil: PathBuf,
}

impl Binaries {
    /// Has cargo build what is not up to date, in the profile of this very program, and asks it
    /// where the results are.
    ///
    /// # Errors
    /// [`BuildError`], with what cargo said.
    pub async fn build(guard: &Guard, progress: &dyn Progress) -> Result<Self, BuildError> {
        progress.step("building worker, starter and keyutil, as far as they are not up to date");
        let messages = cargo_build(guard, &["--bins"]).await?;
        Ok(Self {
            worker: executable(&messages, "worker")?,
            starter: executable(&messages, "starter")?,
            keyutil: executable(&messages, "keyutil")?,
        })
    }
}

/// Builds an example of the workspace in the same way, and returns where it is.
///
/// # Errors
/// [`BuildError`], with what cargo said.
pub async fn build_example(guard: &Guard, name: &'static str) -> Result<PathBuf, BuildError> {
    let messages = cargo_build(guard, &["--example", name]).await?;
    executable(&messages, name)
}

/// Returns what cargo said of each artifact, a JSON object in each line.
async fn cargo_build(guard: &Guard, targets: &[&str]) -> Result<String, BuildError> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // The whole workspace, so that the features of the dependencies are those of every other
    // build, and nothing is compiled twice.
    command
        .args(["build", "--workspace"])
        .args(targets)
        .arg("--message-format=json-render-diagnostics")
        .arg("--manifest-path")
        .arg(workspace().join("Cargo.toml"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let mut child = guard
        .adopt_async(&mut command)
        .spawn()
        .map_err(BuildError::Spawn)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (messages, complaints, status) = tokio::join!(read(stdout), read(stderr), child.wait());
    if !status.map_err(BuildError::Spawn)?.success() {
        return Err(BuildError::Failed { complaints });
    }
    Ok(messages)
}

fn executable(messages: &str, name: &'static str) -> Result<PathBuf, BuildError> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .ok_or(BuildError::Missing { name })
}

async fn read(pipe: Option<impl tokio::io::AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // What was read before an error is all there is to show.
        let _ = BufReader::new(pipe).read_to_end(&mut bytes).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Where the workspace stood when this was compiled: the sandbox runs where it was built.
fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// The programs could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Cargo did not run.
    #[error("failed to run cargo")]
    Spawn(#[source] std::io::Error),
    /// Cargo ran, and failed.
    #[error("cargo could not build the workspace\n{complaints}")]
    Failed {
        /// Its standard error.
        complaints: String,
    },
    /// Cargo built something else.
    #[error("cargo built no program named `{name}`")]
    Missing {
        /// The name.
        name: &'static str,
    },
}
