//! Credential files on disk: replaced as a whole, never written in place, private where necessary.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use secrecy::{ExposeSecret, SecretString};
use tracing::info;

/// The permissions of a file that this crate writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `0600`, for private keys and tokens.
    Private,
    /// `0644`, for certificates, key sets and other public material.
    Public,
}

/// One file operation of a [`Change`]. The process may die between any two operations, so their
/// order is part of the design of a change.
#[derive(Debug)]
pub enum Operation {
    /// Replaces a file, see [`replace`].
    Replace {
        /// The file to replace.
        path: PathBuf,
        /// The new content. It may be a private key, so `Debug` does not show it.
        content: SecretString,
        /// The permissions of the new file.
        mode: Mode,
    },
    /// Removes a file, see [`remove`].
    Remove {
        /// The file to remove.
        path: PathBuf,
    },
    /// Writes the new content of a file beside it, for [`Operation::Switch`].
    Stage {
        /// The file to replace later.
        path: PathBuf,
        /// The new content. `Debug` does not show it.
        content: SecretString,
        /// The permissions of the new file.
        mode: Mode,
    },
    /// Renames the staged content to the file. The rename survives a power failure.
    Switch {
        /// The file to replace.
        path: PathBuf,
    },
}

impl Operation {
    /// Replaces a file that every user may read.
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

    /// Performs the operation.
    ///
    /// # Errors
    /// [`WriteError`]. The file is left unchanged.
    pub fn apply(&self) -> Result<(), WriteError> {
        match self {
            Self::Replace {
                path,
                content,
                mode,
            } => replace(path, content.expose_secret().as_bytes(), *mode),
            Self::Remove { path } => remove(path),
            Self::Stage {
                path,
                content,
                mode,
            } => write(
                path,
                &staged(path),
                content.expose_secret().as_bytes(),
                *mode,
            ),
            Self::Switch { path } => switch(path),
        }
    }
}

/// A list of file operations, in order. All contents are made before the first file is written, so
/// a failure to make one changes nothing.
#[derive(Debug, Default)]
#[must_use = "nothing is written before it is applied"]
pub struct Change(Vec<Operation>);

impl Change {
    /// Creates a change of these operations.
    pub fn new(operations: Vec<Operation>) -> Self {
        Self(operations)
    }

    /// Performs all operations.
    ///
    /// # Errors
    /// [`WriteError`] of the first operation that failed. The operations before it are done, those
    /// after it are not.
    pub fn apply(&self) -> Result<(), WriteError> {
        self.0.iter().try_for_each(Operation::apply)
    }

    /// The operations, in order.
    pub fn operations(&self) -> &[Operation] {
        &self.0
    }

    /// Performs the first `count` operations, as a process does that dies after them.
    #[cfg(test)]
    pub(crate) fn apply_first(&self, count: usize) -> Result<(), WriteError> {
        self.0.iter().take(count).try_for_each(Operation::apply)
    }
}

/// An exclusive lock on a folder, held while files in it are read and changed. The kernel releases
/// it when the process dies.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held, not used")] File);

