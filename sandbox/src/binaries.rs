//! Worker, starter and keyutil, as they were just built.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::process::Command;

use crate::{guard::Guard, provision::Progress};

/// The programs of the workspace.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the fields are the names of the programs")]
pub struct Binaries {
    pub worker: PathBuf,
    pub starter: PathBuf,
    pub keyutil: PathBuf,
}

impl Binaries {
    /// Has cargo build what is not up to date, in the profile of this very program, and asks it
    /// where the results are.
    ///
    /// # Errors
    /// The output of cargo, when it fails.
    pub async fn build(guard: &Guard, progress: &dyn Progress) -> anyhow::Result<Self> {
        progress.step("building worker, starter and keyutil, as far as they are not up to date");
        let messages = cargo_build(guard, &["--bins"]).await?;
        let executable = |name| executable(&messages, name);
        Ok(Self {
            worker: executable("worker")?,
            starter: executable("starter")?,
            keyutil: executable("keyutil")?,
        })
    }
}

/// Builds an example of the workspace in the same way, and returns where it is.
///
/// # Errors
/// The output of cargo, when it fails.
pub async fn build_example(guard: &Guard, name: &str) -> anyhow::Result<PathBuf> {
    let messages = cargo_build(guard, &["--example", name]).await?;
    executable(&messages, name)
}

/// Returns what cargo said of each artifact, a JSON object in each line.
async fn cargo_build(guard: &Guard, targets: &[&str]) -> anyhow::Result<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // The whole workspace, so that the features of the dependencies are those of every other
    // build, and nothing is compiled twice.
    command
        .args(["build", "--workspace"])
        .args(targets)
        .arg("--message-format=json-render-diagnostics")
        .arg("--manifest-path")
        .arg(workspace().join("Cargo.toml"));
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let output = guard.adopt_async(&mut command).output().await;
    let output = output.context("failed to run cargo")?;
    ensure!(
        output.status.success(),
        "cargo could not build the workspace\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn executable(messages: &str, name: &str) -> anyhow::Result<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("cargo built no program named `{name}`"))
}

/// The workspace that this was compiled in: the sandbox runs where it was built.
fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}
