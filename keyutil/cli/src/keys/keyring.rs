//! The signing keys on disk: next → current → previous.
//!
//! The server fetches the key set at intervals and never because of an unknown `kid`
//! (`default_token_key_provider.go`). A key is therefore published before it signs, and stays
//! published until every token that it signed has expired. Exactly one key signs at any time.
//!
//! | what | file |
//! |---|---|
//! | the ring on disk, and its errors | `keyring.rs` |
//! | folders of earlier versions, where the key that signs was beside the others | `keyring/migrate.rs` |
//! | the state of the ring, derived from its files | `keyring/ring.rs` |
//! | the operations of a rotation, and their order | `keyring/rotate.rs` |
//! | the waits of a rotation, and rotations at an interval | `keyring/schedule.rs` |

mod migrate;
mod ring;
mod rotate;
mod schedule;
#[cfg(test)]
mod tests;

pub use ring::{KeyState, Ring, RingKey};
pub use rotate::{Generated, Rotated};
pub use schedule::{PolicyError, RotationPolicy, RotationStatus, RotationTimes, Schedule};

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, SystemTime},
};

use humantime::{format_duration, format_rfc3339_seconds};
use secrecy::SecretString;
use tracing::info;

use self::{
    ring::{Entry, KeyringFiles, Record},
    rotate::{Plan, Rotation},
};
use super::Jwks;
use crate::{
    files::{Lock, LockError, WriteError, folder_hint, sweep},
    keys::jwks::JwksError,
};
use keyutil::{
    base::{
        JsonError, chain,
        read::{MAX_FILE_SIZE, read_at_most, read_regular},
    },
    diagnosis::{Class, Diagnose, Diagnosis, Step},
    token::{KeyError, SigningKey, signing_key},
};

/// The folder of a key ring, with the file names of `certs/signing`.
///
/// The key that signs is in a folder of its own, so that a process that mints can be given only
/// that folder. It may be on another file system.
#[derive(Clone, Debug)]
pub struct Keyring {
    folder: PathBuf,
}

