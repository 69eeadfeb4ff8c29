//! The signing keys on disk: next → current → previous.
//!
//! The server fetches the key set at intervals and never because of an unknown `kid`
//! (`default_token_key_provider.go`). So a key is published before it signs, and stays published
//! for as long as a token of its may live. At any time exactly one key signs.
//!
//! | what | file |
//! |---|---|
//! | how long a key waits, and how long it stays | `policy.rs` |
//! | what the files say, taken together | `ring.rs` |
//! | what a step writes, in which order | `rotate.rs` |
//! | rotations that are made when they are due | `schedule.rs` |
//! | what can go wrong | `error.rs` |

mod error;
mod policy;
mod ring;
mod rotate;
mod schedule;

#[cfg(test)]
mod tests;

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use secrecy::SecretString;
use tracing::info;

pub use error::KeyringError;
pub use policy::{PolicyError, RotationPolicy, RotationTimes};
pub use ring::{Ring, RingKey, State};
pub use rotate::{Generated, Rotated};
pub use schedule::Schedule;

use self::{
    ring::{KeyringFiles, Record},
    rotate::Rotation,
};
use super::Jwks;
use crate::files::Lock;
use keyutil::{
    base::read::{MAX_FILE_SIZE, read_at_most, read_regular},
    token::SigningKey,
};

/// The folder of one ring, with the file names of this project's `certs/signing`.
#[derive(Clone, Debug)]
pub struct Keyring {
    folder: PathBuf,
}

