//! Finds, downloads or builds the pinned temporal-server.
//!
//! In this order: the binary that the user names; the cache, which is per user so that clones share
//! it; the release archive, verified with the checksums beside it; `go install`. A binary that the user names is
//! used or refused, never passed over, and so is an archive that differs from the publisher's list:
//! Go is tried only when the release cannot be reached.

mod go;
mod release;

use std::env::{self, consts};
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{self, Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use backon::{ConstantBuilder, Retryable};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use keyutil::chain;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

pub use release::ReleaseError;

use crate::guard::{Guard, GuardError};

/// The version of the server that the sandbox is made for.
pub const VERSION: &str = "1.31.2";

/// Where the server binary comes from.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Server binary to use instead of having one fetched
    #[arg(long = "server-bin", env = "TEMPORAL_SERVER_BIN", value_name = "FILE")]
    pub binary: Option<PathBuf>,

    /// Folder that keeps server binaries [default: `temporal-sandbox` in the user's cache folder]
    #[arg(long, env = "TEMPORAL_SANDBOX_CACHE", value_name = "FOLDER")]
    pub cache_dir: Option<PathBuf>,

    /// URL below which the releases are
    #[arg(
        long,
        env = "TEMPORAL_SANDBOX_RELEASES",
        value_name = "URL",
        default_value = "https://github.com/temporalio/temporal/releases/download"
    )]
    pub release_base_url: String,

    /// Go command that builds the server where the release cannot be reached
    #[arg(
        long,
        env = "TEMPORAL_SANDBOX_GO",
        value_name = "FILE",
        default_value = "go"
    )]
    pub go: PathBuf,
}

/// Returns the path of a temporal-server [`VERSION`].
///
/// This may take minutes. It leaves nothing behind when the future is dropped or the process is
/// killed, and of several processes at the same time one does the work and the others wait for it.
pub async fn temporal_server(
    options: &Options,
    progress: &dyn Progress,
) -> Result<PathBuf, ProvisionError> {
    if let Some(binary) = &options.binary {
        return check_version(binary).await.map_err(ProvisionError::Named);
    }
    let entry = cache_entry(options).map_err(ProvisionError::Cache)?;
    let cached = entry.join("temporal-server");
    if is_usable(&cached, progress).await {
        return Ok(cached);
    }
    let lock_file = entry.join("lock");
    let _lock = lock(&lock_file, progress)
        .await
        .with_context(|| {
            format!(
                "failed to lock `{}`; set `TEMPORAL_SANDBOX_CACHE` to a folder on a local disk",
                lock_file.display()
            )
        })
        .map_err(ProvisionError::Cache)?;
    // The process that held the lock may have done the work.
    if is_usable(&cached, progress).await {
        return Ok(cached);
    }
    // Beside the entry, because a rename does not cross file systems.
    let parent = entry.parent().unwrap_or(&entry);
    let guard = Guard::inside(parent, ".provisioning-").map_err(ProvisionError::Guard)?;
    let base_url = &options.release_base_url;
    let made = match release::fetch(base_url, guard.folder(), progress).await {
        Err(release) if release.is_unavailable() => {
            progress.step(&format!("no release archive: {}", chain(&release)));
            let built = go::install(&options.go, &guard, progress).await;
            built.map_err(|go| ProvisionError::NoWay { release, go })?
        }
        fetched => fetched.map_err(ProvisionError::Release)?,
    };
    let made = check_version(&made).await.map_err(ProvisionError::Made)?;
    File::open(&made)
        // Or the rename could reach the disk before the content does.
        .and_then(|file| file.sync_all())
        .and_then(|()| fs::rename(&made, &cached))
        .with_context(|| format!("failed to store `{}`; is there room?", cached.display()))
        .map_err(ProvisionError::Cache)?;
    Ok(cached)
}

/// Why there is no server binary.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say what the variants are")]
pub enum ProvisionError {
    #[error(
        "the binary that `--server-bin` (TEMPORAL_SERVER_BIN) names cannot be used; correct it, or leave it out to have one fetched"
    )]
    Named(#[source] anyhow::Error),
    #[error("what was downloaded or built cannot be used; {NAME_ONE}")]
    Made(#[source] anyhow::Error),
    #[error("the cache of server binaries cannot be used; {NAME_ONE}")]
    Cache(#[source] anyhow::Error),
    #[error("failed to prepare a folder to work in")]
    Guard(#[source] GuardError),
    #[error(
        "the release of temporal-server {VERSION} cannot be trusted; try again, and if it stays so, {NAME_ONE}"
    )]
    Release(#[source] ReleaseError),
    #[error(
        "found no way to a temporal-server {VERSION}:\n  release archive: {}\n  go install: {}\n\n{NAME_ONE}",
        chain(release), chain(go.as_ref())
    )]
    NoWay {
        release: ReleaseError,
        go: anyhow::Error,
    },
}

const NAME_ONE: &str = "set `TEMPORAL_SERVER_BIN` to a temporal-server 1.31.2 of your own";

/// Makes the cache's folder for this version and platform.
///
/// The binary appears in it by the rename of a file that is complete, synced and has answered.
fn cache_entry(options: &Options) -> anyhow::Result<PathBuf> {
    let root = match &options.cache_dir {
        Some(folder) => folder.clone(),
        None => user_cache(env::var_os("XDG_CACHE_HOME"), env::home_dir())
            .context("this user has no home folder; set `TEMPORAL_SANDBOX_CACHE` to a folder")?
            .join("temporal-sandbox"),
    };
    let name = format!("server-{VERSION}-{}-{}", consts::OS, consts::ARCH);
    path::absolute(&root)
        .map(|root| root.join(name))
        .and_then(|entry| fs::create_dir_all(&entry).map(|()| entry))
        .with_context(|| {
            format!(
                "failed to make the folder `{}`; set `TEMPORAL_SANDBOX_CACHE` to one that is writable",
                root.display()
            )
        })
}

