//! Plans the three steps: from the files on disk to the operations of a step.
//!
//! The order of a bundle matters. At each refresh the server compares the first certificate of each
//! CA file, and its own certificate, with the ones in memory; it keeps them if none differs
//! (`local_store_cert_provider.go` of 1.31, `isEqual`). The first certificate therefore changes at
//! each step: `old` → `new, old` → `old, new` → `new`.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use super::{
    AuthorityOptions, AuthorityRotated, LeafRotated, NextStep, RotateError, RotationStep,
    state::{Holder, RotationState, Stage, Verifier},
};
use crate::{
    files::{Change, Operation},
    pki::{
        Authority, AuthorityFiles, AuthorityKind, AuthorityRequest, BACK_DATED, FileError,
        InitOptions, LeafRequest, Validity,
        bundle::{Bundle, Certificate},
        pair,
    },
};
use keyutil::x509::certificate::CertificateSummary;

/// Returns the operations of a step, and its result once they are done. A refused step writes
/// nothing, except that one that is too early may record the start of its wait.
pub(super) fn plan(
    state: &RotationState,
    step: RotationStep,
    options: &AuthorityOptions,
    now: SystemTime,
) -> (Change, Rotated) {
    let mut draft = Draft {
        state,
        step,
        options,
        now,
        operations: Vec::new(),
        leaves: Vec::new(),
        trust: Vec::new(),
    };
    let result = draft.make();
    match result {
        Ok(_) | Err(RotateError::TooEarly { .. }) => (Change::new(draft.operations), result),
        Err(_) => (Change::default(), result),
    }
}

type Rotated = Result<AuthorityRotated, RotateError>;

/// A step while it is planned: operations are appended in order.
struct Draft<'a> {
    state: &'a RotationState,
    step: RotationStep,
    options: &'a AuthorityOptions,
    now: SystemTime,
    operations: Vec<Operation>,
    leaves: Vec<LeafRotated>,
    trust: Vec<PathBuf>,
}

