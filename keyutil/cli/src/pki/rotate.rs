//! `keyutil pki rotate`: a new certificate for one party, or a CA in three steps.
//!
//! | step | what it does | why it waits |
//! |---|---|---|
//! | `trust` | a new CA is made; all who check certificates of this CA trust both | |
//! | `reissue` | all certificates of this CA are made anew, under the new one; the old key is gone | who has not seen the new CA yet would refuse them |
//! | `retire` | the new CA alone is trusted | who still presents an old certificate would be refused |
//!
//! `ca/<name>.crt` and `.key` are the CA that issues, `<name>-next.*` is there from `trust` to the
//! end of `reissue`, and `<name>-previous.crt` from then to `retire`. How far a rotation is, these
//! files say; `ca/rotation.json` says since when.
//!
//! A step is worked out in memory, from what is on disk, and then written file by file, in an
//! order in which the process may die between any two: no party is refused then, exactly one CA
//! issues, and the same command goes on from there.
//!
//! | what | where |
//! |---|---|
//! | what is on disk, and since when | `rotate/state.rs` |
//! | the three steps, and a new leaf | `rotate/steps.rs` |

mod state;
mod steps;
#[cfg(test)]
mod tests;

pub(super) use state::RotationState;

use std::{
    fmt,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use humantime::{format_duration, format_rfc3339_seconds};
use serde::{Deserialize, Serialize};
use tracing::info;

use self::state::{Holder, Stage};
use super::{
    AuthorityError, AuthorityKind, FileError, InitOptions, Layout, NameError, Party, ValidityError,
    init::days,
};
use crate::{
    files::{Change, Lock, LockError, WriteError},
    wall_clock::LONGEST_WAIT,
};
use keyutil::{
    base::chain,
    diagnosis::{self, Class, Diagnose, Diagnosis},
    x509::certificate::CertificateSummary,
};

/// Makes a new key and certificate for this party, with the names of the one in place.
///
/// # Errors
/// [`RotateError`]. Unless it says otherwise, nothing was changed.
pub fn rotate_leaf(
    layout: &Layout,
    party: Party,
    options: &LeafOptions,
    clock: impl FnOnce() -> SystemTime,
) -> Result<LeafRotated, RotateError> {
    let _lock = lock(layout)?;
    let (change, rotated) = plan_leaf(layout, party, options, clock())?;
    change.apply()?;
    rotated.log();
    Ok(rotated)
}

/// Does one step of the rotation of this CA. A step that is done already is left as it is.
///
/// # Errors
/// [`RotateError`]. Unless it says otherwise, nothing was changed.
pub fn rotate_authority(
    layout: &Layout,
    kind: AuthorityKind,
    step: RotationStep,
    options: &AuthorityOptions,
    clock: impl FnOnce() -> SystemTime,
) -> Result<AuthorityRotated, RotateError> {
    let _lock = lock(layout)?;
    let (change, result) = steps::plan(&RotationState::read(layout, kind)?, step, options, clock());
    change.apply()?;
    let rotated = result?;
    rotated.log();
    Ok(rotated)
}

/// How the rotation of this CA goes on.
///
/// # Errors
/// [`RotateError`], when the files of the CA do not tell.
pub fn next_step(
    layout: &Layout,
    kind: AuthorityKind,
    options: &AuthorityOptions,
    now: SystemTime,
) -> Result<NextStep, RotateError> {
    let _lock = lock(layout)?;
    Ok(RotationState::read(layout, kind)?.next_step(options, now))
}

fn plan_leaf(
    layout: &Layout,
    party: Party,
    options: &LeafOptions,
    now: SystemTime,
) -> Result<(Change, LeafRotated), RotateError> {
    let path = layout.party_folder(party);
    if !path.is_dir() {
        return Err(RotateError::NoParty { party, path });
    }
    let kind = party.issued_by();
    let holder = Holder::read(layout, party)?;
    let stage = Stage::read(layout, kind)?;
    let (operations, rotated) = steps::renew(&holder, stage.issuer(), options.lifetime, now)?;
    Ok((Change::new(operations.into()), rotated))
}

/// One lock for all folders, in that of the CAs.
///
/// The time is asked for under the lock: with one from before a long wait for the lock, a wait that
/// is counted from it would be too short.
fn lock(layout: &Layout) -> Result<Lock, RotateError> {
    let path = layout.authorities();
    // Waiting for the lock would make it.
    if !path.is_dir() {
        return Err(RotateError::NoAuthorities { path });
    }
    let lock = Lock::wait(&path)?;
    let swept = layout.sweep_parties();
    swept.map_err(|(path, source)| FileError::Read { path, source })?;
    Ok(lock)
}

/// What [`rotate_leaf`] is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeafOptions {
    /// How long the new certificate is valid: as long as the old one was, if not said.
    pub lifetime: Option<Duration>,
}

