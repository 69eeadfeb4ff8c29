//! `keyutil pki rotate`: renews the certificate of a party, or replaces a CA in three steps.
//!
//! | step | effect | why the step waits |
//! |---|---|---|
//! | `trust` | creates a new CA; all parties that verify certificates of this CA trust both | |
//! | `reissue` | renews all certificates of this CA under the new one, and removes the old key | a party that has not read the new CA yet would refuse them |
//! | `retire` | only the new CA is trusted | a party that still presents an old certificate would be refused |
//!
//! `ca/<name>.crt` and `.key` are the issuing CA. `<name>-next.*` exists from `trust` to the end of
//! `reissue`, `<name>-previous.crt` from then to `retire`. These files record the progress of a
//! rotation, and `ca/rotation.json` the time of its last step.
//!
//! A step is planned in memory, from the files on disk, and then written file by file. The process
//! may die between any two files: no party is refused then, exactly one CA issues, and the same
//! command continues from there.
//!
//! | what | where |
//! |---|---|
//! | the files on disk, and the progress of a rotation | `rotate/state.rs` |
//! | the three steps, and the renewal of a leaf | `rotate/steps.rs` |

mod state;
mod steps;
#[cfg(test)]
mod tests;

pub(super) use state::RotationState;
pub(super) use steps::lifetime_of;

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
    init::days, pair,
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

/// Creates a new key and certificate for this party, with the names of the old certificate.
///
/// # Errors
/// [`RotateError`]. Nothing was changed, unless the variant says otherwise.
pub fn rotate_leaf(
    layout: &Layout,
    party: Party,
    options: &LeafOptions,
    clock: impl FnOnce() -> SystemTime,
) -> Result<LeafRotated, RotateError> {
    let _lock = lock(layout)?;
    switch_leaf(layout, party, options.lifetime, clock())
}

/// As [`rotate_leaf`], but only if `is_due` is true once the lock is held.
pub(super) fn rotate_leaf_if(
    layout: &Layout,
    party: Party,
    lifetime: Option<Duration>,
    clock: impl FnOnce() -> SystemTime,
    is_due: impl FnOnce(SystemTime) -> Result<bool, RotateError>,
) -> Result<Option<LeafRotated>, RotateError> {
    let _lock = lock(layout)?;
    let now = clock();
    if !is_due(now)? {
        return Ok(None);
    }
    switch_leaf(layout, party, lifetime, now).map(Some)
}

fn switch_leaf(
    layout: &Layout,
    party: Party,
    lifetime: Option<Duration>,
    now: SystemTime,
) -> Result<LeafRotated, RotateError> {
    let (change, rotated) = plan_leaf(layout, party, lifetime, now)?;
    change.apply()?;
    rotated.log();
    Ok(rotated)
}

/// Does one step of the rotation of this CA. A step that was done already changes nothing.
///
/// # Errors
/// [`RotateError`]. Nothing was changed, unless the variant says otherwise.
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

/// Returns the next step of the rotation of this CA.
///
/// # Errors
/// [`RotateError`], when the files of the CA are missing or unusable.
pub fn next_step(
    layout: &Layout,
    kind: AuthorityKind,
    options: &AuthorityOptions,
    now: SystemTime,
) -> Result<NextStep, RotateError> {
    let _lock = lock(layout)?;
    Ok(RotationState::read(layout, kind)?.next_step(options, now))
}

pub(super) fn plan_leaf(
    layout: &Layout,
    party: Party,
    lifetime: Option<Duration>,
    now: SystemTime,
) -> Result<(Change, LeafRotated), RotateError> {
    let path = layout.party_folder(party);
    if !path.is_dir() {
        return Err(RotateError::NoParty { party, path });
    }
    let kind = party.issued_by();
    let holder = Holder::read(layout, party)?;
    let stage = Stage::read(layout, kind)?;
    let (operations, rotated) = steps::renew(&holder, stage.issuer(), lifetime, now)?;
    Ok((Change::new(operations.into()), rotated))
}