/// The user's folder for files that programs can make again.
fn user_cache(xdg_cache_home: Option<OsString>, home: Option<PathBuf>) -> Option<PathBuf> {
    if cfg!(target_os = "macos") {
        return Some(home?.join("Library/Caches"));
    }
    // The XDG specification says to ignore a relative path.
    let xdg = xdg_cache_home.map(PathBuf::from);
    let xdg = xdg.filter(|path| path.is_absolute());
    xdg.or_else(|| Some(home?.join(".cache")))
}

/// Whether the cache has a binary that still answers.
async fn is_usable(cached: &Path, progress: &dyn Progress) -> bool {
    if !cached.exists() {
        return false;
    }
    let checked = check_version(cached).await;
    if let Err(error) = &checked {
        progress.step(&format!("replacing a cached server: {error}"));
    }
    checked.is_ok()
}

/// Waits until no other process provisions. The kernel frees the lock of a process that dies.
async fn lock(path: &Path, progress: &dyn Progress) -> io::Result<File> {
    let file = File::create(path)?;
    let mut told = false;
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if told => {
                // Polled, because a thread that waits in the kernel cannot be cancelled.
                sleep(Duration::from_millis(200)).await;
            }
            Err(TryLockError::WouldBlock) => {
                progress.step("waiting for another process that fetches temporal-server");
                told = true;
            }
            locked => return locked.map(|()| file).map_err(io::Error::from),
        }
    }
}

/// Runs `binary --version`, and returns its absolute path when the answer is right.
async fn check_version(binary: &Path) -> anyhow::Result<PathBuf> {
    let shown = binary.display();
    let run_failed = || format!("failed to run `{shown} --version`");
    // A name without a slash is a file here, not something to look for in `PATH`.
    let absolute = path::absolute(binary).with_context(run_failed)?;
    // A child that another thread is just starting has our descriptors until it is started, among
    // them that of the file we have written (golang/go#22315).
    let busy = ConstantBuilder::new()
        .with_delay(Duration::from_millis(50))
        .with_max_times(20);
    let output = (|| run_version(&absolute))
        .retry(busy)
        .when(|error| error.kind() == io::ErrorKind::ExecutableFileBusy)
        .await
        .with_context(run_failed)?;
    let answer = match output.stdout.is_empty() {
        true => String::from_utf8_lossy(&output.stderr),
        false => String::from_utf8_lossy(&output.stdout),
    };
    ensure!(
        answer
            .split_whitespace()
            .eq(["temporal", "version", VERSION]),
        "`{shown} --version` should say `temporal version {VERSION}` and says: `{}`",
        answer.trim().chars().take(200).collect::<String>()
    );
    Ok(absolute)
}

async fn run_version(binary: &Path) -> io::Result<Output> {
    let mut command = Command::new(binary);
    command
        .arg("--version")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    timeout(VERSION_LIMIT, command.output()).await?
}

/// macOS looks at a large binary for a while before its first run.
const VERSION_LIMIT: Duration = Duration::from_secs(60);

/// A receiver of progress. By default it shows nothing.
pub trait Progress: Send + Sync {
    /// A new step has begun.
    fn step(&self, _what: &str) {}
    /// This many bytes are done, of a total that is not always known.
    fn bytes(&self, _done: u64, _total: Option<u64>) {}
    /// A program that does the step has printed a line.
    fn output(&self, _line: &str) {}
}

/// Shows nothing.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Progress for Silent {}

/// Progress on stderr: on a terminal one line that moves and is gone at the end, elsewhere one line
/// per step.
#[derive(Debug)]
pub struct Terminal(ProgressBar);

impl Terminal {
    /// Nothing is shown before the first step.
    #[expect(
        clippy::new_without_default,
        reason = "it draws, which a default should not"
    )]
    pub fn new() -> Self {
        Self(ProgressBar::new_spinner())
    }

    fn set_template(&self, template: &str) {
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.0.set_style(style);
        }
    }
}

impl Progress for Terminal {
    fn step(&self, what: &str) {
        if self.0.is_hidden() {
            eprintln!("{what}");
            return;
        }
        self.set_template("{spinner} {wide_msg}");
        // The template does not show the prefix: `output` reads it.
        self.0.set_prefix(what.to_owned());
        self.0.set_message(what.to_owned());
        self.0.enable_steady_tick(Duration::from_millis(100));
    }

    fn bytes(&self, done: u64, total: Option<u64>) {
        if let (0, Some(total)) = (done, total) {
            self.0.set_length(total);
            self.set_template("{spinner} {msg} {bytes}/{total_bytes} {wide_bar} {eta}");
        }
        self.0.set_position(done);
    }

    fn output(&self, line: &str) {
        self.0.set_message(format!("{}: {line}", self.0.prefix()));
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(not(target_os = "macos"))]
    #[test]
    fn the_cache_is_where_the_user_wants_it() {
        for (variable, home, expected) in [
            (Some("/xdg"), Some("/home/me"), Some("/xdg")),
            (Some("relative"), Some("/home/me"), Some("/home/me/.cache")),
            (None, Some("/home/me"), Some("/home/me/.cache")),
            (None, None, None),
        ] {
            let found = user_cache(variable.map(Into::into), home.map(Into::into));
            assert_eq!(found, expected.map(PathBuf::from));
        }
    }
}
