//! Credential files on disk: replaced as a whole, never written into, private where they must be.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use secrecy::{ExposeSecret, SecretString};
use tracing::info;

/// Who may read a file that this crate writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `0600`: private keys and tokens.
    Private,
    /// `0644`: certificates, key sets and other public material.
    Public,
}

/// One of the steps in which a set of files changes. Between any two of them the process may die,
/// so the order of a [`Change`] is a part of its design.
#[derive(Debug)]
pub enum Operation {
    /// [`replace`].
    Replace {
        /// The file.
        path: PathBuf,
        /// What it is to hold; private keys too, so never in the `Debug` output.
        content: SecretString,
        /// Who may read it.
        mode: Mode,
    },
    /// [`remove`].
    Remove {
        /// The file.
        path: PathBuf,
    },
}

impl Operation {
    /// Replaces a file that everybody may read.
    pub fn publish(path: PathBuf, content: impl Into<SecretString>) -> Self {
        Self::Replace {
            path,
            content: content.into(),
            mode: Mode::Public,
        }
    }

    /// Replaces a file that only its owner may read.
    pub fn keep(path: PathBuf, content: SecretString) -> Self {
        Self::Replace {
            path,
            content,
            mode: Mode::Private,
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// [`WriteError`]. The file is then as it was.
    pub fn apply(&self) -> Result<(), WriteError> {
        match self {
            Self::Replace {
                path,
                content,
                mode,
            } => replace(path, content.expose_secret().as_bytes(), *mode),
            Self::Remove { path } => remove(path),
        }
    }
}

/// What is to be done to a set of files, in this order. Made in memory first: what cannot be made
/// changes nothing.
#[derive(Debug, Default)]
#[must_use = "nothing is written before it is applied"]
pub struct Change(Vec<Operation>);

impl Change {
    /// These operations, in this order.
    pub fn new(operations: Vec<Operation>) -> Self {
        Self(operations)
    }

    /// Does all of it.
    ///
    /// # Errors
    /// [`WriteError`] of the first operation that failed. Those before it are done, those after it
    /// are not.
    pub fn apply(&self) -> Result<(), WriteError> {
        self.0.iter().try_for_each(Operation::apply)
    }

    /// The operations. A test that kills the process between two of them applies only the first.
    pub fn operations(&self) -> &[Operation] {
        &self.0
    }

    /// What a process leaves behind that dies after `count` operations.
    #[cfg(test)]
    pub(crate) fn apply_first(&self, count: usize) -> Result<(), WriteError> {
        self.0.iter().take(count).try_for_each(Operation::apply)
    }
}

/// Held while a set of files is looked at and changed. The kernel lets go of it when the process
/// dies.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held, not used")] File);

impl Lock {
    /// Waits until nobody else holds the lock of this folder, which is made if it is missing.
    ///
    /// What an interrupted [`replace`] of a former holder has left in the folder is removed.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn wait(folder: &Path) -> Result<Self, LockError> {
        let path = folder.join(".lock");
        let locked = || -> io::Result<File> {
            create_folder(folder)?;
            // Never replaced: two callers must lock one and the same file.
            let file = File::options().append(true).create(true).open(&path)?;
            if let Err(TryLockError::WouldBlock) = file.try_lock() {
                info!(path = %path.display(), "waiting for another process that holds the lock");
                file.lock()?;
            }
            sweep(folder, Duration::ZERO)?;
            Ok(file)
        };
        locked().map(Self).map_err(|source| LockError {
            path: path.clone(),
            source,
        })
    }
}

/// Removes what [`replace`] has not come to rename, of at least this age. Private keys are among it.
///
/// # Errors
/// When the folder cannot be read, or a file not be removed.
pub fn sweep(folder: &Path, least_age: Duration) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with(UNFINISHED) || !entry.file_type()?.is_file() {
            continue;
        }
        // A clock that was set back makes files of the future.
        let age = entry.metadata()?.modified()?.elapsed();
        if least_age.is_zero() || age.is_ok_and(|age| age >= least_age) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// How the names of files begin that are not renamed yet.
const UNFINISHED: &str = ".unfinished-";

/// Removes a file, if it is there, so that it stays away over a power cut once this returns.
///
/// # Errors
/// [`WriteError`], which names the path.
pub fn remove(path: &Path) -> Result<(), WriteError> {
    let removed = match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        removed => removed,
    };
    removed
        .and_then(|()| File::open(folder_of(path))?.sync_all())
        .map_err(|source| WriteError {
            path: path.to_owned(),
            source,
        })
}

/// The folder that a file is in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Replaces `path` by a file with this content, so that a reader sees the old file or the new one
/// and never half of either, and so that the new one survives a power cut once this returns.
///
/// A temporary file in the same folder (a rename does not cross file systems) is written, synced
/// and renamed. Missing parent folders are made, with mode `0700`.
///
/// # Errors
/// [`WriteError`], which names the path. Whatever stood at `path` before is then still there.
pub fn replace(path: &Path, content: &[u8], mode: Mode) -> Result<(), WriteError> {
    let failed = |source| WriteError {
        path: path.to_owned(),
        source,
    };
    let folder = folder_of(path);
    create_folder(folder).map_err(failed)?;
    write_and_rename(folder, path, content, mode).map_err(failed)
}

