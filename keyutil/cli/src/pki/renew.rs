//! `keyutil pki renew`: an agent that renews certificates, and rotates CAs, before they expire.
//!
//! A certificate is renewed when between a third and a quarter of its life is left. The exact moment
//! follows from its serial number, so that certificates that were made in the same second are not
//! renewed in the same second, and a restart changes nothing. A CA that is due goes through the three
//! steps of [`rotate`](super::rotate), with their waits; each turn does the step that is due, if any.
//!
//! The files are read without the lock, which is held for one certificate or one step at a time. A
//! failure keeps the files, and is retried at growing intervals.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use axum::{Router, extract::State, routing::get};
use humantime::{format_duration, format_rfc3339_seconds};
use parking_lot::Mutex;
use tracing::{error, info, warn};

use super::{
    AuthorityKind, AuthorityOptions, AuthorityRotated, Layout, LeafRotated, Party, RotateError,
    RotationStep,
    bundle::Bundle,
    pair,
    rotate::{self, RotationState, lifetime_of},
};
use keyutil::{
    base::{chain, time::rfc3339},
    credentials::Refresh,
    health::{alive, answer, metrics::Numbers, metrics_answer},
    status::{CredentialStatus, Failure, STALL_LIMIT},
    x509::certificate::CertificateSummary,
};

/// The options of a [`Renewal`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RenewOptions {
    /// The lifetime of new leaf certificates; by default that of the replaced one.
    pub leaf_lifetime: Option<Duration>,
    /// The lifetime of new CAs for clients and frontend; by default that of the replaced one. A new
    /// internode CA always has that of the replaced one, because its rotation takes restarts.
    pub authority_lifetime: Option<Duration>,
    /// See [`AuthorityOptions::refresh_interval`].
    pub refresh_interval: Duration,
    /// See [`AuthorityOptions::propagation`].
    pub propagation: Duration,
}

impl RenewOptions {
    /// Checks that a renewed certificate reaches its readers before the old one expires.
    ///
    /// # Errors
    /// [`LifetimeError`].
    pub fn check(&self) -> Result<(), LifetimeError> {
        let wait = self.authority().wait();
        // A leaf is renewed with at least a quarter of its life left, and then read by its users. A
        // CA has two waits in that time.
        for (flag, lifetime, shortest) in [
            (
                "--leaf-lifetime",
                self.leaf_lifetime,
                wait.saturating_mul(4),
            ),
            (
                "--ca-lifetime",
                self.authority_lifetime,
                wait.saturating_mul(12),
            ),
        ] {
            if let Some(lifetime) = lifetime.filter(|lifetime| *lifetime < shortest) {
                return Err(LifetimeError {
                    flag,
                    lifetime,
                    shortest,
                });
            }
        }
        Ok(())
    }

    fn authority(&self) -> AuthorityOptions {
        AuthorityOptions {
            refresh_interval: self.refresh_interval,
            propagation: self.propagation,
            leaf_lifetime: self.leaf_lifetime,
            ..AuthorityOptions::default()
        }
    }
}

/// A lifetime that is too short for a renewed certificate to reach its readers in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{flag}` must be {} or more, so that all readers have the next certificate before this one \
     expires (`--refresh-interval`, `--propagation`): `{}`",
    format_duration(*shortest),
    format_duration(*lifetime)
)]
pub struct LifetimeError {
    flag: &'static str,
    lifetime: Duration,
    shortest: Duration,
}

/// A certificate that the agent manages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The CA that issues.
    Authority(AuthorityKind),
    /// The certificate of a party.
    Leaf(Party),
}

impl Subject {
    /// All CAs, each followed by the holders of its certificates.
    fn all() -> impl Iterator<Item = Self> {
        AuthorityKind::ALL.into_iter().flat_map(|kind| {
            let leaves = kind.holders().map(Self::Leaf);
            std::iter::once(Self::Authority(kind)).chain(leaves)
        })
    }

    /// Returns its name in metrics, logs and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Authority(AuthorityKind::Clients) => "client-ca",
            Self::Authority(AuthorityKind::Frontend) => "frontend-ca",
            Self::Authority(AuthorityKind::Internode) => "internode-ca",
            Self::Leaf(party) => party.name(),
        }
    }
}

