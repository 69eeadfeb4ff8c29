//! Why a ring could not be read or changed.

use std::{
    io,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use humantime::{format_duration, format_rfc3339_seconds};

use crate::{
    files::{LockError, WriteError},
    keys::jwks::JwksError,
};
use keyutil::{
    base::{JsonError, chain},
    diagnosis::{Class, Diagnose, Diagnosis, Step},
    token::KeyError,
};

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
            _ => None,
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
                _ => Class::Other,
            },
            cause: chain(self),
            hint: self.hint().map(str::to_owned),
        }
    }
}