/// Locks the folder of the CAs; one lock covers all folders.
///
/// Callers ask for the time while they hold the lock: after a long wait for the lock an earlier
/// time would make the waits that are counted from it too short.
pub(super) fn lock(layout: &Layout) -> Result<Lock, RotateError> {
    let path = layout.authorities();
    // Taking the lock would create the folder.
    if !path.is_dir() {
        return Err(RotateError::NoAuthorities { path });
    }
    let lock = Lock::wait(&path)?;
    let mended = pair::mend(layout);
    mended.map_err(|(path, source)| WriteError { path, source })?;
    Ok(lock)
}

/// Completes or undoes the replacement of pairs that a run was interrupted in, see [`pair::mend`].
/// Takes the lock only if there is one.
pub(super) fn mend(layout: &Layout) -> Result<(), RotateError> {
    if pair::is_unfinished(layout) {
        lock(layout)?;
    }
    Ok(())
}

/// The options of [`rotate_leaf`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeafOptions {
    /// The lifetime of the new certificate; by default that of the old one.
    pub lifetime: Option<Duration>,
}

/// The options of [`rotate_authority`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthorityOptions {
    /// The lifetime of the new CA. Only [`RotationStep::Trust`] creates one.
    pub lifetime: Duration,
    /// How often the server checks for new files (`global.tls.refreshInterval`).
    pub refresh_interval: Duration,
    /// How long a replaced file takes to reach its readers.
    pub propagation: Duration,
    /// The lifetime of the certificates that [`RotationStep::Reissue`] renews; by default that of the
    /// replaced ones.
    pub leaf_lifetime: Option<Duration>,
    /// Whether every temporal-server was restarted since [`RotationStep::Trust`]; required for the
    /// internode CA.
    pub servers_restarted: bool,
}

impl AuthorityOptions {
    /// Returns how long a step waits for the step before to take effect everywhere.
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
            // A `refreshInterval` of one minute.
            refresh_interval: Duration::from_secs(60),
            // Enough for files on the same machine, which are checked once a second.
            propagation: Duration::from_secs(10),
            leaf_lifetime: None,
            servers_restarted: false,
        }
    }
}

/// A step of the rotation of a CA. `--help` shows the documentation of the variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum RotationStep {
    /// Create the new CA; trust both
    Trust,
    /// Renew all certificates under the new CA; destroy the old key
    Reissue,
    /// Trust only the new CA
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

/// The result of renewing the certificate of a party.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafRotated {
    /// The holder of the certificate.
    pub party: Party,
    /// The old certificate, if it could be read.
    pub old: Option<CertificateSummary>,
    /// The new certificate.
    pub new: CertificateSummary,
    /// Whether the lifetime was shortened to that of the CA.
    pub capped: bool,
}

/// The result of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityRotated {
    /// The CA that is rotated.
    pub kind: AuthorityKind,
    /// The step.
    pub step: RotationStep,
    /// Whether the step was done before; nothing was changed then.
    pub already: bool,
    /// The CA that is being replaced. Unknown once it is gone.
    pub old: Option<CertificateSummary>,
    /// The CA that replaces it.
    pub new: CertificateSummary,
    /// The certificates that were renewed.
    pub leaves: Vec<LeafRotated>,
    /// The files of trusted CAs that were written.
    pub trust: Vec<PathBuf>,
    /// Parties without a folder, which were skipped.
    pub absent: Vec<Party>,
    /// The next step; none after [`RotationStep::Retire`].
    pub next: Option<NextStep>,
}

/// The next step of a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextStep {
    /// [`RotationStep::Trust`] if no rotation is under way, or its first step was interrupted.
    pub step: RotationStep,
    /// When the previous step was done, if known.
    pub since: Option<SystemTime>,
    /// The earliest time of the step.
    pub due: SystemTime,
}

impl NextStep {
    /// Returns whether a rotation has begun and is not finished.
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
            "certificate rotated"
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
            "CA rotation step done"
        );
    }
}

