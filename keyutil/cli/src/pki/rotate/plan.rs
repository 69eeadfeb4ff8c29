//! The three steps, in memory: from what is on disk to what is to be written.
//!
//! The order of a bundle matters. At each refresh the server compares the first certificate of
//! each CA file, and its own certificate, with what it has; where none of them differs, it keeps
//! what it has (`local_store_cert_provider.go` of 1.31, `isEqual`). So the first one changes at
//! each step: `old` → `new, old` → `old, new` → `new`.

use std::time::{Duration, SystemTime};

use super::{
    AuthorityOptions, RotateError, Step,
    draft::{Draft, Planned},
    state::{Current, Presence, Stage, State, Verifier},
};
use crate::pki::{Authority, AuthorityKind, AuthorityRequest, Validity, bundle::Bundle};

pub(super) fn plan(
    state: &State,
    step: Step,
    options: &AuthorityOptions,
    now: SystemTime,
) -> Result<Planned, RotateError> {
    match step {
        Step::Trust => trust(state, options, now),
        Step::Reissue => reissue(state, options, now),
        Step::Retire => retire(state, options, now),
    }
}

fn trust(
    state: &State,
    options: &AuthorityOptions,
    now: SystemTime,
) -> Result<Planned, RotateError> {
    let refused = |reason, hint| out_of_order(state, Step::Trust, reason, hint);
    let mut step = Draft::new(state, Step::Trust, options, now);
    match &state.stage {
        Stage::Idle(old) => {
            let new = generate(state, options.lifetime, now)?;
            let files = state.layout.next_authority(state.kind);
            // The certificate marks a complete pair, and so comes last.
            step.keep(files.key, new.authority.key_pem());
            step.publish(files.certificate, new.authority.certificate_pem());
            step.trust_both(&new.certificate, &old.certificate, |_| true);
            step.finish(&old.certificate, &new.certificate)
        }
        Stage::Begun { old, new } => {
            if state.since(now).is_some() {
                return step.done_before(Some(&old.certificate), &new.certificate);
            }
            // What has both already is left as it is: `reissue` may have changed the order.
            step.trust_both(&new.certificate, &old.certificate, |verifier| {
                !verifier.trusts(new) || !verifier.trusts(old)
            });
            step.finish(&old.certificate, &new.certificate)
        }
        Stage::Promoting { .. } => Err(refused(
            "the step `reissue` was begun and not finished",
            "go on with `--step reissue`",
        )),
        Stage::Reissued { .. } => Err(refused(
            "the rotation before is not finished",
            "finish it by `--step retire`",
        )),
    }
}

fn reissue(
    state: &State,
    options: &AuthorityOptions,
    now: SystemTime,
) -> Result<Planned, RotateError> {
    let mut step = Draft::new(state, Step::Reissue, options, now);
    let (old, new) = match &state.stage {
        Stage::Idle(_) => {
            let hint = "begin with `--step trust`";
            return Err(out_of_order(
                state,
                Step::Reissue,
                "there is no new CA",
                hint,
            ));
        }
        Stage::Begun { old, new } => {
            let distrusts = |verifier: &&Verifier| !verifier.trusts(new);
            if let Some(verifier) = state.verifiers.iter().find(distrusts) {
                return Err(RotateError::NotTrusted {
                    kind: state.kind,
                    party: verifier.party,
                    path: verifier.path.clone(),
                });
            }
            (&old.certificate, new)
        }
        Stage::Promoting { old, new } => (old, new),
        Stage::Reissued { old, new } if state.since(now).is_some() => {
            return step.done_before(Some(old), &new.certificate);
        }
        // Everything but the record, and perhaps a copy of the key.
        Stage::Reissued { old, new } => {
            step.remove_next();
            return step.finish(old, &new.certificate);
        }
    };
    // The root CAs of the internode client are kept for the life of the process
    // (`cachedInternodeClientConfig`); everything else is read again.
    if state.kind == AuthorityKind::Internode && !options.servers_restarted {
        return Err(RotateError::ServersNotRestarted);
    }
    if let Some(refusal) = step.too_early()? {
        return Ok(refusal);
    }

    // First, so that a bundle that was brought back from elsewhere is mended before it matters.
    step.trust_both(old, &new.certificate, |_| true);
    for holder in &state.holders {
        if holder.paired && holder.is_issued_by(new) {
            continue;
        }
        step.renew(holder, new)?;
    }
    // The new CA takes the place of the old one while its own pair is still complete: from that
    // the next run goes on if this one ends between key and certificate.
    let files = state.layout.authority(state.kind);
    let previous = state.layout.previous_authority(state.kind);
    step.publish(previous, &old.to_string());
    step.keep(files.key, new.authority.key_pem());
    step.publish(files.certificate, new.authority.certificate_pem());
    step.remove_next();
    step.finish(old, &new.certificate)
}

fn retire(
    state: &State,
    options: &AuthorityOptions,
    now: SystemTime,
) -> Result<Planned, RotateError> {
    let refused = |reason, hint| out_of_order(state, Step::Retire, reason, hint);
    let mut step = Draft::new(state, Step::Retire, options, now);
    let (old, new) = match &state.stage {
        Stage::Idle(new) if step.is_noted(new.serial()) => {
            return step.done_before(None, &new.certificate);
        }
        Stage::Idle(_) => {
            let hint = "begin with `--step trust`";
            return Err(refused("there is no rotation", hint));
        }
        Stage::Begun { .. } | Stage::Promoting { .. } => {
            let hint = "first `--step reissue`";
            return Err(refused("the certificates are not reissued", hint));
        }
        Stage::Reissued { old, new } => (old, new),
    };
    for holder in &state.holders {
        if holder.presence != Presence::Missing && !holder.is_issued_by(new) {
            return Err(RotateError::NotReissued {
                kind: state.kind,
                party: holder.party,
                path: holder.files.certificate.clone(),
            });
        }
    }
    let alone = Bundle::of(new.certificate.clone(), []);
    let is_alone = |verifier: &Verifier| verifier.bundle.as_ref() == Some(&alone);
    // Interrupted before the last operation: the wait was over then.
    let interrupted = step.is_noted(new.serial()) && state.verifiers.iter().all(is_alone);
    if !interrupted && let Some(refusal) = step.too_early()? {
        return Ok(refusal);
    }
    for verifier in &state.verifiers {
        step.trust(verifier, &alone);
    }
    step.remove_next();
    // The record first: without the old certificate nobody knows that there is something to
    // finish.
    step.note(Step::Retire, new.serial())?;
    step.remove(state.layout.previous_authority(state.kind));
    Ok(step.done(old, &new.certificate))
}

fn out_of_order(
    state: &State,
    step: Step,
    reason: &'static str,
    hint: &'static str,
) -> RotateError {
    RotateError::OutOfOrder {
        kind: state.kind,
        step,
        reason,
        hint,
    }
}

fn generate(state: &State, lifetime: Duration, now: SystemTime) -> Result<Current, RotateError> {
    let validity = Validity::from_time(now, lifetime)
        .map_err(|source| RotateError::Lifetime { lifetime, source })?;
    let authority = Authority::generate(&AuthorityRequest {
        name: state.kind.name(),
        validity,
        intermediates: 0,
    })?;
    Ok(Current::of(&state.layout, state.kind, authority)?)
}
