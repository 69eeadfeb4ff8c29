//! The file that the token is written to, for one process at a time.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};

use super::RenewalError;
use crate::files::{self, LockError, Mode, create_folder, folder_of, sweep};
use keyutil::{
    base::read::{MAX_FILE_SIZE, read_regular},
    credentials::Token,
};

/// How long ago what a killed agent has left was written, at least: another one may be writing.
const STALE: Duration = Duration::from_secs(60);

/// The file, and the lock that keeps a second agent from it.
#[derive(Debug)]
pub(super) struct Output {
    path: PathBuf,
    lock: Mutex<OutputLock>,
}

impl Output {
    /// For this process alone, as long as it holds it.
    pub(super) fn take(path: PathBuf) -> Result<Self, RenewalError> {
        refuse_what_is_no_token(&path)?;
        let lock = OutputLock::of(&path)?;
        // Tokens of an agent that was killed while it wrote one. Those that stay expire.
        let _ = sweep(folder_of(&path), STALE);
        let lock = Mutex::new(lock);
        Ok(Self { path, lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whoever cleans the folder up takes the lock away, and would make room for a second agent.
    pub(super) fn keep(&self) -> Result<(), RenewalError> {
        let mut lock = self.lock.lock();
        if !lock.is_in_place() {
            *lock = OutputLock::of(&self.path)?;
        }
        Ok(())
    }

    /// Whether it has this content, and not for everybody.
    pub(super) fn holds(&self, content: &SecretString) -> bool {
        let expected = content.expose_secret().as_bytes();
        let found = read_regular(&self.path, MAX_FILE_SIZE);
        found.is_ok_and(|found| found == expected) && !is_open_to_all(&self.path)
    }

    pub(super) fn write(&self, content: &SecretString) -> Result<(), RenewalError> {
        let content = content.expose_secret().as_bytes();
        files::replace(&self.path, content, Mode::Private).map_err(RenewalError::Write)
    }
}

/// Whoever mixes up two flags must not lose a key by it.
fn refuse_what_is_no_token(output: &Path) -> Result<(), RenewalError> {
    let path = || output.to_owned();
    if output.is_symlink() {
        return Err(RenewalError::Link { path: path() });
    }
    match read_regular(output, MAX_FILE_SIZE) {
        Ok(content) if is_token(&content) => Ok(()),
        Ok(_) => Err(RenewalError::NotAToken { path: path() }),
        Err(failure) if failure.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(RenewalError::Read {
            path: path(),
            source,
        }),
    }
}

/// An empty file is what `touch` leaves, and expired tokens are what another run has left.
fn is_token(content: &[u8]) -> bool {
    content.trim_ascii().is_empty() || Token::parse_file(content, UNIX_EPOCH).is_ok()
}

#[cfg(unix)]
fn is_open_to_all(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).is_ok_and(|found| found.mode() & 0o007 != 0)
}

#[cfg(not(unix))]
fn is_open_to_all(_: &Path) -> bool {
    false
}

/// Two that write one file would write over each other's token again and again.
#[derive(Debug)]
struct OutputLock {
    path: PathBuf,
    file: File,
}

impl OutputLock {
    fn of(output: &Path) -> Result<Self, RenewalError> {
        let name = output.file_name().ok_or(RenewalError::NotAPath)?;
        let path = folder_of(output).join(format!(".{}.lock", name.to_string_lossy()));
        let failed = |source| {
            RenewalError::Lock(LockError {
                path: path.clone(),
                source,
            })
        };
        create_folder(folder_of(output)).map_err(failed)?;
        // Opening a pipe would hang.
        if fs::metadata(&path).is_ok_and(|found| !found.is_file()) {
            return Err(failed(io::Error::other("not a regular file")));
        }
        let file = private().open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { path, file }),
            Err(TryLockError::Error(source)) => Err(failed(source)),
            Err(TryLockError::WouldBlock) => Err(RenewalError::Taken {
                path: output.to_owned(),
            }),
        }
    }

    /// Whether the next one would find this lock, and not make one of its own.
    #[cfg(unix)]
    fn is_in_place(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        let id = |found: fs::Metadata| (found.dev(), found.ino());
        match (self.file.metadata(), fs::metadata(&self.path)) {
            (Ok(ours), Ok(there)) => id(ours) == id(there),
            _ => false,
        }
    }

    #[cfg(not(unix))]
    fn is_in_place(&self) -> bool {
        self.path.exists() && self.file.metadata().is_ok()
    }
}

/// Others could keep the next agent away by a lock of their own. Never removed: two callers must
/// lock one and the same file.
fn private() -> fs::OpenOptions {
    let mut options = File::options();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}
