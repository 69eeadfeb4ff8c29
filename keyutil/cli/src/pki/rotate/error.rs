//! What can go wrong with a rotation.

use std::{path::PathBuf, time::Duration};

use super::Step;
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
pub enum RotateError {
    /// There is no folder of CAs.
    #[error("there are no CAs in `{}`", path.display())]
    NoAuthorities {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// There is no folder of this party.
    #[error("there is no folder `{}` for the certificate of {}", path.display(), party.name())]
    NoParty {
        /// Whose certificate it was about.
        party: Party,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// Somebody else's lock could not be waited for.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A CA could not be loaded, made or used.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The CA that was begun with is broken.
    #[error("failed to load the CA that the {} CA is being replaced by", kind.name())]
    Next {
        /// Which CA is being rotated.
        kind: AuthorityKind,
        /// Why.
        #[source]
        source: AuthorityError,
    },
    /// A file of certificates could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The certificate in place has a name that a new one cannot be made for.
    #[error("the certificate of {} has a name that cannot be kept", party.name())]
    Name {
        /// Whose certificate it is.
        party: Party,
        /// What is wrong with it.
        #[source]
        source: NameError,
    },
    /// What was asked for is nothing that a certificate can have.
    #[error("refused the lifetime `{}`", days(*lifetime))]
    Lifetime {
        /// What was asked for.
        lifetime: Duration,
        /// What is wrong with it.
        #[source]
        source: ValidityError,
    },
    /// What it would sign is worthless.
    #[error("the {} CA expired at {at}", kind.name())]
    Expired {
        /// Which CA.
        kind: AuthorityKind,
        /// RFC 3339.
        at: String,
    },
    /// What it would sign is of no use yet.
    #[error("the {} CA is not valid before {from}", kind.name())]
    NotYetValid {
        /// Which CA.
        kind: AuthorityKind,
        /// RFC 3339.
        from: String,
    },
    /// The wait since the step before is not over. Where no time of that step was known, it has
    /// been noted, and counts from now.
    #[error(
        "too early for the step `{step}` of the {} CA: {} left",
        kind.name(),
        humantime::format_duration(up_to_seconds(*left))
    )]
    TooEarly {
        /// Which CA.
        kind: AuthorityKind,
        /// The step that was asked for.
        step: Step,
        /// How long it is too early.
        left: Duration,
    },
    /// The servers have the old CA in memory, for good.
    #[error(
        "too early for the step `reissue` of the internode CA: a temporal-server that runs since \
         before `trust` would refuse the new certificates"
    )]
    ServersNotRestarted,
    /// The steps have an order.
    #[error("the step `{step}` of the {} CA is out of order: {reason}", kind.name())]
    OutOfOrder {
        /// Which CA.
        kind: AuthorityKind,
        /// The step that was asked for.
        step: Step,
        /// In which state the CA is.
        reason: &'static str,
        /// What to do first.
        hint: &'static str,
    },
    /// Somebody would refuse the new leaves.
    #[error("{} does not trust the new {} CA yet: `{}`", party.name(), kind.name(), path.display())]
    NotTrusted {
        /// Which CA.
        kind: AuthorityKind,
        /// Who checks its certificates.
        party: Party,
        /// What it checks them with.
        path: PathBuf,
    },
    /// Somebody would be refused.
    #[error("the certificate of {} is not one of the new {} CA: `{}`", party.name(), kind.name(), path.display())]
    NotReissued {
        /// Which CA.
        kind: AuthorityKind,
        /// Who holds the certificate.
        party: Party,
        /// The file.
        path: PathBuf,
    },
    /// A file could not be written. Those before it were, and the next run goes on from there.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The record could not be put in words.
    #[error("failed to serialize the record of the rotations")]
    Record(#[source] serde_json::Error),
}

impl RotateError {
    /// Whether the same will be in order later.
    #[must_use]
    pub fn is_too_early(&self) -> bool {
        matches!(self, Self::TooEarly { .. } | Self::ServersNotRestarted)
    }

    /// How long until then, where time is all that is missing.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        match self {
            Self::TooEarly { left, .. } => Some(*left),
            _ => None,
        }
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

/// Rounded up: nobody is told to come back too early.
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