impl Keyring {
    /// Returns the ring in this folder, which need not exist.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
        }
    }

    /// Returns the ring whose current key is at this path.
    pub fn of_signing_key(path: &Path) -> Option<Self> {
        let folder = path.parent()?;
        match folder.file_name() {
            Some(name) if name == ACTIVE => Some(Self::at(folder.parent()?)),
            _ => Some(Self::at(folder)),
        }
    }

    /// Returns the path of the private key that signs.
    pub fn current_path(&self) -> PathBuf {
        self.active_folder().join(CURRENT)
    }

    /// Returns the folder that contains only the private key that signs.
    pub fn active_folder(&self) -> PathBuf {
        self.folder.join(ACTIVE)
    }

    /// Returns the path of the private key that is published and signs next.
    pub fn next_path(&self) -> PathBuf {
        self.folder.join("next.pem")
    }

    /// Returns the path of the public keys, which the endpoint serves.
    pub fn jwks_path(&self) -> PathBuf {
        self.folder.join("jwks.json")
    }

    /// Returns the path of the record: when each key was published, began to sign and stopped.
    pub fn ring_path(&self) -> PathBuf {
        self.folder.join("ring.json")
    }

    /// Returns whether a key signs.
    pub fn exists(&self) -> bool {
        self.current_path().exists() || self.earlier_path().exists()
    }

    /// Creates a ring of two P-256 keys, and writes its four files.
    ///
    /// # Errors
    /// [`KeyringError::Exists`] when there is a key and `replace` is not set; nothing is changed
    /// then. Concurrent callers wait for each other.
    pub fn generate(
        &self,
        replace: bool,
        clock: impl FnOnce() -> SystemTime,
    ) -> Result<Generated, KeyringError> {
        let _lock = self.locked()?;
        if self.exists() && !replace {
            return Err(KeyringError::Exists {
                path: self.current_path(),
            });
        }
        // A key that cannot be read has no tokens to protect.
        let before = read_signing_key(&self.current_path()).ok();
        rotate::generate(self, before.as_ref(), clock())?.apply()
    }

    /// Makes the next key sign, publishes a new next key, and removes keys from the key set that no
    /// valid token needs. Continues where an earlier run was interrupted.
    ///
    /// # Errors
    /// [`KeyringError::TooEarly`] until the next key has been published long enough. Nothing is
    /// changed then, except that a missing next key is created and published.
    pub fn rotate(
        &self,
        policy: &RotationPolicy,
        clock: impl Fn() -> SystemTime,
    ) -> Result<Rotated, KeyringError> {
        self.rotate_by(Rotation::InTurn(policy), clock)
    }

    /// Makes the next key sign at once, even if it was published only recently, and drops all keys
    /// that have signed: servers refuse their tokens as soon as they fetch the key set. With a
    /// `kid`, that key alone is dropped, and a current key with another `kid` goes on signing.
    ///
    /// # Errors
    /// [`KeyringError::NoNext`], [`KeyringError::NotSigned`], and [`KeyringError::FinishedFirst`]
    /// when a regular rotation had been interrupted.
    pub fn rotate_in_emergency(
        &self,
        kid: Option<&str>,
        clock: impl Fn() -> SystemTime,
    ) -> Result<Rotated, KeyringError> {
        self.rotate_by(Rotation::Emergency(kid), clock)
    }

    /// Finishes an emergency rotation that was interrupted, if there is one.
    ///
    /// # Errors
    /// [`KeyringError`], when the ring cannot be read or written.
    pub fn finish_emergency(
        &self,
        clock: impl FnOnce() -> SystemTime,
    ) -> Result<Option<Rotated>, KeyringError> {
        // Reads the record alone: a process that only serves the key set may not read the keys. A
        // record that cannot be read is reported by what needs it.
        let is_marked = |text: Vec<u8>| {
            let record = serde_json::from_slice::<Record>(&text);
            record.is_ok_and(|record| record.compromised().next().is_some())
        };
        let marked = || read_regular(&self.ring_path(), MAX_FILE_SIZE).is_ok_and(is_marked);
        if !marked() {
            return Ok(None);
        }
        let _lock = self.lock()?;
        // Another process may have been at work, and is done now.
        let now = clock();
        if !marked() || !Ring::of(&self.find(Broken::Missing)?, now)?.interrupted {
            return Ok(None);
        }
        self.rotate_locked(Rotation::Emergency(None), || now)
            .map(Some)
    }

    fn rotate_by(
        &self,
        rotation: Rotation<'_>,
        clock: impl Fn() -> SystemTime,
    ) -> Result<Rotated, KeyringError> {
        let plan = |found: &KeyringFiles| rotate::rotate(self, found, rotation, clock());
        if let Some(result) = self.without_a_change(plan) {
            return result;
        }
        let _lock = self.lock()?;
        self.rotate_locked(rotation, clock)
    }

    fn rotate_locked(
        &self,
        rotation: Rotation<'_>,
        clock: impl FnOnce() -> SystemTime,
    ) -> Result<Rotated, KeyringError> {
        let found = self.find(match rotation {
            Rotation::InTurn(_) => Broken::Refused,
            // A key that cannot sign is replaced.
            Rotation::Emergency(_) => Broken::Missing,
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

    /// Removes keys from the key set that no valid token needs, and returns their `kid`s.
    ///
    /// # Errors
    /// [`KeyringError`], when the ring cannot be read or written.
    pub fn retire(
        &self,
        policy: &RotationPolicy,
        clock: impl Fn() -> SystemTime,
    ) -> Result<Vec<String>, KeyringError> {
        let plan = |found: &KeyringFiles| rotate::retire(self, found, policy, clock());
        if let Some(result) = self.without_a_change(plan) {
            return result;
        }
        let _lock = self.lock()?;
        let found = self.find(Broken::Refused)?;
        let removed = rotate::retire(self, &found, policy, clock())?.apply()?;
        if !removed.is_empty() {
            info!(
                removed = removed.join(", "),
                "signing keys removed from the key set"
            );
        }
        Ok(removed)
    }

    /// Returns the result of a plan that changes no file. It needs no lock.
    fn without_a_change<T>(
        &self,
        plan: impl Fn(&KeyringFiles) -> Result<Plan<T>, KeyringError>,
    ) -> Option<Result<T, KeyringError>> {
        if self.is_of_an_earlier_version() {
            return None;
        }
        // After a failure the caller tries again with the lock: another process may be changing the
        // files.
        let planned = plan(&self.find(Broken::Refused).ok()?).ok()?;
        let changes = !planned.change.operations().is_empty();
        (!changes).then_some(planned.result)
    }

    /// Reads the state of the ring, without a lock: another process may hold it.
    ///
    /// # Errors
    /// [`KeyringError`], when one of its files is broken, or no key signs.
    pub fn look(&self, now: SystemTime) -> Result<Ring, KeyringError> {
        let mut looked = Ring::of(&self.find(Broken::Refused)?, now)?;
        // A rotation that looks interrupted may be in progress.
        for _ in 0..READS {
            if !looked.interrupted || Lock::held_by(&self.folder).is_none() {
                break;
            }
            thread::sleep(PAUSE);
            looked = Ring::of(&self.find(Broken::Refused)?, now)?;
        }
        let ring = looked;
        if ring.keys().next().is_none() {
            return Err(KeyringError::NothingSigns {
                path: self.current_path(),
            });
        }
        Ok(ring)
    }

    /// Returns a sentence for each duration that differs from the recorded one. The longer of the
    /// two applies.
    pub fn differences(&self, policy: &RotationPolicy) -> Vec<String> {
        let recorded = self.recorded_policy();
        recorded.map_or_else(Vec::new, |recorded| policy.differences(&recorded))
    }

    /// Returns the longest lifetime of a token that does not outlive its key, if a run has recorded
    /// it and this process may read it.
    pub fn longest_token(&self) -> Option<Duration> {
        Some(self.recorded_policy()?.longest_token())
    }

    /// Returns a warning for tokens of this lifetime if they may outlive their key.
    pub fn outlived_by(&self, lifetime: Duration) -> Option<String> {
        let longest = self.longest_token().filter(|longest| lifetime > *longest)?;
        Some(format!(
            "the token lives for {}, but the key set in `{}` keeps a key that stopped signing only for \
             tokens of up to {}: after that, servers refuse the token. Set `--token-lifetime` \
             (KEYUTIL_TOKEN_LIFETIME) of `keyutil key` and `keyutil jwks serve` to the longest lifetime of \
             any token",
            format_duration(Duration::from_secs(lifetime.as_secs())),
            self.folder.display(),
            format_duration(longest)
        ))
    }

    /// Returns since when the current key signs, if the record can be read.
    fn signing_since(&self) -> Option<SystemTime> {
        let signs = |key: &&Entry| key.state == KeyState::Current;
        Some(self.recorded()?.keys.iter().find(signs)?.activated?.0)
    }

    /// Returns the durations that were recorded, if the record can be read.
    fn recorded_policy(&self) -> Option<RotationPolicy> {
        self.recorded()?.policy
    }

    fn recorded(&self) -> Option<Record> {
        let text = read_regular(&self.ring_path(), MAX_FILE_SIZE).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Reads the published document.
    ///
    /// # Errors
    /// [`KeyringError`], when it cannot be read or must not be published.
    pub fn jwks(&self) -> Result<Jwks, KeyringError> {
        let path = self.jwks_path();
        let text = read_regular(&path, MAX_FILE_SIZE);
        let text = text.map_err(|source| KeyringError::Read { path, source })?;
        Ok(Jwks::parse(&text)?)
    }

    /// Locks an existing ring; a mistyped path is not created.
    ///
    /// Callers ask for the time while they hold the lock: after a long wait for the lock an earlier
    /// time would make the waits that are counted from it too short.
    fn lock(&self) -> Result<Lock, KeyringError> {
        let path = self.folder.clone();
        fs::metadata(&path).map_err(|source| KeyringError::Read { path, source })?;
        self.locked()
    }

    /// Locks the ring, and moves files of an earlier version to their new places.
    fn locked(&self) -> Result<Lock, KeyringError> {
        let lock = Lock::wait(&self.folder)?;
        let folder = self.active_folder();
        match sweep(&folder, Duration::ZERO) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(KeyringError::Read {
                    path: folder,
                    source: error,
                });
            }
            _ => {}
        }
        self.migrate_locked()?;
        Ok(lock)
    }

    /// Reads all files as they are at one moment, by repeating until two reads in a row find the
    /// same.
    fn read(&self) -> Result<[Option<Vec<u8>>; 4], KeyringError> {
        let once = || -> Result<_, KeyringError> {
            let current = match read_if_there(&self.current_path())? {
                // The folder is read without the lock, and is not migrated yet.
                None => read_if_there(&self.earlier_path())?,
                current => current,
            };
            Ok([
                current,
                read_if_there(&self.next_path())?,
                read_if_there(&self.ring_path())?,
                read_if_there(&self.jwks_path())?,
            ])
        };
        let mut found = once()?;
        for _ in 0..READS {
            let again = once()?;
            if again == found {
                break;
            }
            thread::sleep(PAUSE);
            found = again;
        }
        Ok(found)
    }

    fn find(&self, broken: Broken) -> Result<KeyringFiles, KeyringError> {
        let [current, next_pem, record, published] = self.read()?;
        let key = |path, pem: &[u8]| {
            SigningKey::from_pem(pem).map_err(|source| KeyringError::BrokenKey { path, source })
        };
        let current = current.map(|pem| key(self.current_path(), &pem));
        let current = match (current.transpose(), broken) {
            (Err(_), Broken::Missing) => None,
            (current, _) => current?,
        };
        let next = next_pem.as_deref().map(|pem| key(self.next_path(), pem));
        let next = next.transpose()?;
        let next_pem = next_pem.map(|pem| SecretString::from(&*String::from_utf8_lossy(&pem)));
        let record = record
            .map(|text| serde_json::from_slice::<Record>(&text))
            .transpose()
            .map_err(|source| KeyringError::BrokenRecord {
                path: self.ring_path(),
                source: source.into(),
            })?;
        // A document that must not be published is written again.
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

/// The folder of the key that signs, below that of the ring.
const ACTIVE: &str = "active";

/// The file of the key that signs.
const CURRENT: &str = "current.pem";

/// How often files that another process is changing are read again, and the pause before each time.
/// Together they are as long as a rotation takes on a busy machine.
const READS: usize = 50;
const PAUSE: Duration = Duration::from_millis(20);

/// How a `current.pem` that cannot sign is treated.
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

/// Reads a private signing key from a file, in any of the accepted forms.
///
/// # Errors
/// [`KeyringError`], which names the path.
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

/// The ring could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what they are")]
pub enum KeyringError {
    /// Refused, because a key that has signed would be lost.
    #[error(
        "refused to replace the signing key `{}`: every token that it signed would become invalid",
        path.display()
    )]
    Exists { path: PathBuf },
    /// Refused, because servers that do not know the key yet would refuse its tokens.
    #[error(
        "too early: the next key `{kid}` was published at {}, and must be published for {} before it signs; {} left",
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
    /// An emergency rotation must not drop another key than the compromised one.
    #[error(
        "finished an interrupted rotation instead: `{signs}` signs now in place of `{}`, and no key was dropped",
        before.as_deref().unwrap_or("none")
    )]
    FinishedFirst {
        signs: String,
        before: Option<String>,
    },
    /// Both paths have a key, and the keys differ: readers of each path sign with another one.
    #[error(
        "`{}` and `{}` contain different keys: an earlier version of keyutil, or a restored backup, \
         replaced the first one",
        earlier.display(),
        current.display()
    )]
    TwoCurrent { earlier: PathBuf, current: PathBuf },
    #[error("no key signs: `{}` is missing", path.display())]
    NothingSigns { path: PathBuf },
    #[error("there is no next key")]
    NoNext,
    #[error("no key with the kid `{kid}` has signed")]
    NotSigned { kid: String },
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("failed to read `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("failed to use the signing key `{}`", path.display())]
    BrokenKey { path: PathBuf, source: KeyError },
    /// A key that is named by itself, perhaps outside of a ring.
    #[error("failed to use the signing key `{}`", path.display())]
    UnusableKey { path: PathBuf, source: KeyError },
    #[error("failed to read the record of the key ring `{}`", path.display())]
    BrokenRecord { path: PathBuf, source: JsonError },
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Jwks(#[from] JwksError),
    #[error("failed to serialize the record of the key ring")]
    Record(#[source] serde_json::Error),
}

impl KeyringError {
    /// Returns what to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Exists { .. } => Some("keep the key, or replace it with `--force`"),
            Self::TooEarly { .. } => Some(
                "`--wait` waits; if the current key is compromised, `--emergency` rotates at once, at \
                 a cost that `--help` states",
            ),
            Self::FinishedFirst { .. } => Some(
                "check with `keyutil key list` which key is compromised; if it is the one that signs \
                 now, run the command again",
            ),
            Self::TwoCurrent { .. } => Some(
                "stop the earlier version, then remove the file of the key that must not sign. `keyutil jwks \
                 print --signing-key` prints the kid of each file, and `keyutil key list` prints which key \
                 signs",
            ),
            Self::NothingSigns { .. } => Some(
                "restore the file; or make `next.pem` sign at once with `keyutil key rotate --emergency`; \
                 or create a new ring with `keyutil key generate`",
            ),
            Self::NoNext => Some(
                "`keyutil key rotate` publishes one, which then waits; if no key signs either, create a \
                 new ring with `keyutil key generate`",
            ),
            Self::NotSigned { .. } => Some(
                "`keyutil key list` lists the current and the previous keys; if the next key is \
                 compromised, replace all keys with `keyutil key generate --force`",
            ),
            Self::BrokenKey { .. } => Some(
                "restore the file; if it is lost, remove `next.pem`, and a new next key is published, \
                 or replace `active/current.pem` with `keyutil key rotate --emergency`",
            ),
            Self::BrokenRecord { .. } => Some(
                "remove it: all keys then count as published now, and the next rotation waits again",
            ),
            Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Some("create the keys with `keyutil key generate`")
            }
            Self::Read { source, .. } | Self::Lock(LockError { source, .. }) => folder_hint(source),
            _ => None,
        }
    }

    /// Returns whether a file that the caller names cannot be read or used.
    fn is_usage(&self) -> bool {
        match self {
            Self::Lock(LockError { source, .. }) => folder_hint(source).is_some(),
            Self::Read { .. }
            | Self::NotSigned { .. }
            | Self::NothingSigns { .. }
            | Self::TwoCurrent { .. }
            | Self::BrokenKey { .. }
            | Self::BrokenRecord { .. }
            | Self::UnusableKey { .. }
            | Self::Jwks(_) => true,
            _ => false,
        }
    }

    /// Returns whether the same call may succeed later.
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
                Self::Read { path, .. } => {
                    signing_key::moved(path).or_else(|| self.hint().map(str::to_owned))
                }
                _ => self.hint().map(str::to_owned),
            },
        }
    }
}