fn serial(certificate: Option<&CertificateSummary>) -> &str {
    certificate.map_or("none", |certificate| &certificate.serial)
}

/// A rotation was refused or failed. Nothing was changed, unless the variant says otherwise.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what they are")]
pub enum RotateError {
    #[error("no CAs in `{}`", path.display())]
    NoAuthorities { path: PathBuf },
    #[error("no folder `{}` for the certificate of {}", path.display(), party.name())]
    NoParty { party: Party, path: PathBuf },
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("failed to load the CA that replaces the {} CA", kind.name())]
    Next {
        kind: AuthorityKind,
        source: AuthorityError,
    },
    #[error(transparent)]
    File(#[from] FileError),
    #[error("the certificate of {} has an unsupported name", party.name())]
    Name { party: Party, source: NameError },
    #[error("invalid lifetime `{}`", days(*lifetime))]
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
    /// If the time of the previous step was unknown, it has been recorded as now.
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
    /// Servers keep the old CA in memory until they exit.
    #[error(
        "too early for the step `reissue` of the internode CA: a temporal-server process started \
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
    /// The party would refuse the new certificates.
    #[error("{} does not trust the new {} CA yet: `{}`", party.name(), kind.name(), path.display())]
    NotTrusted {
        kind: AuthorityKind,
        party: Party,
        path: PathBuf,
    },
    /// The party would be refused.
    #[error("the certificate of {} is not issued by the new {} CA: `{}`", party.name(), kind.name(), path.display())]
    NotReissued {
        kind: AuthorityKind,
        party: Party,
        path: PathBuf,
    },
    /// The files before this one were written; the next run continues from there.
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("failed to serialize the record of the rotations")]
    Record(#[source] serde_json::Error),
}

impl RotateError {
    /// Returns whether the same call may succeed later.
    pub fn is_too_early(&self) -> bool {
        matches!(self, Self::TooEarly { .. } | Self::ServersNotRestarted)
    }

    /// Returns whether the arguments, or files named by them, are at fault.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Lifetime { .. }
            | Self::NoAuthorities { .. }
            | Self::NoParty { .. }
            | Self::Next { .. }
            | Self::File(_) => true,
            Self::Authority(error) => error.concerns_file(),
            _ => false,
        }
    }

    /// Returns what to do about it, if known.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::NoAuthorities { .. } => {
                "`--dir` must name the folder that `keyutil pki init` wrote, with its folder `ca`"
            }
            Self::NoParty { .. } => {
                "if the party is on another machine, copy its folder here, and the new files back"
            }
            Self::Next { .. } => {
                "restore its files `<name>-next.crt` and `<name>-next.key`; if it has not issued any \
                 certificate yet (`keyutil pki list`), remove both, and start again with the step \
                 `trust`"
            }
            Self::Expired { .. } => {
                "rotate the CA itself, for example with `keyutil pki rotate client-ca`; if it is the \
                 new CA of a rotation, remove its files `<name>-next.crt` and `<name>-next.key`, and \
                 start again with the step `trust`"
            }
            Self::NotYetValid { .. } => {
                "the clock of this machine is wrong, or was wrong when the CA was created"
            }
            Self::TooEarly { .. } => {
                "parties that have not read the files of the previous step would fail; without \
                 `--step` the command waits"
            }
            Self::ServersNotRestarted => {
                "a server reads `rootCaFiles` of internode only once: restart every \
                 temporal-server process, then run the same command with `--servers-restarted`"
            }
            Self::OutOfOrder { hint, .. } => hint,
            Self::NotTrusted { .. } => "run the step `trust` again: it adds the new CA",
            Self::NotReissued { .. } => {
                "renew that certificate, for example with `keyutil pki rotate worker`, and copy it to \
                 where it is used"
            }
            Self::Write(_) => {
                "no certificate or key is half written: fix the cause, then run the same command, \
                 which continues where it stopped"
            }
            _ => return None,
        })
    }
}

/// Rounds up, so that a run after this time is not too early.
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