impl Lock {
    /// Waits for the lock of this folder, which is created if it is missing, for up to 30 s.
    ///
    /// Unfinished files that an interrupted [`replace`] left in the folder are removed.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn wait(folder: &Path) -> Result<Self, LockError> {
        Self::wait_for(folder, LOCK_LIMIT)
    }

    /// Returns the process that holds the lock of this folder at the moment, without waiting.
    pub fn held_by(folder: &Path) -> Option<String> {
        let path = folder.join(LOCK);
        // Opening a FIFO would block.
        if !fs::metadata(&path).ok()?.is_file() {
            return None;
        }
        let file = File::open(&path).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Some(holder(&path)),
            _ => None,
        }
    }

    fn wait_for(folder: &Path, limit: Duration) -> Result<Self, LockError> {
        let path = folder.join(LOCK);
        let locked = || -> io::Result<File> {
            create_folder(folder)?;
            // The lock file is never replaced: all callers must lock the same file.
            let mut file = open_private(&path)?;
            let begun = Instant::now();
            let mut logged = false;
            while let Err(error) = file.try_lock() {
                match error {
                    TryLockError::WouldBlock => {}
                    TryLockError::Error(error) => return Err(error),
                }
                let holder = holder(&path);
                if begun.elapsed() >= limit {
                    let waited = limit.as_secs();
                    return Err(io::Error::other(format!(
                        "{holder} holds the lock, and did not release it within {waited} s: end it \
                         if it hangs"
                    )));
                }
                // `held_by` holds the lock for an instant only: that is not worth a line of the
                // log.
                if !logged && begun.elapsed() >= LOG_AFTER {
                    info!(path = %path.display(), holder, "waiting for the lock");
                    logged = true;
                }
                thread::sleep(POLL);
            }
            // For messages alone, which work without it: the disk may be full.
            let _ = file
                .set_len(0)
                .and_then(|()| write!(file, "{}", std::process::id()));
            sweep(folder, Duration::ZERO)?;
            Ok(file)
        };
        locked().map(Self).map_err(|source| LockError {
            path: path.clone(),
            source,
        })
    }
}

/// The name of the lock file.
const LOCK: &str = ".lock";

/// The longest wait for a lock. A change of files takes milliseconds.
pub const LOCK_LIMIT: Duration = Duration::from_secs(30);

/// How long a wait for a lock lasts before it is logged.
const LOG_AFTER: Duration = Duration::from_millis(500);

/// The pause between two attempts to take a lock: no lock of the standard library has a time limit.
const POLL: Duration = Duration::from_millis(20);

/// Opens a lock file. It is private: a user who can open it can hold the lock, and block all
/// changes.
fn open_private(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.append(true).create(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
        let file = options.mode(0o600).open(path)?;
        if file.metadata()?.permissions().mode() & 0o077 != 0 {
            file.set_permissions(fs::Permissions::from_mode(0o600))?;
        }
        Ok(file)
    }
    #[cfg(not(unix))]
    options.open(path)
}

/// Returns the name of the process that holds the lock, as it recorded it.
fn holder(path: &Path) -> String {
    let recorded = fs::read_to_string(path).unwrap_or_default();
    match recorded.parse::<u32>() {
        Ok(id) => format!("process {id}"),
        Err(_) => "another process".to_owned(),
    }
}

/// Removes the temporary files of interrupted [`replace`] calls that are at least this old. Private
/// keys may be among them.
///
/// # Errors
/// When the folder cannot be read or a file cannot be removed.
pub fn sweep(folder: &Path, least_age: Duration) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with(UNFINISHED) || entry.file_type()?.is_dir() {
            continue;
        }
        // After the clock was set back, files have modification times in the future. The metadata
        // is that of a link itself, because its target may be missing.
        let age = entry.metadata()?.modified()?.elapsed();
        if least_age.is_zero() || age.is_ok_and(|age| age >= least_age) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The prefix of files that are not renamed yet.
pub(crate) const UNFINISHED: &str = ".unfinished-";

/// Removes a file if it exists. The removal survives a power failure once this function returns.
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

/// Returns the folder of a file.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Replaces the file at `path`. A reader sees either the old file or the new one, and the new one
/// survives a power failure once this function returns.
///
/// The content is written and synced to a temporary file in the same folder, because a rename does
/// not cross file systems, and then renamed. Missing parent folders are created with mode `0700`.
///
/// # Errors
/// [`WriteError`], which names the path. The old file is left in place.
pub fn replace(path: &Path, content: &[u8], mode: Mode) -> Result<(), WriteError> {
    write(path, path, content, mode)
}

/// Renames what [`Operation::Stage`] has written to the file at `path`. The rename survives a power
/// failure once this function returns.
///
/// # Errors
/// [`WriteError`]. The old file and the staged one are left in place.
pub(crate) fn switch(path: &Path) -> Result<(), WriteError> {
    let switched = fs::rename(staged(path), path);
    switched
        .and_then(|()| File::open(folder_of(path))?.sync_all())
        .map_err(|source| WriteError {
            path: path.to_owned(),
            source,
        })
}