fn write_and_rename(folder: &Path, path: &Path, content: &[u8], mode: Mode) -> io::Result<()> {
    use io::Write;

    // tempfile creates with 0600, so a private key is never readable by others, not even briefly.
    let mut file = tempfile::Builder::new()
        .prefix(UNFINISHED)
        .tempfile_in(folder)?;
    file.write_all(content)?;
    if mode == Mode::Public {
        make_public(file.as_file())?;
    }
    keep_owner(path, file.as_file(), mode)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    // The rename itself is durable only once the folder is synced.
    fs::File::open(folder)?.sync_all()
}

#[cfg(unix)]
fn make_public(file: &fs::File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

/// A file that belongs to the user or group of a service goes on belonging to it, or the service
/// would be cut off from its own credentials. A group that may read a private file may still; one
/// that everybody may read becomes private.
#[cfg(unix)]
fn keep_owner(path: &Path, file: &File, mode: Mode) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
    let Ok(before) = fs::metadata(path) else {
        return Ok(());
    };
    let now = file.metadata()?;
    if (before.uid(), before.gid()) != (now.uid(), now.gid()) {
        match fchown(file, Some(before.uid()), Some(before.gid())) {
            // Who may not give files away has made the one before, or took over from somebody.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
            changed => changed?,
        }
    }
    if mode == Mode::Private && before.mode() & 0o077 == 0o040 {
        file.set_permissions(fs::Permissions::from_mode(0o640))?;
    }
    Ok(())
}

#[cfg(not(unix))]
fn keep_owner(_: &Path, _: &File, _: Mode) -> io::Result<()> {
    Ok(())
}

#[cfg(not(unix))]
fn make_public(_: &fs::File) -> io::Result<()> {
    Ok(())
}

/// Makes the folder and its parents, with mode `0700`, as far as they are missing.
#[cfg(unix)]
pub(crate) fn create_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
}

#[cfg(not(unix))]
pub(crate) fn create_folder(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)
}

/// What to do where a file stands in the place of a folder.
pub(crate) fn folder_hint(error: &io::Error) -> Option<&'static str> {
    let in_the_way = [io::ErrorKind::NotADirectory, io::ErrorKind::AlreadyExists];
    in_the_way
        .contains(&error.kind())
        .then_some("`--dir` names a file, or a folder below one: name another folder")
}

/// Somebody else's lock could not be waited for.
#[expect(missing_docs, reason = "the message says what a field is")]
#[derive(Debug, thiserror::Error)]
#[error("failed to lock the folder by `{}`", path.display())]
pub struct LockError {
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

/// A file could not be written or removed.
#[derive(Debug, thiserror::Error)]
#[error("failed to write `{}`", path.display())]
pub struct WriteError {
    /// The file that was to be written or removed.
    pub path: PathBuf,
    /// Why it was not.
    #[source]
    pub source: io::Error,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("occupied");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("inside"), "old").unwrap();

        let error = replace(&path, b"new", Mode::Public).unwrap_err();

        assert!(error.to_string().contains("occupied"), "{error}");
        assert_eq!(fs::read(path.join("inside")).unwrap(), b"old");
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "a temporary file was left: {left:?}");
    }

    #[test]
    fn who_gets_the_lock_finds_nothing_unfinished() {
        let folder = tempfile::tempdir().unwrap();
        let unfinished = folder.path().join(".unfinished-Ab12");
        fs::write(&unfinished, "half a key").unwrap();
        fs::write(folder.path().join("current.pem"), "a key").unwrap();

        let _lock = Lock::wait(folder.path()).unwrap();

        assert!(!unfinished.exists());
        assert!(folder.path().join("current.pem").exists());
    }

    #[cfg(unix)]
    #[test]
    fn a_group_that_may_read_a_private_file_still_may() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tls.key");
        for (before, after) in [
            (0o640, 0o640),
            (0o440, 0o640),
            (0o644, 0o600),
            (0o660, 0o600),
        ] {
            fs::write(&path, "old").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(before)).unwrap();
            replace(&path, b"new", Mode::Private).unwrap();
            let found = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!(found, after, "{before:o} became {found:o}");
            fs::remove_file(&path).unwrap();
        }
    }

    #[cfg(unix)]
    #[test]
    fn modes_hold_even_over_a_wider_old_file() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tls.key");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();

        for (mode, bits) in [(Mode::Private, 0o600), (Mode::Public, 0o644)] {
            replace(&path, b"new", mode).unwrap();
            let found = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!(found, bits, "{mode:?}: {found:o}");
        }
    }
}
