//! The files of a CA on disk: progress and time of its rotation, holders of its certificates, and
//! their verifiers.

use std::{collections::BTreeMap, fs, path::PathBuf, time::SystemTime};

use serde::{Deserialize, Serialize};

use super::{AuthorityOptions, NextStep, RotateError, RotationStep};
use crate::{
    files::Operation,
    pki::{
        Authority, AuthorityKind, FileError, Layout, Party, PartyFiles,
        bundle::{Bundle, Certificate},
        pair,
    },
    wall_clock::{ClockRegression, Timestamp},
};
use keyutil::x509::certificate::CertificateSummary;

/// Everything that a step depends on, besides the time and the options.
pub(in super::super) struct RotationState {
    pub(super) kind: AuthorityKind,
    pub(super) layout: Layout,
    pub(super) stage: Stage,
    pub(super) holders: Vec<Holder>,
    pub(super) verifiers: Vec<Verifier>,
    /// Holders and verifiers without a folder: they are on other machines.
    pub(super) absent: Vec<Party>,
    record: Record,
}

/// The progress of a rotation.
pub(super) enum Stage {
    /// No rotation is under way.
    Idle(Authority),
    /// A new CA exists. It has issued some certificates, if the step `reissue` was interrupted
    /// early.
    Begun { old: Authority, new: Authority },
    /// The step `reissue` was interrupted late. The files of the issuing CA may be the certificate
    /// of one and the key of the other.
    Promoting { old: Certificate, new: Authority },
    /// The new CA issues; the old one is still trusted.
    Reissued { old: Certificate, new: Authority },
}

/// A party whose certificate this CA issues.
pub(super) struct Holder {
    pub(super) party: Party,
    pub(super) files: PartyFiles,
    /// `None` if the file is missing or broken.
    pub(super) chain: Option<Bundle>,
    pub(super) missing: bool,
    /// Whether the key matches the certificate.
    pub(super) paired: bool,
}

/// A party that verifies its peers with this CA.
pub(super) struct Verifier {
    pub(super) party: Party,
    pub(super) path: PathBuf,
    /// `None` if the file is missing or broken.
    pub(super) bundle: Option<Bundle>,
}

/// `rotation.json`: the last step of each CA, by name. Only times are taken from it; the
/// certificates show which CAs are trusted and which one issues.
type Record = BTreeMap<String, Entry>;

#[derive(Clone, Deserialize, Serialize)]
struct Entry {
    step: RotationStep,
    since: Timestamp,
    /// A later time that was recorded before the clock was set back. Once the clock shows it again,
    /// `since` was wrong, and the step counts as done at this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    clock_was_at: Option<Timestamp>,
    /// The serial number of the new CA, so that the entry is not used for another rotation.
    serial: String,
}

impl RotationState {
    pub(in super::super) fn read(
        layout: &Layout,
        kind: AuthorityKind,
    ) -> Result<Self, RotateError> {
        let is_here = |party: &Party| layout.party_folder(*party).is_dir();
        let concerned = |party: &Party| party.issued_by() == kind || party.trusts() == kind;
        let absent = |party: &Party| concerned(party) && !is_here(party);
        let holders = kind.holders().filter(is_here);
        let verifiers = kind.verifiers().filter(is_here);
        // Without a readable record the times count from now.
        let record = fs::read(layout.rotation_record()).unwrap_or_default();
        Ok(Self {
            kind,
            layout: layout.clone(),
            stage: Stage::read(layout, kind)?,
            holders: holders
                .map(|party| Holder::read(layout, party))
                .collect::<Result<_, _>>()?,
            verifiers: verifiers
                .map(|party| Verifier::read(layout, party))
                .collect::<Result<_, _>>()?,
            absent: Party::ALL.into_iter().filter(absent).collect(),
            record: serde_json::from_slice(&record).unwrap_or_default(),
        })
    }

    /// Returns the CA that issues now.
    pub(in super::super) fn issuer(&self) -> &CertificateSummary {
        self.stage.issuer().summary()
    }