impl Draft<'_> {
    fn make(&mut self) -> Rotated {
        use {RotationStep::*, Stage::*};
        let is_noted = self.state.since(self.now).is_some();
        match (self.step, &self.state.stage) {
            (Trust, Idle(old)) => self.begin(old.certificate()),
            (Trust, Begun { .. }) | (Reissue, Reissued { .. }) if is_noted => {
                Ok(self.done_before())
            }
            (Trust, Begun { old, new }) => {
                // A bundle that has both is left unchanged: `reissue` may have changed the order.
                self.trust_both(new.certificate(), old.certificate(), |verifier| {
                    !verifier.trusts(new) || !verifier.trusts(old)
                });
                self.finish(old.certificate(), new)
            }
            (Trust, Promoting { .. }) => self.out_of_order(
                "the step `reissue` is not finished",
                "continue with `--step reissue`",
            ),
            (Trust, Reissued { .. }) => self.out_of_order(
                "the previous rotation is not finished",
                "finish it with `--step retire`",
            ),
            (Reissue, Idle(_)) => {
                self.out_of_order("there is no new CA", "begin with `--step trust`")
            }
            (Reissue, Begun { old, new }) => self.reissue(old.certificate(), new),
            (Reissue, Promoting { old, new }) => self.reissue(old, new),
            (Reissue, Reissued { old, new }) => {
                // Only the record is missing, and perhaps a copy of the key is left.
                self.remove_next();
                self.finish(old, new)
            }
            (Retire, Idle(new)) if self.is_retired(new) => Ok(self.done_before()),
            (Retire, Idle(_)) => {
                self.out_of_order("no rotation is under way", "begin with `--step trust`")
            }
            (Retire, Begun { .. } | Promoting { .. }) => self.out_of_order(
                "the certificates are not reissued yet",
                "run `--step reissue` first",
            ),
            (Retire, Reissued { old, new }) => self.retire(old, new),
        }
    }

    fn begin(&mut self, old: &Certificate) -> Rotated {
        let (kind, lifetime) = (self.state.kind, self.options.lifetime);
        let validity = Validity::from_time(self.now, lifetime)
            .map_err(|source| RotateError::Lifetime { lifetime, source })?;
        let name = kind.name();
        let new = Authority::generate(&AuthorityRequest { name, validity })?;
        self.write(self.state.layout.next_authority(kind), &new);
        self.trust_both(new.certificate(), old, |_| true);
        self.finish(old, &new)
    }

    fn reissue(&mut self, old: &Certificate, new: &Authority) -> Rotated {
        let state = self.state;
        let distrusts = |verifier: &&Verifier| !verifier.trusts(new);
        if let Stage::Begun { .. } = state.stage
            && let Some(verifier) = state.verifiers.iter().find(distrusts)
        {
            return Err(RotateError::NotTrusted {
                kind: state.kind,
                party: verifier.party,
                path: verifier.path.clone(),
            });
        }
        // The internode client keeps its root CAs for the life of the process
        // (`cachedInternodeClientConfig`); everything else is read again.
        if state.kind == AuthorityKind::Internode && !self.options.servers_restarted {
            return Err(RotateError::ServersNotRestarted);
        }
        self.refuse_too_early()?;

        // First, so that a bundle restored from elsewhere is completed before it matters.
        self.trust_both(old, new.certificate(), |_| true);
        for holder in &state.holders {
            if !holder.paired || !holder.is_issued_by(new) {
                let (operations, rotated) =
                    renew(holder, new, self.options.leaf_lifetime, self.now)?;
                self.operations.extend(operations);
                self.leaves.push(rotated);
            }
        }
        // The new CA replaces the old one while its own pair of files is complete: the next run
        // continues from that pair if this one ends between key and certificate.
        let previous = state.layout.previous_authority(state.kind);
        self.publish(previous, &old.to_string());
        self.write(state.layout.authority(state.kind), new);
        self.remove_next();
        self.finish(old, new)
    }

    fn retire(&mut self, old: &Certificate, new: &Authority) -> Rotated {
        let state = self.state;
        let not_reissued = |holder: &&Holder| !holder.missing && !holder.is_issued_by(new);
        if let Some(holder) = state.holders.iter().find(not_reissued) {
            return Err(RotateError::NotReissued {
                kind: state.kind,
                party: holder.party,
                path: holder.files.certificate.clone(),
            });
        }
        let alone = Bundle::of(new.certificate().clone(), []);
        let is_alone = |verifier: &Verifier| verifier.bundle.as_ref() == Some(&alone);
        // If only the last operation is missing, the wait was over before.
        if !self.is_retired(new) || !state.verifiers.iter().all(is_alone) {
            self.refuse_too_early()?;
        }
        for verifier in &state.verifiers {
            self.trust_exactly(verifier, &alone);
        }
        self.remove_next();
        // The record first: without the old certificate there would be no trace of an unfinished
        // step.
        let rotated = self.finish(old, new)?;
        self.remove(state.layout.previous_authority(state.kind));
        Ok(rotated)
    }

    fn is_retired(&self, new: &Authority) -> bool {
        self.state
            .noted(RotationStep::Retire, new, self.now)
            .is_some()
    }

    /// Refuses the step until the wait since the previous step is over. If the time of that step is
    /// unknown, now is recorded.
    fn refuse_too_early(&mut self) -> Result<(), RotateError> {
        let (state, now) = (self.state, self.now);
        let due = state.next_step(self.options, now).due;
        let left = due.duration_since(now).unwrap_or_default();
        if left.is_zero() {
            return Ok(());
        }
        if let Some((done, new)) = state.done()
            && state.waits_from(self.options, now).is_none()
        {
            self.operations.push(state.note(done, new, now)?);
        }
        Err(RotateError::TooEarly {
            kind: state.kind,
            step: self.step,
            left,
        })
    }

    fn out_of_order(&self, reason: &'static str, hint: &'static str) -> Rotated {
        Err(RotateError::OutOfOrder {
            kind: self.state.kind,
            step: self.step,
            reason,
            hint,
        })
    }

    fn publish(&mut self, path: PathBuf, content: &str) {
        self.operations.push(Operation::publish(path, content));
    }

    /// The certificate marks a complete pair, so it is written last.
    fn write(&mut self, files: AuthorityFiles, authority: &Authority) {
        let key = Operation::keep(files.key, authority.key_pem());
        self.operations.push(key);
        self.publish(files.certificate, authority.certificate_pem());
    }

    fn remove(&mut self, path: PathBuf) {
        self.operations.push(Operation::Remove { path });
    }

    /// The certificate marks a complete pair, so it is removed first.
    fn remove_next(&mut self) {
        let files = self.state.layout.next_authority(self.state.kind);
        self.remove(files.certificate);
        self.remove(files.key);
    }

    /// Makes verifiers trust both CAs, in this order, in addition to those they trust already.
    fn trust_both(
        &mut self,
        first: &Certificate,
        second: &Certificate,
        among: impl Fn(&Verifier) -> bool,
    ) {
        for verifier in self.state.verifiers.iter().filter(|one| among(one)) {
            let others = verifier.bundle.iter().flat_map(Bundle::certificates);
            let others = [second].into_iter().chain(others).cloned();
            self.trust_exactly(verifier, &Bundle::of(first.clone(), others));
        }
    }

    fn trust_exactly(&mut self, verifier: &Verifier, bundle: &Bundle) {
        if verifier.bundle.as_ref() != Some(bundle) {
            self.publish(verifier.path.clone(), &bundle.to_string());
            self.trust.push(verifier.path.clone());
        }
    }

    /// Returns the result of a step that was done before.
    fn done_before(&mut self) -> AuthorityRotated {
        let (old, new) = self.state.stage.authorities();
        let next = || self.state.next_step(self.options, self.now);
        AuthorityRotated {
            already: true,
            next: (self.step != RotationStep::Retire).then(next),
            ..self.rotated(old, new)
        }
    }

    /// Records that this step is done, as the last operation: waits count from then.
    fn finish(&mut self, old: &Certificate, new: &Authority) -> Rotated {
        let note = self.state.note(self.step, new, self.now)?;
        self.operations.push(note);
        Ok(self.rotated(Some(old), new))
    }

    fn rotated(&mut self, old: Option<&Certificate>, new: &Authority) -> AuthorityRotated {
        let next = |step| NextStep {
            step,
            since: Some(self.now),
            due: self.now + self.options.wait(),
        };
        AuthorityRotated {
            kind: self.state.kind,
            step: self.step,
            already: false,
            old: old.map(|old| old.summary().clone()),
            new: new.summary().clone(),
            leaves: std::mem::take(&mut self.leaves),
            trust: std::mem::take(&mut self.trust),
            absent: self.state.absent.clone(),
            next: match self.step {
                RotationStep::Trust => Some(next(RotationStep::Reissue)),
                RotationStep::Reissue => Some(next(RotationStep::Retire)),
                RotationStep::Retire => None,
            },
        }
    }
}