/// A renewal, or a step of a rotation, that was performed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewed {
    /// A step of the rotation of a CA.
    Authority(AuthorityRotated),
    /// A renewed certificate.
    Leaf(LeafRotated),
}

/// The result of one turn.
#[derive(Debug)]
pub struct Turn {
    /// What was done, in order.
    pub renewed: Vec<Renewed>,
    /// What failed.
    pub failed: Vec<(Subject, RotateError)>,
    /// When the next renewal or step is due.
    pub next: SystemTime,
}

/// Renews the certificates of one folder. Clones share the state.
#[derive(Clone, Debug)]
pub struct Renewal {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    layout: Layout,
    options: RenewOptions,
    state: Mutex<Progress>,
    /// Locked while files may be changed.
    working: Mutex<()>,
}

#[derive(Debug)]
struct Progress {
    managed: Vec<Managed>,
    /// When the files are read again.
    look_at: SystemTime,
    /// When they were last read, on the monotonic clock.
    looked_at: Instant,
}

/// The state of one certificate.
#[derive(Clone, Debug)]
struct Managed {
    subject: Subject,
    /// `None` for a party without a folder, and until the files were read.
    certificate: Option<CertificateSummary>,
    due: SystemTime,
    /// The number of renewals or steps.
    renewals: u64,
    failures: u64,
    failure: Option<Failure>,
    /// The number of failures in a row.
    attempts: u32,
    /// Whether the servers must be restarted before the next step.
    restart_needed: bool,
}

/// What was found at one certificate, and what was done.
struct Looked {
    certificate: Option<CertificateSummary>,
    due: SystemTime,
    renewed: Option<Renewed>,
    restart_needed: bool,
}

impl Looked {
    fn at(certificate: Option<CertificateSummary>, due: SystemTime) -> Self {
        Self {
            certificate,
            due,
            renewed: None,
            restart_needed: false,
        }
    }
}

impl Renewal {
    /// Creates an agent for this folder, without reading anything yet.
    pub fn new(layout: Layout, options: RenewOptions) -> Self {
        let managed = |subject| Managed {
            subject,
            certificate: None,
            due: SystemTime::UNIX_EPOCH,
            renewals: 0,
            failures: 0,
            failure: None,
            attempts: 0,
            restart_needed: false,
        };
        Self {
            shared: Arc::new(Shared {
                layout,
                options,
                state: Mutex::new(Progress {
                    managed: Subject::all().map(managed).collect(),
                    look_at: SystemTime::UNIX_EPOCH,
                    looked_at: Instant::now(),
                }),
                working: Mutex::new(()),
            }),
        }
    }

    /// Does everything that is due, except what has failed and waits for its next attempt.
    ///
    /// # Errors
    /// [`RotateError::NoAuthorities`], when the folder has no CAs.
    pub fn turn(&self, clock: impl Fn() -> SystemTime) -> Result<Turn, RotateError> {
        let Shared {
            layout,
            state,
            working,
            ..
        } = &*self.shared;
        let _working = working.lock();
        let path = layout.authorities();
        if !path.is_dir() {
            return Err(RotateError::NoAuthorities { path });
        }
        rotate::mend(layout)?;
        let (mut renewed, mut failed) = (Vec::new(), Vec::new());
        for (index, subject) in Subject::all().enumerate() {
            let now = clock();
            let managed = state.lock().managed[index].clone();
            if managed.attempts > 0 && is_ahead(managed.due, now) {
                continue;
            }
            let looked = match subject {
                Subject::Authority(kind) => self.authority(kind, &clock),
                Subject::Leaf(party) => self.leaf(party, &clock),
            };
            let mut state = state.lock();
            match looked {
                Ok(looked) => renewed.extend(state.managed[index].succeeded(looked)),
                Err(failure) => {
                    let managed = &mut state.managed[index];
                    managed.failed(&failure, now);
                    error!(
                        certificate = subject.name(),
                        error = chain(&failure),
                        hint = failure.hint(),
                        expires_at = managed.expiry().map(rfc3339),
                        retry_in = %format_duration(managed.pause()),
                        "failed to renew the certificate, and kept it"
                    );
                    failed.push((subject, failure));
                }
            }
        }
        let now = clock();
        let mut state = state.lock();
        let due = state.managed.iter().map(|managed| managed.due);
        let next = due.min().unwrap_or(now);
        state.look_at = next.min(now + LOOK_INTERVAL);
        state.looked_at = Instant::now();
        Ok(Turn {
            renewed,
            failed,
            next,
        })
    }