/// What [`rotate_authority`] is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthorityOptions {
    /// How long the new CA is valid. Only [`RotationStep::Trust`] makes one.
    pub lifetime: Duration,
    /// How often the server looks for new files (`global.tls.refreshInterval`).
    pub refresh_interval: Duration,
    /// How long a replaced file takes to reach its readers.
    pub propagation: Duration,
    /// Every temporal-server was restarted since [`RotationStep::Trust`]: asked of the internode CA.
    pub servers_restarted: bool,
}

impl AuthorityOptions {
    /// How long a step waits, so that the step before has been seen everywhere.
    #[must_use]
    pub fn wait(&self) -> Duration {
        self.refresh_interval
            .saturating_add(self.propagation)
            .min(LONGEST_WAIT)
    }
}

impl Default for AuthorityOptions {
    fn default() -> Self {
        Self {
            lifetime: InitOptions::AUTHORITY_LIFETIME,
            // A server that is told to look once a minute.
            refresh_interval: Duration::from_secs(60),
            // Enough for files on the same machine, which are looked at once a second.
            propagation: Duration::from_secs(10),
            servers_restarted: false,
        }
    }
}

/// One step of the rotation of a CA. What stands here of each is in `--help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum RotationStep {
    /// Make the new CA; trust both
    Trust,
    /// Make all certificates anew under the new CA; destroy the old key
    Reissue,
    /// Trust the new CA alone
    Retire,
}

impl fmt::Display for RotationStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Trust => "trust",
            Self::Reissue => "reissue",
            Self::Retire => "retire",
        })
    }
}

/// A party has a new certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafRotated {
    /// Who.
    pub party: Party,
    /// What stood there before, if that could be read.
    pub old: Option<CertificateSummary>,
    /// What stands there now.
    pub new: CertificateSummary,
    /// Its life was cut at the end of its CA's.
    pub capped: bool,
}

/// A step of the rotation of a CA is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityRotated {
    /// Which CA.
    pub kind: AuthorityKind,
    /// Which step.
    pub step: RotationStep,
    /// It was done before, and nothing was changed.
    pub already: bool,
    /// The CA that is going. Not known any more once it is gone.
    pub old: Option<CertificateSummary>,
    /// The CA that is coming.
    pub new: CertificateSummary,
    /// Whose certificates were made anew.
    pub leaves: Vec<LeafRotated>,
    /// The files of trusted CAs that were written.
    pub trust: Vec<PathBuf>,
    /// Parties without a folder, which were left out.
    pub absent: Vec<Party>,
    /// What comes next; nothing after [`RotationStep::Retire`].
    pub next: Option<NextStep>,
}

/// How the rotation of a CA goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextStep {
    /// [`RotationStep::Trust`] where no rotation is under way, or its first step was interrupted.
    pub step: RotationStep,
    /// When the step before was done, where there is one and that is known.
    pub since: Option<SystemTime>,
    /// Not before.
    pub due: SystemTime,
}

impl NextStep {
    /// Whether a step was done, and others are still to be.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        self.step != RotationStep::Trust
    }
}

impl LeafRotated {
    fn log(&self) {
        info!(
            party = self.party.name(),
            old_serial = serial(self.old.as_ref()),
            new_serial = self.new.serial,
            issuer = self.new.issuer,
            expires_at = %format_rfc3339_seconds(self.new.not_after),
            "rotated a certificate"
        );
    }
}

impl AuthorityRotated {
    fn log(&self) {
        if self.already {
            return;
        }
        for leaf in &self.leaves {
            leaf.log();
        }
        info!(
            authority = self.kind.name(),
            step = %self.step,
            old_serial = serial(self.old.as_ref()),
            new_serial = self.new.serial,
            issuer = self.new.issuer,
            expires_at = %format_rfc3339_seconds(self.new.not_after),
            "did a step of the rotation of a CA"
        );
    }
}

fn serial(certificate: Option<&CertificateSummary>) -> &str {
    certificate.map_or("none", |certificate| &certificate.serial)
}

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
        match self {
            Self::Lifetime { .. }
            | Self::NoAuthorities { .. }
            | Self::NoParty { .. }
            | Self::Next { .. }
            | Self::File(_) => true,
            Self::Authority(error) => error.is_of_a_file(),
            _ => false,
        }
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
