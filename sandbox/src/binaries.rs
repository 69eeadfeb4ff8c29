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
    /// Has cargo build what is not up to date, unless `SANDBOX_PROGRAMS` names the folder of the
    /// programs. The tests set it: `cargo test` builds the programs with the features of the
    /// dev-dependencies, and a build without them would replace the programs under the tests.
    ///
    /// # Errors
    /// The output of cargo, when it fails.
    pub async fn build(guard: &Guard, progress: &dyn Progress) -> anyhow::Result<Self> {
        if let Some(folder) = std::env::var_os("SANDBOX_PROGRAMS").map(PathBuf::from) {
            return Ok(Self {
                worker: folder.join("worker"),
                starter: folder.join("starter"),
                keyutil: folder.join("keyutil"),
            });
        }
        progress.step("building worker, starter and keyutil, as far as they are not up to date");
        Self::of(&Built::by_cargo(guard, &["--bins"]).await?)
    }

    /// The programs among those that cargo has built.
    ///
    /// # Errors
    /// When one of them is missing.
    pub fn of(built: &Built) -> anyhow::Result<Self> {
        Ok(Self {
            worker: built.executable("worker")?,
            starter: built.executable("starter")?,
            keyutil: built.executable("keyutil")?,
        })
    }
}

/// The result of a build: the messages of cargo, a JSON object in each line.
#[derive(Debug)]
pub struct Built(String);

impl Built {
    /// Builds these targets of the workspace, such as `--examples`, in the profile of the program
    /// that calls it.
    ///
    /// # Errors
    /// The output of cargo, when it fails.
    pub async fn by_cargo(guard: &Guard, targets: &[&str]) -> anyhow::Result<Self> {
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
        Ok(Self(String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    /// The path of a program or an example that was built.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn executable(&self, name: &str) -> anyhow::Result<PathBuf> {
        self.0
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|message| message["target"]["name"] == name)
            .find_map(|message| message["executable"].as_str().map(PathBuf::from))
            .with_context(|| format!("cargo built no program named `{name}`"))
    }
}

/// The workspace that this was compiled in: the sandbox runs where it was built.
fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}