    /// Begins the rotation of a CA, or performs its next step, if that is due.
    fn authority(
        &self,
        kind: AuthorityKind,
        clock: &impl Fn() -> SystemTime,
    ) -> Result<Looked, RotateError> {
        let Shared {
            layout, options, ..
        } = &*self.shared;
        let now = clock();
        let state = self.read(kind)?;
        let next = state.next_step(&options.authority(), now);
        let issuer = state.issuer().clone();
        let due = match next.step {
            // A step that was interrupted is finished at once. A leaf that would outlive the CA is
            // renewed by the next CA, which issues after one wait.
            RotationStep::Trust if state.is_idle() => {
                let leaves = state.leaves();
                let outliving = leaves.filter(|leaf| self.outlives(leaf, &issuer, now));
                let due = outliving.map(|leaf| renewal_due(leaf) - 2 * options.authority().wait());
                due.chain([renewal_due(&issuer)]).min().unwrap_or(now)
            }
            _ => next.due,
        };
        let mut looked = Looked::at(Some(issuer.clone()), due);
        if due > now {
            return Ok(looked);
        }
        let lifetime = options.authority_lifetime;
        let lifetime = lifetime.filter(|_| kind != AuthorityKind::Internode);
        let last_call = issuer.not_after - lifetime_of(&issuer) / 8;
        let step = AuthorityOptions {
            lifetime: lifetime.unwrap_or_else(|| lifetime_of(&issuer)),
            // A server that has not been restarted by then loses its peers in any case, when the CA
            // expires.
            servers_restarted: last_call <= now,
            ..options.authority()
        };
        match rotate::rotate_authority(layout, kind, next.step, &step, clock) {
            Ok(rotated) => {
                let new = rotated.next.map(|next| next.due);
                looked.due = new.unwrap_or_else(|| renewal_due(&rotated.new));
                if next.step != RotationStep::Trust {
                    looked.certificate = Some(rotated.new.clone());
                }
                looked.renewed = (!rotated.already).then_some(Renewed::Authority(rotated));
            }
            Err(RotateError::TooEarly { left, .. }) => looked.due = now + left,
            Err(RotateError::ServersNotRestarted) => {
                looked.restart_needed = true;
                looked.due = last_call;
            }
            Err(failure) => return Err(failure),
        }
        Ok(looked)
    }

    /// Renews the certificate of a party if that is due.
    fn leaf(&self, party: Party, clock: &impl Fn() -> SystemTime) -> Result<Looked, RotateError> {
        let layout = &self.shared.layout;
        if !layout.party_folder(party).is_dir() {
            return Ok(Looked::at(None, clock() + LOOK_INTERVAL));
        }
        let (leaf, due) = self.leaf_due(&self.read(party.issued_by())?, party, clock())?;
        let mut looked = Looked::at(Some(leaf), due);
        if due > clock() {
            return Ok(looked);
        }
        let lifetime = self.shared.options.leaf_lifetime;
        // Another process may have renewed it in the meantime.
        let is_due = |now| {
            let state = RotationState::read(layout, party.issued_by())?;
            Ok(self.leaf_due(&state, party, now)?.1 <= now)
        };
        if let Some(rotated) = rotate::rotate_leaf_if(layout, party, lifetime, clock, is_due)? {
            looked.due = renewal_due(&rotated.new);
            looked.certificate = Some(rotated.new.clone());
            looked.renewed = Some(Renewed::Leaf(rotated));
        }
        Ok(looked)
    }

    /// Returns the certificate of a party, and when it is due. One that cannot be read is an error:
    /// its names would be lost.
    fn leaf_due(
        &self,
        state: &RotationState,
        party: Party,
        now: SystemTime,
    ) -> Result<(CertificateSummary, SystemTime), RotateError> {
        let files = self.shared.layout.party(party);
        let leaf = Bundle::read(&files.certificate)?.first().summary().clone();
        let issuer = state.issuer();
        // The rotation of the internode CA may wait a long time for a restart of the servers.
        let blocked = party.issued_by() == AuthorityKind::Internode && !state.is_idle();
        let gains = leaf.not_after < issuer.not_after;
        let due = renewal_due(&leaf);
        let due = if !pair::is_pair(&files.certificate, &files.key) {
            now
        } else if self.outlives(&leaf, issuer, now) && !(blocked && gains) {
            // The rotation of the CA, which is due by then, renews it.
            issuer.not_after
        } else {
            due
        };
        Ok((leaf, due))
    }

