//! The signing keys on disk: next → current → previous.
//!
//! The server fetches the key set at intervals and never because of an unknown `kid`
//! (`default_token_key_provider.go`). So a key is published before it signs, and stays published
//! for as long as a token of its may live. At any time exactly one key signs.
//!
//! | what | file |
//! |---|---|
//! | the ring on disk, and what can go wrong | `keyring.rs` |
//! | what the files say, taken together | `keyring/ring.rs` |
//! | what a step writes, in which order | `keyring/rotate.rs` |
//! | how long a key waits and stays, and rotations that are made when they are due | `keyring/schedule.rs` |

mod ring;
mod rotate;
mod schedule;
#[cfg(test)]
mod tests;

pub use ring::{KeyState, Ring, RingKey};
pub use rotate::{Generated, Rotated};
pub use schedule::{PolicyError, RotationPolicy, RotationTimes, Schedule};

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use humantime::{format_duration, format_rfc3339_seconds};
use secrecy::SecretString;
use tracing::info;

use self::{
    ring::{KeyringFiles, Record},
    rotate::Rotation,
};
use super::Jwks;
use crate::{
    files::{Lock, LockError, WriteError, folder_hint},
    keys::jwks::JwksError,
};
use keyutil::{
    base::{
        JsonError, chain,
        read::{MAX_FILE_SIZE, read_at_most, read_regular},
    },
    diagnosis::{Class, Diagnose, Diagnosis, Step},
    token::{KeyError, SigningKey},
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
    SigningKey::from_pem(&pem).map_err(|source| KeyringError::UnusableKey {
        path: path.to_owned(),
        source,
    })
}

/// A ring that could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what they are")]
pub enum KeyringError {
    /// Refused, so that no key that has signed is lost by accident.
    #[error(
        "there is a signing key already, and replacing it would invalidate every token it signed: `{}`",
        path.display()
    )]
    Exists { path: PathBuf },
    /// Refused, because servers would refuse the tokens of a key that they do not know yet.
    #[error(
        "too early: the next key `{kid}` is published since {}, and signs after {} at the soonest; {} left",
        format_rfc3339_seconds(*published),
        format_duration(*publish_before),
        format_duration(*left)
    )]
    TooEarly {
        kid: String,
        published: SystemTime,
        publish_before: Duration,
        left: Duration,
    },
    /// An emergency must not hit another key than the one that was meant.
    #[error(
        "finished a rotation first that had been interrupted: `{signs}` signs now, instead of `{}`, and nothing was dropped",
        before.as_deref().unwrap_or("none")
    )]
    FinishedFirst {
        signs: String,
        before: Option<String>,
    },
    #[error("nothing signs: `{}` is missing", path.display())]
    NothingSigns { path: PathBuf },
    #[error("no next key is there to be promoted")]
    NoNext,
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("failed to read `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("failed to use the signing key `{}`", path.display())]
    BrokenKey { path: PathBuf, source: KeyError },
    /// The same of a key that is named by itself, perhaps outside of a ring.
    #[error("failed to use the signing key `{}`", path.display())]
    UnusableKey { path: PathBuf, source: KeyError },
    #[error("failed to read the record of the key ring, `{}`", path.display())]
    BrokenRecord { path: PathBuf, source: JsonError },
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Jwks(#[from] JwksError),
    #[error("failed to serialize the record of the key ring")]
    Record(#[source] serde_json::Error),
}

impl KeyringError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Exists { .. } => {
                Some("keep it, or replace it and every token with it by `--force`")
            }
            Self::TooEarly { .. } => Some(
                "`--wait` waits for it; where the key that signs is in the wrong hands, \
                 `--emergency` does not wait, at a cost",
            ),
            Self::FinishedFirst { .. } => Some(
                "look with `keyutil key list` which of them is in the wrong hands; if it is the one \
                 that signs now, run this again",
            ),
            Self::NothingSigns { .. } => Some(
                "bring it back; or `keyutil key generate` makes a new ring; or, where `next.pem` is \
                 there, `keyutil key rotate --emergency` lets that one sign at once",
            ),
            Self::NoNext => Some(
                "`keyutil key rotate` publishes one, which then waits; where no key signs either, \
                 `keyutil key generate` makes a new ring",
            ),
            Self::BrokenKey { .. } => Some(
                "put the right key back; without `next.pem` a new next key is published, which has \
                 to wait; without `current.pem` see `keyutil key rotate --emergency`",
            ),
            Self::BrokenRecord { .. } => Some(
                "remove it: all keys then count as published now, so the next rotation waits anew",
            ),
            Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Some("make the keys with `keyutil key generate`")
            }
            Self::Read { source, .. } | Self::Lock(LockError { source, .. }) => folder_hint(source),
            _ => None,
        }
    }

    /// Whether a file that the caller names cannot be read or used.
    fn is_usage(&self) -> bool {
        match self {
            Self::Lock(LockError { source, .. }) => folder_hint(source).is_some(),
            Self::Read { .. }
            | Self::NothingSigns { .. }
            | Self::BrokenKey { .. }
            | Self::BrokenRecord { .. }
            | Self::UnusableKey { .. }
            | Self::Jwks(_) => true,
            _ => false,
        }
    }

    /// Whether the same is worth trying again later.
    pub fn is_too_early(&self) -> bool {
        matches!(self, Self::TooEarly { .. } | Self::FinishedFirst { .. })
    }
}

impl Diagnose for KeyringError {
    fn diagnosis(&self) -> Diagnosis {
        Diagnosis {
            step: Step::Files,
            class: match self {
                _ if self.is_too_early() => Class::TooEarly,
                _ if self.is_usage() => Class::Usage,
                _ => Class::Other,
            },
            cause: chain(self),
            hint: match self {
                Self::UnusableKey { source, .. } => source.diagnosis().hint,
                _ => self.hint().map(str::to_owned),
            },
        }
    }
}
