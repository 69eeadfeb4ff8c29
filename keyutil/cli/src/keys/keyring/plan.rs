//! What a step of a rotation writes, and in which order.
//!
//! Everything is decided and made in memory. The order is such that a process which dies between
//! two operations leaves a state in which the key that signs is published, and from which the next
//! run goes on.

use std::time::SystemTime;

use super::{
    Keyring,
    error::KeyringError,
    planner::{Planner, new_key, remove_due},
    policy::RotationPolicy,
    record::{State, whole_second},
    ring::{Found, Ring, RingKey},
};
use crate::files::{Change, Operation};
use keyutil::token::SigningKey;

/// Which way the next key comes to sign.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rotation<'a> {
    /// If it has been published long enough.
    InTurn(&'a RotationPolicy),
    /// At once, and the one that signed is dropped.
    Emergency,
}

/// The two keys of a new ring.
#[derive(Debug)]
pub struct Generated {
    /// Signs from now on.
    pub current: SigningKey,
    /// Is published, and waits.
    pub next: SigningKey,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotated {
    /// The `kid` that signed before, if that is known.
    pub before: Option<String>,
    /// The `kid` that signs now.
    pub now: String,
    /// Since when that one has been published.
    pub published: SystemTime,
    /// The `kid` that will sign next, published just now.
    pub next: String,
    /// The `kid`s that were taken out of the key set.
    pub removed: Vec<String>,
    /// Whether this was the rest of a run that was interrupted.
    pub finished: bool,
}

/// What is to be written, and what is to be said when it is.
pub(super) struct Plan<T> {
    pub(super) change: Change,
    pub(super) verdict: Result<T, KeyringError>,
}

/// Lets the next key sign, or says why it may not yet.
pub(super) fn rotate(
    keyring: &Keyring,
    found: &Found,
    rotation: Rotation<'_>,
    now: SystemTime,
) -> Result<Plan<Rotated>, KeyringError> {
    let ring = Ring::of(found, now)?;
    let planner = Planner::new(keyring, found, now);
    let pending = |key: &RingKey| key.state == State::Compromised;
    if ring.current.as_ref().is_some_and(pending) {
        return planner.emergency(ring, true);
    }
    match rotation {
        Rotation::InTurn(_) if ring.current.is_none() => Err(KeyringError::NothingSigns {
            path: keyring.current_path(),
        }),
        Rotation::Emergency if ring.interrupted && !was_emergency(found) => {
            let plan = planner.finish(ring)?;
            let verdict = plan.verdict.and_then(|rotated| {
                Err(KeyringError::FinishedFirst {
                    signs: rotated.now,
                    before: rotated.before,
                })
            });
            Ok(Plan { verdict, ..plan })
        }
        _ if ring.interrupted => planner.finish(ring),
        Rotation::Emergency => planner.emergency(ring, false),
        Rotation::InTurn(policy) => planner.in_turn(ring, policy),
    }
}

/// Takes keys out of the key set that no live token needs, and says which.
pub(super) fn retire(
    keyring: &Keyring,
    found: &Found,
    policy: &RotationPolicy,
    now: SystemTime,
) -> Result<Plan<Vec<String>>, KeyringError> {
    let mut ring = Ring::of(found, now)?;
    if ring.current.is_none() {
        return Err(KeyringError::NothingSigns {
            path: keyring.current_path(),
        });
    }
    let planner = Planner::new(keyring, found, now);
    let removed = remove_due(&mut ring, policy, planner.now);
    let (_, change) = planner.mended(ring)?;
    Ok(Plan {
        change,
        verdict: Ok(removed),
    })
}

/// Makes two keys, and lets one of them sign.
pub(super) fn generate(
    keyring: &Keyring,
    before: Option<&SigningKey>,
    now: SystemTime,
) -> Result<Plan<Generated>, KeyringError> {
    let now = whole_second(now);
    let ((current, current_pem), (next, next_pem)) = (new_key()?, new_key()?);
    let ring = Ring {
        current: Some(RingKey::new(&current, State::Current, now)),
        next: Some(RingKey::new(&next, State::Next, now)),
        previous: Vec::new(),
        interrupted: false,
        clock_set_back: None,
    };
    let found = Found::default();
    let planner = Planner::new(keyring, &found, now);
    let mut operations = Vec::new();
    if let Some(before) = before {
        // It signs until it is replaced, and is published until then.
        let mut with_before = ring.clone();
        with_before.previous = vec![RingKey::new(before, State::Previous, now)];
        operations.push(planner.publish(&with_before)?);
    } else {
        operations.push(planner.publish(&ring)?);
    }
    operations.push(planner.record(&ring)?);
    operations.push(Operation::keep(keyring.next_path(), next_pem));
    operations.push(Operation::keep(keyring.current_path(), current_pem));
    if before.is_some() {
        operations.push(planner.publish(&ring)?);
    }
    Ok(Plan {
        change: Change::new(operations),
        verdict: Ok(Generated { current, next }),
    })
}

/// Whether it was an emergency that was interrupted, after the next key had begun to sign.
fn was_emergency(found: &Found) -> bool {
    let mut entries = found.record.iter().flat_map(|record| &record.keys);
    entries.any(|entry| entry.state == State::Compromised)
}