    /// Returns whether a certificate that replaces `leaf` now would live longer than its CA.
    fn outlives(
        &self,
        leaf: &CertificateSummary,
        issuer: &CertificateSummary,
        now: SystemTime,
    ) -> bool {
        let lifetime = self.shared.options.leaf_lifetime;
        let end = now.checked_add(lifetime.unwrap_or_else(|| lifetime_of(leaf)));
        end.is_none_or(|end| end > issuer.not_after)
    }

    /// Reads without the lock. What cannot be read is read again under the lock: another process may
    /// have been replacing it.
    fn read(&self, kind: AuthorityKind) -> Result<RotationState, RotateError> {
        let layout = &self.shared.layout;
        RotationState::read(layout, kind).or_else(|_| {
            let _lock = rotate::lock(layout)?;
            RotationState::read(layout, kind)
        })
    }

    /// Prevents further changes, and waits for one that is being made, for up to five seconds.
    pub fn stop(self) {
        let guard = self.shared.working.try_lock_for(Duration::from_secs(5));
        // Never unlocked: otherwise the thread could begin another turn before the process ends.
        std::mem::forget(guard);
    }

    /// Checks that every certificate can be renewed, and that none is about to expire.
    ///
    /// # Errors
    /// Returns every reason why it is not ready.
    pub fn readiness(&self) -> Result<(), Vec<String>> {
        let reasons = self.reasons_at(SystemTime::now(), Instant::now());
        if reasons.is_empty() {
            Ok(())
        } else {
            Err(reasons)
        }
    }

    fn reasons_at(&self, now: SystemTime, monotonic: Instant) -> Vec<String> {
        let state = self.shared.state.lock();
        let mut reasons: Vec<_> = state
            .managed
            .iter()
            .filter_map(|managed| managed.reason(now))
            .collect();
        let silent = monotonic.saturating_duration_since(state.looked_at);
        if silent > STALL_LIMIT {
            reasons.push(format!(
                "the certificates have not been checked for {} s: their file system does not answer",
                silent.as_secs()
            ));
        }
        reasons
    }

    fn render(&self) -> prometheus::Result<String> {
        let numbers = Numbers::default();
        numbers.ready(self.readiness().is_ok())?;
        let managed = self.shared.state.lock().managed.clone();
        let credentials: Vec<_> = managed
            .iter()
            .filter_map(|managed| Some((managed.subject.name(), managed.status()?)))
            .collect();
        let named = credentials.iter().map(|(name, status)| (*name, status));
        numbers.expiry(named)?;
        let all = || {
            managed
                .iter()
                .map(|managed| (managed.subject.name(), managed))
        };
        numbers.counts(
            "certificate_renewals_total",
            "Renewals of a certificate, and steps of the rotation of a CA",
            all().map(|(name, managed)| (name, managed.renewals)),
        )?;
        numbers.counts(
            "certificate_renewal_failures_total",
            "Failed attempts to renew a certificate or rotate a CA",
            all().map(|(name, managed)| (name, managed.failures)),
        )?;
        numbers.flags(
            "certificate_renewal_failing",
            "1 while a certificate cannot be renewed or a CA cannot be rotated",
            all().map(|(name, managed)| (name, managed.failure.is_some())),
        )?;
        numbers.flags(
            "certificate_restart_needed",
            "1 while the rotation of a CA waits for a restart of the servers",
            all().map(|(name, managed)| (name, managed.restart_needed)),
        )?;
        numbers.text()
    }
}

impl Refresh for Renewal {
    fn refresh(&self) {
        let now = SystemTime::now();
        {
            let mut state = self.shared.state.lock();
            if is_ahead(state.look_at, now) {
                state.looked_at = Instant::now();
                return;
            }
        }
        if let Err(failure) = self.turn(SystemTime::now) {
            // The folder is gone, or cannot be locked.
            let mut state = self.shared.state.lock();
            let fail = |managed: &mut Managed| {
                managed.failed(&failure, now);
                managed.pause()
            };
            let pause = state.managed.iter_mut().map(fail).max();
            let pause = pause.unwrap_or(FIRST_PAUSE);
            state.look_at = now + pause;
            state.looked_at = Instant::now();
            error!(
                error = chain(&failure),
                hint = failure.hint(),
                retry_in = %format_duration(pause),
                "failed to renew the certificates"
            );
        }
    }
}

