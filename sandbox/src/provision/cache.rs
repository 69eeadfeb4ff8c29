//! The binaries that this user already has.

use std::env::{self, consts};
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{self, Path, PathBuf};
use std::time::Duration;

use tokio::time::sleep;

use super::progress::Progress;
use super::{Options, VERSION, version};

/// A folder with one entry per version and platform.
///
/// An entry appears by a rename of a file that is complete, on disk, and has answered.
#[derive(Debug)]
pub(super) struct Cache {
    root: PathBuf,
    entry: PathBuf,
}

impl Cache {
    pub(super) fn open(options: &Options) -> Result<Self, CacheError> {
        let root = match &options.cache_dir {
            Some(folder) => folder.clone(),
            None => user_cache(|name| env::var_os(name), env::home_dir())
                .ok_or(CacheError::NoHome)?
                .join("temporal-sandbox"),
        };
        let name = format!("server-{VERSION}-{}-{}", consts::OS, consts::ARCH);
        let open = || {
            let root = path::absolute(&root)?;
            let entry = root.join(name);
            fs::create_dir_all(&entry)?;
            Ok(Self { root, entry })
        };
        open().map_err(|source| CacheError::Folder {
            path: root.clone(),
            source,
        })
    }

    /// Where to work, on the file system of the entries.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The cached binary, if there is one and it still answers.
    pub(super) async fn binary(&self, progress: &dyn Progress) -> Option<PathBuf> {
        let path = self.entry_binary();
        if !path.exists() {
            return None;
        }
        let checked = version::check(&path).await;
        if let Err(error) = &checked {
            progress.step(&format!("replacing a cached server: {error}"));
        }
        checked.ok()
    }

    /// Waits until nobody else provisions. The kernel frees the lock of a process that dies.
    pub(super) async fn lock(&self, progress: &dyn Progress) -> Result<File, CacheError> {
        let path = self.entry.join("lock");
        let failed = |source| CacheError::Lock {
            path: path.clone(),
            source,
        };
        let file = File::create(&path).map_err(failed)?;
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(source)) => return Err(failed(source)),
                // Asked again and again: a thread that waits in the kernel could not be cancelled.
                Err(TryLockError::WouldBlock) => {
                    if !told {
                        progress.step("waiting for another process that fetches temporal-server");
                        told = true;
                    }
                    sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }

    /// Takes a complete binary from a folder in [`Self::root`] in.
    pub(super) fn adopt(&self, binary: &Path) -> Result<PathBuf, CacheError> {
        let path = self.entry_binary();
        File::open(binary)
            // Or the rename could reach the disk before the content does.
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(binary, &path))
            .map_err(|source| CacheError::Adopt {
                path: path.clone(),
                source,
            })?;
        Ok(path)
    }

    fn entry_binary(&self) -> PathBuf {
        self.entry.join("temporal-server")
    }
}

/// Why the cache cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// Nobody knows where it is.
    #[error("this user has no home folder; set `TEMPORAL_SANDBOX_CACHE` to a folder")]
    NoHome,
    /// The folder could not be made.
    #[error("failed to make the folder `{}`; set `TEMPORAL_SANDBOX_CACHE` to one that is writable", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It could not be locked.
    #[error("failed to lock `{}`; set `TEMPORAL_SANDBOX_CACHE` to a folder on a local disk", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The binary could not be taken in.
    #[error("failed to store `{}`; is there room?", path.display())]
    Adopt {
        /// The entry.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Where programs keep what they can make again.
fn user_cache(
    variable: impl Fn(&str) -> Option<OsString>,
    home: Option<PathBuf>,
) -> Option<PathBuf> {
    if cfg!(target_os = "macos") {
        return Some(home?.join("Library/Caches"));
    }
    // The XDG specification says to ignore a relative path.
    variable("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| Some(home?.join(".cache")))
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
            let found = user_cache(|_| variable.map(Into::into), home.map(Into::into));
            assert_eq!(found, expected.map(PathBuf::from));
        }
    }
}
