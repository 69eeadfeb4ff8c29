//! A step that is being worked out: operations are added to it, in order, and in the end it is done
//! or refused.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use secrecy::SecretString;

use super::{
    AuthorityOptions, AuthorityRotated, LeafRotated, NextStep, RotateError, Step, leaf,
    state::{Current, Holder, State, Verifier},
};
use crate::{
    files::{Change, Operation},
    pki::bundle::{Bundle, Certificate},
};

/// What a step comes to.
pub(super) struct Planned {
    /// To be applied first. A refusal may want to note from when on the wait counts.
    pub(super) change: Change,
    /// To be returned then.
    pub(super) result: Result<AuthorityRotated, RotateError>,
}

pub(super) struct Draft<'a> {
    state: &'a State,
    step: Step,
    options: &'a AuthorityOptions,
    now: SystemTime,
    operations: Vec<Operation>,
    leaves: Vec<LeafRotated>,
    trust: Vec<PathBuf>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(
        state: &'a State,
        step: Step,
        options: &'a AuthorityOptions,
        now: SystemTime,
    ) -> Self {
        Self {
            state,
            step,
            options,
            now,
            operations: Vec::new(),
            leaves: Vec::new(),
            trust: Vec::new(),
        }
    }

    pub(super) fn publish(&mut self, path: PathBuf, content: &str) {
        self.operations.push(Operation::publish(path, content));
    }

    pub(super) fn keep(&mut self, path: PathBuf, content: SecretString) {
        self.operations.push(Operation::keep(path, content));
    }

    pub(super) fn remove(&mut self, path: PathBuf) {
        self.operations.push(Operation::Remove { path });
    }

    /// The certificate marks a complete pair, and so goes first.
    pub(super) fn remove_next(&mut self) {
        let files = self.state.layout.next_authority(self.state.kind);
        self.remove(files.certificate);
        self.remove(files.key);
    }

    /// Both CAs, in this order, and whatever else each of these trusts.
    pub(super) fn trust_both(
        &mut self,
        first: &Certificate,
        second: &Certificate,
        among: impl Fn(&Verifier) -> bool,
    ) {
        for verifier in &self.state.verifiers {
            if among(verifier) {
                let others = verifier.bundle.iter().flat_map(Bundle::certificates);
                let others = [second].into_iter().chain(others).cloned();
                self.trust(verifier, &Bundle::of(first.clone(), others));
            }
        }
    }

    pub(super) fn trust(&mut self, verifier: &Verifier, bundle: &Bundle) {
        if verifier.bundle.as_ref() != Some(bundle) {
            self.publish(verifier.path.clone(), &bundle.to_string());
            self.trust.push(verifier.path.clone());
        }
    }

    pub(super) fn renew(&mut self, holder: &Holder, issuer: &Current) -> Result<(), RotateError> {
        let (operations, rotated) = leaf::renew(holder, issuer, None, self.now)?;
        self.operations.extend(operations);
        self.leaves.push(rotated);
        Ok(())
    }

    /// Notes that this step is done now.
    pub(super) fn note(&mut self, step: Step, serial: &str) -> Result<(), RotateError> {
        let (kind, layout) = (self.state.kind, &self.state.layout);
        let record = self.state.record.with(kind, step, serial, self.now);
        let text = record.to_json().map_err(RotateError::Record)?;
        self.publish(layout.rotation_record(), &text);
        Ok(())
    }

    /// Whether it is noted that this step was done.
    pub(super) fn is_noted(&self, serial: &str) -> bool {
        let record = &self.state.record;
        let since = record.since(self.state.kind, self.step, serial, self.now);
        since.is_some()
    }

    /// The refusal, if the wait since the step before is not over. Where it is not known when that
    /// was, it is noted that it was now.
    pub(super) fn too_early(&self) -> Result<Option<Planned>, RotateError> {
        let left = left(self.state, self.options, self.now);
        if left.is_zero() {
            return Ok(None);
        }
        let mut refusal = Self::new(self.state, self.step, self.options, self.now);
        if let Some((done, serial)) = self.state.done()
            && since(self.state, self.options, self.now).is_none()
        {
            refusal.note(done, serial)?;
        }
        Ok(Some(Planned {
            change: Change::new(refusal.operations),
            result: Err(RotateError::TooEarly {
                kind: self.state.kind,
                step: self.step,
                left,
            }),
        }))
    }

    /// Nothing is to be done.
    pub(super) fn done_before(
        self,
        old: Option<&Certificate>,
        new: &Certificate,
    ) -> Result<Planned, RotateError> {
        let next = match self.step {
            Step::Retire => None,
            _ => Some(next(self.state, self.options, self.now)),
        };
        let rotated = AuthorityRotated {
            already: true,
            next,
            ..self.rotated(old, new)
        };
        Ok(Planned {
            change: Change::default(),
            result: Ok(rotated),
        })
    }

    /// Notes that this step is done, as the last operation: times count from then.
    pub(super) fn finish(
        mut self,
        old: &Certificate,
        new: &Certificate,
    ) -> Result<Planned, RotateError> {
        self.note(self.step, &new.summary().serial)?;
        Ok(self.done(old, new))
    }

    /// The operations are complete.
    pub(super) fn done(mut self, old: &Certificate, new: &Certificate) -> Planned {
        let change = Change::new(std::mem::take(&mut self.operations));
        Planned {
            change,
            result: Ok(self.rotated(Some(old), new)),
        }
    }

    fn rotated(self, old: Option<&Certificate>, new: &Certificate) -> AuthorityRotated {
        let step = match self.step {
            Step::Trust => Some(Step::Reissue),
            Step::Reissue => Some(Step::Retire),
            Step::Retire => None,
        };
        AuthorityRotated {
            kind: self.state.kind,
            step: self.step,
            already: false,
            old: old.map(|old| old.summary().clone()),
            new: new.summary().clone(),
            leaves: self.leaves,
            trust: self.trust,
            absent: self.state.absent.clone(),
            next: step.map(|step| NextStep {
                step,
                since: Some(self.now),
                due: self.now + self.options.wait(),
            }),
        }
    }
}

pub(super) fn next(state: &State, options: &AuthorityOptions, now: SystemTime) -> NextStep {
    NextStep {
        step: state.next(),
        since: state.since(now),
        due: now + left(state, options, now),
    }
}

/// How long the next step has to wait: the whole wait where no time is known.
fn left(state: &State, options: &AuthorityOptions, now: SystemTime) -> Duration {
    if state.done().is_none() {
        return Duration::ZERO;
    }
    let over = since(state, options, now).unwrap_or(now) + options.wait();
    over.duration_since(now).unwrap_or_default()
}

/// When the last step was done. A time so far in the future that the clock must have been set back
/// since then says nothing.
fn since(state: &State, options: &AuthorityOptions, now: SystemTime) -> Option<SystemTime> {
    let since = state.since(now);
    since.filter(|since| *since <= now + options.wait())
}