impl Keyring {
    /// The ring in this folder, which need not exist yet.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
        }
    }

    /// The private key that signs now.
    pub fn current_path(&self) -> PathBuf {
        self.folder.join("current.pem")
    }

    /// The private key that is published and will sign next.
    pub fn next_path(&self) -> PathBuf {
        self.folder.join("next.pem")
    }

    /// The public halves: what the endpoint serves.
    pub fn jwks_path(&self) -> PathBuf {
        self.folder.join("jwks.json")
    }

    /// When each key was published, began to sign and stopped.
    pub fn ring_path(&self) -> PathBuf {
        self.folder.join("ring.json")
    }

    /// Whether there is a key that signs.
    pub fn exists(&self) -> bool {
        self.current_path().exists()
    }

    /// Makes a new ring of two P-256 keys, and writes its four files.
    ///
    /// # Errors
    /// [`KeyringError::Exists`] when there is a key already and `replace` is not set; nothing is
    /// changed then. Two callers at once wait for each other.
    pub fn generate(
        &self,
        replace: bool,
        clock: impl FnOnce() -> SystemTime,
    ) -> Result<Generated, KeyringError> {
        let _lock = Lock::wait(&self.folder)?;
        if self.exists() && !replace {
            return Err(KeyringError::Exists {
                path: self.current_path(),
            });
        }
        // One that cannot be read signs nothing.
        let before = read_signing_key(&self.current_path()).ok();
        rotate::generate(self, before.as_ref(), clock())?.apply()
    }

    /// Lets the next key sign, publishes a new next one, and takes keys out of the key set that no
    /// live token needs. Goes on where an earlier run was interrupted.
    ///
    /// # Errors
    /// [`KeyringError::TooEarly`] until the next key has been published long enough; nothing is
    /// changed then, unless there is no next key, which is then published.
    pub fn rotate(
        &self,
        policy: &RotationPolicy,
        clock: impl FnOnce() -> SystemTime,
    ) -> Result<Rotated, KeyringError> {
        self.rotate_by(Rotation::InTurn(policy), clock)
    }

    /// Lets the next key sign at once, however short it has been published, and drops the one that
    /// signed: its tokens are refused as soon as the servers fetch the key set again.
    ///
    /// # Errors
    /// [`KeyringError::NoNext`], and [`KeyringError::FinishedFirst`] when an ordinary rotation had
    /// been interrupted.
    pub fn rotate_in_emergency(
        &self,
        clock: impl FnOnce() -> SystemTime,
    ) -> Result<Rotated, KeyringError> {
        self.rotate_by(Rotation::Emergency, clock)
    }

    fn rotate_by(
        &self,
        rotation: Rotation<'_>,
        clock: impl FnOnce() -> SystemTime,
    ) -> Result<Rotated, KeyringError> {
        let _lock = self.lock()?;
        let found = self.find(match rotation {
            Rotation::InTurn(_) => Broken::Refused,
            // What cannot sign is to be replaced.
            Rotation::Emergency => Broken::Missing,
        })?;
        let rotated = rotate::rotate(self, &found, rotation, clock())?.apply()?;
        info!(
            before = rotated.before,
            now = rotated.now,
            next = rotated.next,
            removed = rotated.removed.join(", "),
            "signing key rotated"
        );
        Ok(rotated)
    }

    /// Takes keys out of the key set that no live token needs any more, and returns their `kid`s.
    ///
    /// # Errors
    /// [`KeyringError`], when the ring cannot be read or written.
    pub fn retire(
        &self,
        policy: &RotationPolicy,
        clock: impl FnOnce() -> SystemTime,
    ) -> Result<Vec<String>, KeyringError> {
        let _lock = self.lock()?;
        let found = self.find(Broken::Refused)?;
        let removed = rotate::retire(self, &found, policy, clock())?.apply()?;
        if !removed.is_empty() {
            info!(
                removed = removed.join(", "),
                "signing keys taken out of the key set"
            );
        }
        Ok(removed)
    }

    /// The ring as it is.
    ///
    /// # Errors
    /// [`KeyringError`], when a file of it is broken, or nothing signs.
    pub fn look(&self, now: SystemTime) -> Result<Ring, KeyringError> {
        // A ring on a read-only file system is changed by no other process.
        let _lock = match self.lock() {
            Err(KeyringError::Lock(_)) => None,
            lock => Some(lock?),
        };
        let ring = Ring::of(&self.find(Broken::Refused)?, now)?;
        if ring.keys().next().is_none() {
            return Err(KeyringError::NothingSigns {
                path: self.current_path(),
            });
        }
        Ok(ring)
    }

    /// The published document.
    ///
    /// # Errors
    /// [`KeyringError`], when it cannot be read or must not be published.
    pub fn jwks(&self) -> Result<Jwks, KeyringError> {
        let path = self.jwks_path();
        let text = read_regular(&path, MAX_FILE_SIZE);
        let text = text.map_err(|source| KeyringError::Read { path, source })?;
        Ok(Jwks::parse(&text)?)
    }

    /// Locks a ring that is there; a path that was mistyped is not made.
    ///
    /// The time is asked for under the lock: with one from before a long wait for the lock, a wait
    /// that is counted from it would be too short.
    fn lock(&self) -> Result<Lock, KeyringError> {
        let path = self.folder.clone();
        fs::metadata(&path).map_err(|source| KeyringError::Read { path, source })?;
        Ok(Lock::wait(&self.folder)?)
    }

    fn find(&self, broken: Broken) -> Result<KeyringFiles, KeyringError> {
        let key = |path, pem: &[u8]| {
            SigningKey::from_pem(pem).map_err(|source| KeyringError::BrokenKey { path, source })
        };
        let current = read_if_there(&self.current_path())?;
        let current = current.map(|pem| key(self.current_path(), &pem));
        let current = match (current.transpose(), broken) {
            (Err(_), Broken::Missing) => None,
            (current, _) => current?,
        };
        let next_pem = read_if_there(&self.next_path())?;
        let next = next_pem.as_deref().map(|pem| key(self.next_path(), pem));
        let next = next.transpose()?;
        let next_pem = next_pem.map(|pem| SecretString::from(&*String::from_utf8_lossy(&pem)));
        let record = read_if_there(&self.ring_path())?
            .map(|text| serde_json::from_slice::<Record>(&text))
            .transpose()
            .map_err(|source| KeyringError::BrokenRecord {
                path: self.ring_path(),
                source: source.into(),
            })?;
        // One that must not be published is not: it is written anew.
        let published = read_if_there(&self.jwks_path())?;
        let published = published.and_then(|text| Jwks::parse(&text).ok());
        Ok(KeyringFiles {
            current,
            next,
            next_pem,
            published,
            record,
        })
    }
}

/// What a `current.pem` is taken for that cannot sign.
#[derive(Clone, Copy)]
enum Broken {
    Refused,
    Missing,
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, KeyringError> {
    match read_regular(path, MAX_FILE_SIZE) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(KeyringError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Reads one private key for signing from a file of any of the accepted forms.
///
/// # Errors
/// [`KeyringError`] with the path in it.
pub fn read_signing_key(path: &Path) -> Result<SigningKey, KeyringError> {
    let read = File::open(path).and_then(|file| read_at_most(file, MAX_FILE_SIZE));
    let pem = read.map_err(|source| KeyringError::Read {
        path: path.to_owned(),
        source,
    })?;
    Ok(SigningKey::from_pem(&pem)?)
}
