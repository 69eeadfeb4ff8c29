//! Finds, downloads or builds the pinned temporal-server.
//!
//! In this order: the binary that the user names; the cache, which is per user so that clones share
//! it; the release archive, its checksum verified; `go install`. What the user names is used or
//! refused, never passed over, and so is an archive that is not what its publisher listed: only a
//! release that cannot be reached makes room for Go.

mod cache;
mod download;
mod go;
mod options;
mod progress;
mod release;
mod version;

use std::fmt;
use std::path::PathBuf;

pub use cache::CacheError;
pub use go::GoError;
pub use options::Options;
pub use progress::{Progress, Silent, Terminal};
pub use release::ReleaseError;
pub use version::VersionError;

use crate::guard::{Guard, GuardError};
use cache::Cache;
use keyutil::chain;

/// The version of the server that everything here was made for.
pub const VERSION: &str = "1.31.2";

/// Returns the path of a temporal-server [`VERSION`].
///
/// May take minutes. Nothing of it survives when the future is dropped or the process is killed,
/// and processes that ask at the same time wait for one that does the work.
pub async fn temporal_server(
    options: &Options,
    progress: &dyn Progress,
) -> Result<PathBuf, ProvisionError> {
    if let Some(binary) = &options.binary {
        return version::check(binary).await.map_err(ProvisionError::Named);
    }
    let cache = Cache::open(options)?;
    if let Some(binary) = cache.binary(progress).await {
        return Ok(binary);
    }
    let _lock = cache.lock(progress).await?;
    // Whoever held the lock may have done the work.
    if let Some(binary) = cache.binary(progress).await {
        return Ok(binary);
    }
    let guard = Guard::inside(cache.root(), ".provisioning-").map_err(ProvisionError::Guard)?;
    let made = make(options, &guard, progress).await?;
    let made = version::check(&made).await.map_err(ProvisionError::Made)?;
    Ok(cache.adopt(&made)?)
}

/// Why there is no server binary.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProvisionError {
    /// The binary that the user named is not what it should be.
    #[error(
        "the binary that `TEMPORAL_SERVER_BIN` names cannot be used; correct it, or unset it to have one fetched"
    )]
    Named(#[source] VersionError),
    /// What was downloaded or built is not what it should be.
    #[error("what was downloaded or built cannot be used; {NAME_ONE}")]
    Made(#[source] VersionError),
    /// The cache cannot be used.
    #[error("the cache of server binaries cannot be used; {NAME_ONE}")]
    Cache(#[from] CacheError),
    /// The work cannot be cleaned up after.
    #[error("failed to prepare a folder to work in")]
    Guard(#[source] GuardError),
    /// The release is there, but not as its publisher listed it.
    #[error(
        "the release of temporal-server {VERSION} cannot be trusted; try again, and if it stays so, {NAME_ONE}"
    )]
    Release(#[source] ReleaseError),
    /// Neither way leads to a binary.
    #[error("found no way to a temporal-server {VERSION}:\n{0}\n\n{NAME_ONE}")]
    NoWay(Ways),
}

/// Why each way failed.
#[derive(Debug)]
pub struct Ways {
    /// The release archive.
    pub release: ReleaseError,
    /// `go install`.
    pub go: GoError,
}

impl fmt::Display for Ways {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  release archive: {}", chain(&self.release))?;
        write!(f, "  go install: {}", chain(&self.go))
    }
}

async fn make(
    options: &Options,
    guard: &Guard,
    progress: &dyn Progress,
) -> Result<PathBuf, ProvisionError> {
    let release = match release::fetch(&options.release_base_url, guard.folder(), progress).await {
        Ok(binary) => return Ok(binary),
        Err(error) if error.is_out_of_reach() => error,
        Err(error) => return Err(ProvisionError::Release(error)),
    };
    progress.step(&format!("no release archive: {}", chain(&release)));
    let go = go::install(&options.go, guard, progress).await;
    go.map_err(|go| ProvisionError::NoWay(Ways { release, go }))
}

const NAME_ONE: &str = "set `TEMPORAL_SERVER_BIN` to a temporal-server 1.31.2 of your own";
