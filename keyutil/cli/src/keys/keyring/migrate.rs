//! Folders of earlier versions: `current.pem` was beside `next.pem`.
//!
//! The key is copied to `active/current.pem`, and a symbolic link replaces the old file in one
//! step: a reader of either path always finds a key. A process that dies in between leaves both
//! files with the same key, and the next run completes the migration.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use tracing::info;

use super::{ACTIVE, CURRENT, Keyring, KeyringError, read_if_there};
use crate::files::{self, Mode, WriteError};

impl Keyring {
    /// Moves the key that signs to [`current_path`](Self::current_path), if an earlier version has
    /// left it beside the other files. Readers of the old path find a symbolic link.
    ///
    /// # Errors
    /// [`KeyringError`]. The old file is left in place.
    pub fn migrate(&self) -> Result<(), KeyringError> {
        if self.is_of_an_earlier_version() {
            self.lock()?;
        }
        Ok(())
    }

    /// Returns the path of the key that signs in earlier versions.
    pub(super) fn earlier_path(&self) -> PathBuf {
        self.folder.join(CURRENT)
    }

    pub(super) fn migrate_locked(&self) -> Result<(), KeyringError> {
        if !self.is_of_an_earlier_version() {
            return Ok(());
        }
        let (earlier, current) = (self.earlier_path(), self.current_path());
        let Some(key) = read_if_there(&earlier)? else {
            return Ok(());
        };
        let folder = self.active_folder();
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| WriteError { path, source }
        };
        match read_if_there(&current)? {
            Some(moved) if moved != key => {
                return Err(KeyringError::TwoCurrent { earlier, current });
            }
            Some(_) => {}
            None => files::replace(&current, &key, Mode::Private)?,
        }
        // Users who could read the key before can still read it.
        files::copy_permissions(&self.folder, &folder).map_err(failed(&folder))?;
        files::copy_permissions(&earlier, &current).map_err(failed(&current))?;
        link(&self.folder).map_err(failed(&earlier))?;
        info!(
            from = %earlier.display(),
            to = %current.display(),
            "signing key moved; the old path is a symbolic link now"
        );
        Ok(())
    }

    pub(super) fn is_of_an_earlier_version(&self) -> bool {
        let (earlier, current) = (self.earlier_path(), self.current_path());
        earlier.symlink_metadata().is_ok()
            && fs::read_link(&earlier).ok() != Some(Path::new(ACTIVE).join(CURRENT))
            // Where the new path leads to the old file, as a link or a mount, a link in its place would
            // lead to itself, and the key would be lost.
            && !same_file(&earlier, &current)
    }
}

#[cfg(unix)]
fn same_file(one: &Path, other: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |path| fs::metadata(path).map(|file| (file.dev(), file.ino()));
    matches!((id(one), id(other)), (Ok(one), Ok(other)) if one == other)
}

#[cfg(not(unix))]
fn same_file(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

/// Replaces the old file with a link to the new one.
#[cfg(unix)]
fn link(folder: &Path) -> io::Result<()> {
    let made = tempfile::Builder::new()
        .prefix(files::UNFINISHED)
        .make_in(folder, |path| {
            std::os::unix::fs::symlink(Path::new(ACTIVE).join(CURRENT), path)
        })?;
    made.into_temp_path().persist(folder.join(CURRENT))?;
    fs::File::open(folder)?.sync_all()
}

#[cfg(not(unix))]
fn link(folder: &Path) -> io::Result<()> {
    fs::remove_file(folder.join(CURRENT))
}