impl Managed {
    fn succeeded(&mut self, looked: Looked) -> Option<Renewed> {
        let name = self.subject.name();
        if let Some(failure) = self.failure.take() {
            let since = rfc3339(failure.since);
            info!(
                certificate = name,
                since, "the certificate can be renewed again"
            );
        }
        if looked.restart_needed && !self.restart_needed {
            warn!(
                certificate = name,
                until = rfc3339(looked.due),
                "the rotation of the CA waits for a restart of every temporal-server: restart \
                 them, then run `keyutil pki rotate internode-ca --servers-restarted`"
            );
        }
        self.attempts = 0;
        self.renewals += u64::from(looked.renewed.is_some());
        self.certificate = looked.certificate;
        self.due = looked.due;
        self.restart_needed = looked.restart_needed;
        looked.renewed
    }

    fn failed(&mut self, failure: &RotateError, now: SystemTime) {
        self.attempts += 1;
        self.failures += 1;
        self.due = now + self.pause();
        Failure::note(&mut self.failure, chain(failure), now);
    }

    /// The time between the last failure and the next attempt: 1, 2, 4 s and so on.
    fn pause(&self) -> Duration {
        let doubled = FIRST_PAUSE * 2_u32.pow(self.attempts.saturating_sub(1).min(6));
        doubled.min(LONGEST_PAUSE)
    }

    fn expiry(&self) -> Option<SystemTime> {
        self.certificate.as_ref().map(|found| found.not_after)
    }

    /// The reason why this certificate makes the agent not ready, if it does.
    fn reason(&self, now: SystemTime) -> Option<String> {
        let name = self.subject.name();
        let expires = self.expiry().map_or_else(String::new, |at| {
            format!("; it expires at {}", format_rfc3339_seconds(at))
        });
        if let Some(failure) = &self.failure {
            let since = rfc3339(failure.since);
            let reason = &failure.reason;
            return Some(format!(
                "{name}: could not be renewed since {since}: {reason}{expires}"
            ));
        }
        let certificate = self.certificate.as_ref()?;
        certificate
            .is_near_expiry(now)
            .then(|| format!("{name}: not renewed{expires}"))
    }

    fn status(&self) -> Option<CredentialStatus> {
        let certificate = self.certificate.as_ref()?;
        Some(CredentialStatus {
            in_use: Some(format!(
                "serial {}, issued by `{}`",
                certificate.serial, certificate.issuer
            )),
            id: Some(certificate.serial.clone()),
            valid_from: Some(certificate.not_before),
            valid_until: Some(certificate.not_after),
            ..CredentialStatus::fixed("")
        })
    }
}

/// Returns when a certificate is renewed: while between a third and a quarter of its life is left.
fn renewal_due(certificate: &CertificateSummary) -> SystemTime {
    let mut hasher = DefaultHasher::new();
    certificate.serial.hash(&mut hasher);
    let life = lifetime_of(certificate);
    let spread = life / 12 * (hasher.finish() % 1000) as u32 / 1000;
    certificate.not_after - life / 3 + spread
}

/// The longest time between two reads of the files, which other commands may change.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// The pause after the first failure. It doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Returns whether the next attempt is still to come. A time that is further ahead than the longest
/// pause does not count: the clock was set back since.
fn is_ahead(next: SystemTime, now: SystemTime) -> bool {
    let left = next.duration_since(now).unwrap_or_default();
    !left.is_zero() && left <= LONGEST_PAUSE
}

/// The routes of the agent: `/healthz`, `/readyz` and `/metrics`.
pub fn router(renewal: Renewal) -> Router {
    Router::new()
        .route("/healthz", get(alive))
        .route(
            "/readyz",
            get(|State(renewal): State<Renewal>| async move { answer(renewal.readiness()) }),
        )
        .route(
            "/metrics",
            get(|State(renewal): State<Renewal>| async move { metrics_answer(renewal.render()) }),
        )
        .with_state(renewal)
}

#[cfg(test)]
mod tests;
