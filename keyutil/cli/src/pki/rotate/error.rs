//! What can go wrong with a rotation.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use humantime::{format_duration, format_rfc3339_seconds};

use super::RotationStep;
use crate::{
    files::{LockError, WriteError},
    pki::{AuthorityError, AuthorityKind, FileError, NameError, Party, ValidityError, error::days},
};
use keyutil::{
    base::chain,
    diagnosis::{self, Class, Diagnose, Diagnosis},
};

/// A rotation that was refused or that failed. Unless it says otherwise, nothing was changed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what they are")]
pub enum RotateError {
    #[error("there are no CAs in `{}`", path.display())]
    NoAuthorities { path: PathBuf },
    #[error("there is no folder `{}` for the certificate of {}", path.display(), party.name())]
    NoParty { party: Party, path: PathBuf },
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("failed to load the CA that the {} CA is being replaced by", kind.name())]
    Next {
        kind: AuthorityKind,
        source: AuthorityError,
    },
    #[error(transparent)]
    File(#[from] FileError),
    #[error("the certificate of {} has a name that cannot be kept", party.name())]
    Name { party: Party, source: NameError },
    #[error("refused the lifetime `{}`", days(*lifetime))]
    Lifetime {
        lifetime: Duration,
        source: ValidityError,
    },
    #[error("the {} CA expired at {}", kind.name(), format_rfc3339_seconds(*at))]
    Expired { kind: AuthorityKind, at: SystemTime },
    #[error("the {} CA is not valid before {}", kind.name(), format_rfc3339_seconds(*from))]
    NotYetValid {
        kind: AuthorityKind,
        from: SystemTime,
    },
    /// Where no time of the step before was known, it has been noted, and counts from now.
    #[error(
        "too early for the step `{step}` of the {} CA: {} left",
        kind.name(),
        format_duration(up_to_seconds(*left))
    )]
    TooEarly {
        kind: AuthorityKind,
        step: RotationStep,
        left: Duration,
    },
    /// The servers have the old CA in memory until they end.
    #[error(
        "too early for the step `reissue` of the internode CA: a temporal-server that runs since \
         before `trust` would refuse the new certificates"
    )]
    ServersNotRestarted,
    #[error("the step `{step}` of the {} CA is out of order: {reason}", kind.name())]
    OutOfOrder {
        kind: AuthorityKind,
        step: RotationStep,
        reason: &'static str,
        hint: &'static str,
    },
    /// A party would refuse the new leaves.
    #[error("{} does not trust the new {} CA yet: `{}`", party.name(), kind.name(), path.display())]
    NotTrusted {
        kind: AuthorityKind,
        party: Party,
        path: PathBuf,
    },
    /// A party would be refused.
    #[error("the certificate of {} is not one of the new {} CA: `{}`", party.name(), kind.name(), path.display())]
    NotReissued {
        kind: AuthorityKind,
        party: Party,
        path: PathBuf,
    },
    /// The files before this one were written, and the next run goes on from there.
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("failed to serialize the record of the rotations")]
    Record(#[source] serde_json::Error),
}

impl RotateError {
    /// Whether the same will be in order later.
    #[must_use]
    pub fn is_too_early(&self) -> bool {
        matches!(self, Self::TooEarly { .. } | Self::ServersNotRestarted)
    }

    /// Whether the caller has to ask for something else, rather than the machine to be mended.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Lifetime { .. })
    }

    /// What to do about it, where that is known.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::NoAuthorities { .. } => {
                "`--dir` names the folder that `keyutil pki init` wrote, on the machine with its \
                 folder `ca`"
            }
            Self::NoParty { .. } => {
                "if the party lives on another machine, copy its folder here and the new files \
                 back"
            }
            Self::Next { .. } => {
                "bring its files `<name>-next.crt` and `<name>-next.key` back; if nobody has a \
                 certificate of it yet (`keyutil pki list`), remove these two, and the step `trust` \
                 begins anew"
            }
            Self::Expired { .. } => {
                "rotate the CA itself: `keyutil pki rotate client-ca`, and so on; where it is the new \
                 CA of a rotation that was begun, remove `<name>-next.crt` and `<name>-next.key` \
                 of that CA, and the step `trust` begins anew"
            }
            Self::NotYetValid { .. } => {
                "the clock of this machine is wrong now, or was when the CA was made"
            }
            Self::TooEarly { .. } => {
                "whoever has not seen the step before would fail; without `--step` the command \
                 waits by itself"
            }
            Self::ServersNotRestarted => {
                "a server reads `rootCaFiles` of internode only when it starts: restart every \
                 temporal-server process, then run the same command with `--servers-restarted`"
            }
            Self::OutOfOrder { hint, .. } => hint,
            Self::NotTrusted { .. } => "run the step `trust` again: it mends what is missing",
            Self::NotReissued { .. } => {
                "rotate that certificate, such as by `keyutil pki rotate worker`, and bring it to \
                 where it is used"
            }
            Self::Write(_) => {
                "no certificate or key is half written; when the cause is mended, the same \
                 command goes on where it stopped"
            }
            _ => return None,
        })
    }
}

/// Rounded up, so that a run after this time is not too early either.
fn up_to_seconds(span: Duration) -> Duration {
    let whole = Duration::from_secs(span.as_secs());
    if whole == span {
        whole
    } else {
        whole + Duration::from_secs(1)
    }
}

impl Diagnose for RotateError {
    fn diagnosis(&self) -> Diagnosis {
        let (step, class) = match self {
            _ if self.is_usage() => (diagnosis::Step::Configuration, Class::Usage),
            _ if self.is_too_early() => (diagnosis::Step::Files, Class::TooEarly),
            _ => (diagnosis::Step::Files, Class::Other),
        };
        Diagnosis {
            step,
            class,
            cause: chain(self),
            hint: self.hint().map(str::to_owned),
        }
    }
}