    /// Returns whether no rotation is under way, not even an interrupted one.
    pub(in super::super) fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::Idle(_))
    }

    /// Returns the certificates of its holders, as far as they can be read.
    pub(in super::super) fn leaves(&self) -> impl Iterator<Item = &CertificateSummary> {
        let chains = self
            .holders
            .iter()
            .filter_map(|holder| holder.chain.as_ref());
        chains.map(|chain| chain.first().summary())
    }

    /// Returns the step that was completed last, and the new CA. `None` if no rotation is under
    /// way, or its first step was interrupted.
    pub(super) fn done(&self) -> Option<(RotationStep, &Authority)> {
        let (_, new) = self.stage.authorities();
        let trusted = || self.verifiers.iter().all(|verifier| verifier.trusts(new));
        let step = match &self.stage {
            Stage::Idle(_) => None,
            Stage::Begun { .. } => trusted().then_some(RotationStep::Trust),
            Stage::Promoting { .. } => Some(RotationStep::Trust),
            Stage::Reissued { .. } => Some(RotationStep::Reissue),
        };
        step.map(|step| (step, new))
    }

    /// Returns when that step was done, if known.
    pub(super) fn since(&self, now: SystemTime) -> Option<SystemTime> {
        let (step, new) = self.done()?;
        self.noted(step, new, now)
    }

    /// Returns the time from which the wait counts. A time so far in the future that the clock must
    /// have been set back is ignored.
    pub(super) fn waits_from(
        &self,
        options: &AuthorityOptions,
        now: SystemTime,
    ) -> Option<SystemTime> {
        let since = self.since(now);
        since.filter(|since| *since <= now + options.wait())
    }

    /// Returns the next step. Without a known time its wait counts from now.
    pub(in super::super) fn next_step(
        &self,
        options: &AuthorityOptions,
        now: SystemTime,
    ) -> NextStep {
        let from = self.waits_from(options, now).unwrap_or(now);
        let over = (from + options.wait()).max(now);
        let (step, due) = match self.done() {
            None => (RotationStep::Trust, now),
            Some((RotationStep::Trust, _)) => (RotationStep::Reissue, over),
            Some(_) => (RotationStep::Retire, over),
        };
        let since = self.since(now);
        NextStep { step, since, due }
    }

    /// Returns when this step was done with this new CA, if it was the last step and its time is
    /// known.
    pub(super) fn noted(
        &self,
        step: RotationStep,
        new: &Authority,
        now: SystemTime,
    ) -> Option<SystemTime> {
        let entry = self.record.get(self.kind.name())?;
        if entry.step != step || entry.serial != new.summary().serial {
            return None;
        }
        let from = entry.since;
        let corrected = |until| ClockRegression { from, until }.corrected(from, now);
        Some(entry.clock_was_at.map_or(from, corrected).0)
    }

    /// Records that this step was done now.
    pub(super) fn note(
        &self,
        step: RotationStep,
        new: &Authority,
        now: SystemTime,
    ) -> Result<Operation, RotateError> {
        let mut record = self.record.clone();
        let before = record.get(self.kind.name());
        let times = before.map(|entry| [Some(entry.since), entry.clock_was_at]);
        let times = times.into_iter().flatten().flatten();
        let regression = ClockRegression::at(now, times, None);
        let entry = Entry {
            step,
            since: Timestamp(now),
            clock_was_at: regression.map(|regression| regression.until),
            serial: new.summary().serial.clone(),
        };
        record.insert(self.kind.name().to_owned(), entry);
        let text = serde_json::to_string_pretty(&record).map_err(RotateError::Record)?;
        let path = self.layout.rotation_record();
        Ok(Operation::publish(path, text + "\n"))
    }
}

impl Stage {
    pub(super) fn read(layout: &Layout, kind: AuthorityKind) -> Result<Self, RotateError> {
        let files = layout.next_authority(kind);
        // An interruption may leave a key alone, but not a certificate alone.
        let new = files.certificate.exists().then(|| Authority::read(&files));
        let new = new.transpose();
        let new = new.map_err(|source| RotateError::Next { kind, source })?;
        let old = match Bundle::read(&layout.previous_authority(kind)) {
            Ok(bundle) => Some(bundle.first().clone()),
            Err(error) if error.is_missing() => None,
            Err(error) => return Err(error.into()),
        };
        let in_place = || Authority::read(&layout.authority(kind));
        Ok(match (old, new) {
            (Some(old), Some(new)) => Self::Promoting { old, new },
            (None, Some(new)) => Self::Begun {
                old: in_place()?,
                new,
            },
            (Some(old), None) => Self::Reissued {
                old,
                new: in_place()?,
            },
            (None, None) => Self::Idle(in_place()?),
        })
    }

    /// Returns the old CA, if there is one, and the new or only one.
    pub(super) fn authorities(&self) -> (Option<&Certificate>, &Authority) {
        match self {
            Self::Idle(new) => (None, new),
            Self::Begun { old, new } => (Some(old.certificate()), new),
            Self::Promoting { old, new } | Self::Reissued { old, new } => (Some(old), new),
        }
    }

    /// Returns the CA that issues now.
    pub(super) fn issuer(&self) -> &Authority {
        match self {
            Self::Begun { old, .. } => old,
            _ => self.authorities().1,
        }
    }
}

impl Holder {
    pub(super) fn read(layout: &Layout, party: Party) -> Result<Self, FileError> {
        let files = layout.party(party);
        let read = Bundle::read(&files.certificate);
        let missing = read.as_ref().is_err_and(FileError::is_missing);
        let paired = pair::is_pair(&files.certificate, &files.key);
        Ok(Self {
            party,
            files,
            chain: if_usable(read)?,
            missing,
            paired,
        })
    }

    /// Returns whether its certificate is issued by this CA; the key is not checked.
    pub(super) fn is_issued_by(&self, authority: &Authority) -> bool {
        let leaf = self.chain.as_ref().map(Bundle::first);
        leaf.is_some_and(|leaf| leaf.is_issued_by(authority.certificate()))
    }
}

impl Verifier {
    fn read(layout: &Layout, party: Party) -> Result<Self, FileError> {
        let path = layout.party(party).trust;
        let bundle = if_usable(Bundle::read(&path))?;
        Ok(Self {
            party,
            path,
            bundle,
        })
    }

    pub(super) fn trusts(&self, authority: &Authority) -> bool {
        let bundle = self.bundle.as_ref();
        bundle.is_some_and(|bundle| bundle.contains(authority.certificate()))
    }
}

/// A missing or broken file is replaced. A file that cannot be read at all may be intact.
fn if_usable(read: Result<Bundle, FileError>) -> Result<Option<Bundle>, FileError> {
    match read {
        Ok(bundle) => Ok(Some(bundle)),
        Err(error) if error.is_missing() => Ok(None),
        Err(FileError::Parse { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