/// Returns where [`Operation::Stage`] writes the new content of the file at `path`.
pub(crate) fn staged(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    folder_of(path).join(format!(".new-{name}"))
}

/// Writes the new content of `path` to `to` in the same folder.
fn write(path: &Path, to: &Path, content: &[u8], mode: Mode) -> Result<(), WriteError> {
    let written =
        create_folder(folder_of(path)).and_then(|()| write_and_rename(path, to, content, mode));
    written.map_err(|source| WriteError {
        path: path.to_owned(),
        source,
    })
}

fn write_and_rename(path: &Path, to: &Path, content: &[u8], mode: Mode) -> io::Result<()> {
    let folder = folder_of(path);
    // tempfile creates the file with mode 0600, so a private key is never readable by other users.
    let mut file = tempfile::Builder::new()
        .prefix(UNFINISHED)
        .tempfile_in(folder)?;
    file.write_all(content)?;
    if mode == Mode::Public {
        make_public(file.as_file())?;
    }
    keep_owner(path, file.as_file(), mode)?;
    file.as_file().sync_all()?;
    file.persist(to).map_err(|error| error.error)?;
    // The rename is durable only once the folder is synced.
    fs::File::open(folder)?.sync_all()
}

#[cfg(unix)]
fn make_public(file: &fs::File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

/// Keeps the owner and group of the file that is replaced; otherwise a service could lose access to
/// its own credentials. A private file that its group may read stays readable by the group; one
/// that every user may read becomes private.
#[cfg(unix)]
fn keep_owner(path: &Path, file: &File, mode: Mode) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
    let Ok(before) = fs::metadata(path) else {
        return Ok(());
    };
    let now = file.metadata()?;
    if (before.uid(), before.gid()) != (now.uid(), now.gid()) {
        match fchown(file, Some(before.uid()), Some(before.gid())) {
            // A process that may not change owners either created the old file or has taken over
            // from another user.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
            changed => changed?,
        }
    }
    if mode == Mode::Private && before.mode() & 0o077 == 0o040 {
        file.set_permissions(fs::Permissions::from_mode(0o640))?;
    }
    Ok(())
}

/// Gives a file or folder the owner, group and permissions of another one.
#[cfg(unix)]
pub(crate) fn copy_permissions(from: &Path, to: &Path) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    let (like, now) = (fs::metadata(from)?, fs::metadata(to)?);
    if (like.uid(), like.gid()) != (now.uid(), now.gid()) {
        match chown(to, Some(like.uid()), Some(like.gid())) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
            changed => changed?,
        }
    }
    fs::set_permissions(to, fs::Permissions::from_mode(like.mode() & 0o7777))
}

#[cfg(not(unix))]
pub(crate) fn copy_permissions(_: &Path, _: &Path) -> io::Result<()> {
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

/// Creates the folder and its missing parents with mode `0700`.
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

/// Returns a hint for an error caused by a file in the place of a folder.
pub(crate) fn folder_hint(error: &io::Error) -> Option<&'static str> {
    let in_the_way = [io::ErrorKind::NotADirectory, io::ErrorKind::AlreadyExists];
    in_the_way
        .contains(&error.kind())
        .then_some("`--dir` names a file, or a folder below one: name another folder")
}

/// The folder could not be locked.
#[expect(missing_docs, reason = "the message says what a field is")]
#[derive(Debug, thiserror::Error)]
#[error("failed to lock the folder with `{}`", path.display())]
pub struct LockError {
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

/// A file could not be written or removed.
#[derive(Debug, thiserror::Error)]
#[error("failed to write `{}`", path.display())]
pub struct WriteError {
    /// The file to write or remove.
    pub path: PathBuf,
    /// The cause.
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
    fn a_lock_is_private_and_a_wait_for_it_ends_with_the_name_of_its_holder() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".lock");
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let _held = Lock::wait(folder.path()).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let error = Lock::wait_for(folder.path(), Duration::from_millis(50)).unwrap_err();

        let words = format!("process {} holds the lock", std::process::id());
        assert!(error.source.to_string().contains(&words), "{error:?}");
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