/// Renews the certificate and key of a party, with the names of the old certificate, or with the
/// default names if that cannot be read.
///
/// The old certificate, which has the names, is replaced last.
pub(super) fn renew(
    holder: &Holder,
    issuer: &Authority,
    lifetime: Option<Duration>,
    now: SystemTime,
) -> Result<([Operation; 4], LeafRotated), RotateError> {
    let (party, kind) = (holder.party, holder.party.issued_by());
    let old = holder.chain.as_ref().map(|chain| chain.first().summary());
    let always = || party.names().iter().map(ToString::to_string).collect();
    let names = old.map_or_else(always, CertificateSummary::names);
    let names: Result<Vec<_>, _> = names.iter().map(|name| name.parse()).collect();
    let names = names.map_err(|source| RotateError::Name { party, source })?;

    let (from, until) = (issuer.summary().not_before, issuer.summary().not_after);
    if from > now {
        return Err(RotateError::NotYetValid { kind, from });
    }
    if until <= now {
        return Err(RotateError::Expired { kind, at: until });
    }
    let lifetime = lifetime.or_else(|| old.map(lifetime_of));
    let lifetime = lifetime.unwrap_or(InitOptions::LEAF_LIFETIME);
    let refused = |source| RotateError::Lifetime { lifetime, source };
    let asked = Validity::from_time(now, lifetime).map_err(refused)?;
    // Not longer than the CA.
    let not_after = asked.not_after().min(until);
    let validity = Validity::between(asked.not_before(), not_after).map_err(refused)?;

    let leaf = issuer.issue(&LeafRequest {
        common_name: party.name(),
        names: &names,
        purpose: party.purpose(),
        validity,
    })?;
    let new = Bundle::parse(leaf.certificate_pem.as_bytes());
    let new = new.map_err(|source| FileError::Parse {
        path: holder.files.certificate.clone(),
        source,
    })?;
    let rotated = LeafRotated {
        party,
        old: old.cloned(),
        new: new.first().summary().clone(),
        capped: validity != asked,
    };
    Ok((pair::switch(holder.files.clone(), leaf), rotated))
}

/// Returns the lifetime that was requested for the certificate, without the time by which it was
/// back-dated.
pub(in super::super) fn lifetime_of(certificate: &CertificateSummary) -> Duration {
    let span = certificate.not_after.duration_since(certificate.not_before);
    let span = span.unwrap_or_default();
    // A certificate from elsewhere need not be back-dated.
    let lifetime = span - BACK_DATED.min(span / 2);
    lifetime.max(Duration::from_secs(1))
}
