//! The signing keys on disk: `next` is published and waits, `current` signs.
//!
//! The server fetches the key set at intervals and never because of an unknown `kid`
//! (`default_token_key_provider.go`), so a key is published before it signs. A new ring therefore
//! has both keys from the first day.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

use super::{
    Jwks, SigningKey,
    jwks::JwksError,
    key::{self, KeyError},
};
use crate::files::{self, Lock, LockError, Mode, WriteError};

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

    /// When each key was published and began to sign.
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
    pub fn generate(&self, replace: bool, now: SystemTime) -> Result<Generated, KeyringError> {
        let _lock = Lock::wait(&self.folder)?;
        if self.exists() && !replace {
            return Err(KeyringError::Exists {
                path: self.current_path(),
            });
        }
        let (current_pem, next_pem) = (key::generate_pem()?, key::generate_pem()?);
        let current = SigningKey::from_pem(key::expose(&current_pem))?;
        let next = SigningKey::from_pem(key::expose(&next_pem))?;
        let jwks = Jwks::publishing([&current, &next])?;
        let record = Record::new(&current, &next, now);

        // The public document goes first: at no moment is there a key that signs and is not in it.
        files::replace(&self.jwks_path(), &jwks.document(), Mode::Public)?;
        files::replace(&self.ring_path(), &record.to_json()?, Mode::Public)?;
        files::replace(&self.next_path(), key::expose(&next_pem), Mode::Private)?;
        files::replace(
            &self.current_path(),
            key::expose(&current_pem),
            Mode::Private,
        )?;
        Ok(Generated { current, next })
    }

    /// The published document.
    ///
    /// # Errors
    /// [`KeyringError`], when it cannot be read or must not be published.
    pub fn jwks(&self) -> Result<Jwks, KeyringError> {
        let path = self.jwks_path();
        let text = fs::read(&path).map_err(|source| KeyringError::Read { path, source })?;
        Ok(Jwks::parse(&text)?)
    }
}

/// The two keys of a new ring.
#[derive(Debug)]
pub struct Generated {
    /// Signs from now on.
    pub current: SigningKey,
    /// Is published, and waits.
    pub next: SigningKey,
}

/// `ring.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    keys: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    kid: String,
    state: State,
    /// RFC 3339, UTC, whole seconds; so are all times of the record.
    published: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    activated: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Current,
    Next,
}

impl Record {
    fn new(current: &SigningKey, next: &SigningKey, now: SystemTime) -> Self {
        let now = humantime::format_rfc3339_seconds(now).to_string();
        Self {
            keys: vec![
                Entry {
                    kid: current.kid().to_owned(),
                    state: State::Current,
                    published: now.clone(),
                    activated: Some(now.clone()),
                },
                Entry {
                    kid: next.kid().to_owned(),
                    state: State::Next,
                    published: now,
                    activated: None,
                },
            ],
        }
    }

    fn to_json(&self) -> Result<Vec<u8>, KeyringError> {
        serde_json::to_vec_pretty(self).map_err(KeyringError::Record)
    }
}

/// A ring that could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// Refused, so that no key that has signed is lost by accident.
    #[error(
        "there is a signing key already, and replacing it would invalidate every token it signed: `{}`",
        path.display()
    )]
    Exists {
        /// The key that signs now.
        path: PathBuf,
    },
    /// Somebody else's lock could not be waited for.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A file of the ring could not be read.
    #[error("failed to read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of the ring could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A key could not be made or used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The public document breaks a rule.
    #[error(transparent)]
    Jwks(#[from] JwksError),
    /// The record could not be put in words.
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
            Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Some("make the keys with `keyutil key generate`")
            }
            _ => None,
        }
    }
}

/// Reads one private key for signing from a file of any of the accepted forms.
///
/// # Errors
/// [`KeyringError`] with the path in it.
pub fn read_signing_key(path: &Path) -> Result<SigningKey, KeyringError> {
    let pem = fs::read(path).map_err(|source| KeyringError::Read {
        path: path.to_owned(),
        source,
    })?;
    Ok(SigningKey::from_pem(&pem)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_ring_publishes_the_key_that_signs_and_the_next_one() {
        let folder = tempfile::tempdir().unwrap();
        let ring = Keyring::at(folder.path().join("signing"));
        assert!(!ring.exists());

        let made = ring.generate(false, SystemTime::now()).unwrap();

        assert_eq!(
            ring.jwks().unwrap().kids(),
            [made.current.kid(), made.next.kid()]
        );
        let current = read_signing_key(&ring.current_path()).unwrap();
        assert_eq!(current.kid(), made.current.kid());
    }

    #[test]
    fn of_many_at_once_one_makes_the_ring() {
        for _ in 0..20 {
            let folder = tempfile::tempdir().unwrap();
            let ring = Keyring::at(folder.path().join("signing"));
            let made: Vec<_> = std::thread::scope(|scope| {
                let callers: Vec<_> = (0..4)
                    .map(|_| scope.spawn(|| ring.generate(false, SystemTime::now()).ok()))
                    .collect();
                callers
                    .into_iter()
                    .filter_map(|caller| caller.join().unwrap())
                    .collect()
            });
            assert_eq!(
                made.len(),
                1,
                "more than one says that its keys are the ring"
            );
            let current = read_signing_key(&ring.current_path()).unwrap();
            assert_eq!(current.kid(), made[0].current.kid());
        }
    }

    #[test]
    fn a_ring_is_not_replaced_by_accident() {
        let folder = tempfile::tempdir().unwrap();
        let ring = Keyring::at(folder.path());
        ring.generate(false, SystemTime::now()).unwrap();
        let before = fs::read(ring.current_path()).unwrap();

        let error = ring.generate(false, SystemTime::now()).unwrap_err();

        assert!(error.to_string().contains("current.pem"), "{error}");
        assert_eq!(fs::read(ring.current_path()).unwrap(), before);
        ring.generate(true, SystemTime::now()).unwrap();
        assert_ne!(fs::read(ring.current_path()).unwrap(), before);
    }
}
