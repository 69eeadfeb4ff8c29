//! The file operations of a rotation, and their order.
//!
//! Everything is decided and created in memory first. A process that dies between two operations
//! leaves the key that signs published, and a state from which the next run continues.

use std::time::SystemTime;

use secrecy::{ExposeSecret, SecretString};

use super::{
    Keyring, KeyringError, RotationPolicy,
    ring::{KeyState, KeyringFiles, Record, Ring, RingKey, whole_second},
};
use crate::files::{Change, Operation};
use keyutil::token::{SigningKey, signing_key};

/// When the next key begins to sign.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rotation<'a> {
    /// Once it has been published long enough.
    InTurn(&'a RotationPolicy),
    /// At once; all keys that have signed are dropped, or the one with this `kid`.
    Emergency(Option<&'a str>),
}

/// The two keys of a new ring.
#[derive(Debug)]
pub struct Generated {
    /// The key that signs.
    pub current: SigningKey,
    /// The key that is published and signs next.
    pub next: SigningKey,
}

/// The result of a rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotated {
    /// The `kid` that signed before, if known.
    pub before: Option<String>,
    /// The `kid` that signs now.
    pub now: String,
    /// Since when that key has been published.
    pub published: SystemTime,
    /// The `kid` that signs next, which was just published.
    pub next: String,
    /// The `kid`s that were removed from the key set.
    pub removed: Vec<String>,
    /// Whether this finished an interrupted rotation.
    pub finished: bool,
}

/// The operations of a step, and its result once they are done.
pub(super) struct Plan<T> {
    pub(super) change: Change,
    pub(super) result: Result<T, KeyringError>,
}

impl<T> Plan<T> {
    fn new(operations: Vec<Operation>, result: Result<T, KeyringError>) -> Self {
        Self {
            change: Change::new(operations),
            result,
        }
    }

    pub(super) fn apply(self) -> Result<T, KeyringError> {
        self.change.apply()?;
        self.result
    }
}

/// Plans a rotation, or says why the next key must not sign yet.
pub(super) fn rotate(
    keyring: &Keyring,
    found: &KeyringFiles,
    rotation: Rotation<'_>,
    now: SystemTime,
) -> Result<Plan<Rotated>, KeyringError> {
    let ring = Ring::of(found, now)?;
    let planner = Planner::new(keyring, found, now);
    let compromised = |key: &RingKey| key.state == KeyState::Compromised;
    if ring.current.as_ref().is_some_and(compromised) {
        return planner.finish_emergency(ring);
    }
    // An emergency rotation may have been interrupted after the next key began to sign.
    let record = found.record.as_ref();
    let was_emergency = record.is_some_and(|record| record.compromised().next().is_some());
    match rotation {
        Rotation::InTurn(_) if ring.current.is_none() => Err(KeyringError::NothingSigns {
            path: keyring.current_path(),
        }),
        Rotation::Emergency(_) if ring.interrupted && !was_emergency => {
            let plan = planner.finish(ring)?;
            let result = plan.result.and_then(|rotated| {
                Err(KeyringError::FinishedFirst {
                    signs: rotated.now,
                    before: rotated.before,
                })
            });
            Ok(Plan { result, ..plan })
        }
        _ if ring.interrupted => planner.finish(ring),
        Rotation::Emergency(kid) => planner.emergency(ring, kid),
        Rotation::InTurn(policy) => planner.in_turn(ring, policy),
    }
}

/// Plans the removal of keys that no valid token needs.
pub(super) fn retire(
    keyring: &Keyring,
    found: &KeyringFiles,
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
    let policy = ring.policy(policy);
    let removed = remove_due(&mut ring, &policy, planner.now);
    ring.promise(&policy);
    let (_, operations) = planner.completed(ring)?;
    Ok(Plan::new(operations, Ok(removed)))
}

/// Plans a new ring of two keys.
pub(super) fn generate(
    keyring: &Keyring,
    before: Option<&SigningKey>,
    now: SystemTime,
) -> Result<Plan<Generated>, KeyringError> {
    let now = whole_second(now);
    let ((current, current_pem), (next, next_pem)) = (new_key()?, new_key()?);
    let ring = Ring {
        current: Some(RingKey::new(&current, KeyState::Current, now)),
        next: Some(RingKey::new(&next, KeyState::Next, now)),
        previous: Vec::new(),
        interrupted: false,
        policy: keyring.recorded_policy(),
        clock_regression: None,
    };
    // The old key signs until it is replaced, and stays published until then.
    let before = before.map(|key| RingKey::new(key, KeyState::Previous, now));
    let mut published = ring.clone();
    published.previous.extend(before);
    let mut operations = vec![
        keyring.publish(&published)?,
        keyring.record(&ring)?,
        Operation::keep(keyring.next_path(), next_pem),
        Operation::keep(keyring.current_path(), current_pem),
    ];
    if published != ring {
        operations.push(keyring.publish(&ring)?);
    }
    Ok(Plan::new(operations, Ok(Generated { current, next })))
}

/// Plans one step: the state of the ring afterwards, and the operations that lead to it.
struct Planner<'a> {
    keyring: &'a Keyring,
    found: &'a KeyringFiles,
    now: SystemTime,
}

impl<'a> Planner<'a> {
    fn new(keyring: &'a Keyring, found: &'a KeyringFiles, now: SystemTime) -> Self {
        let now = whole_second(now);
        Self {
            keyring,
            found,
            now,
        }
    }

    fn in_turn(
        &self,
        mut ring: Ring,
        policy: &RotationPolicy,
    ) -> Result<Plan<Rotated>, KeyringError> {
        let allowed = ring.rotation_allowed(policy);
        if allowed.is_none_or(|allowed| self.now < allowed) {
            return self.too_early(ring, policy);
        }
        let policy = &ring.policy(policy);
        let (next, next_pem) = self.take_next(&mut ring)?;
        let removed = remove_due(&mut ring, policy, self.now);
        let before = ring.current.take();
        let (key, pem) = new_key()?;
        let rotated = Rotated {
            before: before.as_ref().map(|key| key.kid.clone()),
            now: next.kid.clone(),
            published: next.published,
            next: key.kid().to_owned(),
            removed,
            finished: false,
        };
        let stopped = before.map(|key| key.stopped(self.now));
        ring.previous.splice(0..0, stopped);
        ring.current = Some(next.signing(self.now));
        ring.next = Some(RingKey::new(&key, KeyState::Next, self.now));
        ring.promise(policy);
        let operations = vec![
            self.keyring.publish(&ring)?,
            Operation::keep(self.keyring.current_path(), next_pem),
            self.keyring.record(&ring)?,
            Operation::keep(self.keyring.next_path(), pem),
        ];
        Ok(Plan::new(operations, Ok(rotated)))
    }

    /// Publishes a next key if there is none, and returns how long the next key must wait.
    fn too_early(
        &self,
        ring: Ring,
        policy: &RotationPolicy,
    ) -> Result<Plan<Rotated>, KeyringError> {
        let (ring, operations) = self.completed(ring)?;
        let policy = ring.policy(policy);
        let next = ring.next.ok_or(KeyringError::NoNext)?;
        let publish_before = next.wait(&policy);
        let allowed = next.published + publish_before;
        let error = KeyringError::TooEarly {
            kid: next.kid,
            published: next.published,
            publish_before,
            left: allowed.duration_since(self.now).unwrap_or_default(),
        };
        Ok(Plan::new(operations, Err(error)))
    }

    /// Completes an interrupted rotation.
    fn finish(&self, ring: Ring) -> Result<Plan<Rotated>, KeyringError> {
        let signed = |key: &&RingKey| key.activated.is_some();
        let before = ring.previous.iter().find(signed);
        let before = before.map(|key| key.kid.clone());
        let (ring, operations) = self.completed(ring)?;
        let kids = self.found.recorded().map(|entry| &entry.kid);
        let removed = kids.filter(|kid| ring.keys().all(|key| key.kid != **kid));
        let removed = removed.cloned().collect();
        let current = ring.current.ok_or(KeyringError::NoNext)?;
        let next = ring.next.ok_or(KeyringError::NoNext)?;
        let rotated = Rotated {
            before,
            now: current.kid,
            published: current.published,
            next: next.kid,
            removed,
            finished: true,
        };
        Ok(Plan::new(operations, Ok(rotated)))
    }

    /// Adds a missing next key, and returns the operations that bring the files in line with the
    /// ring.
    fn completed(&self, mut ring: Ring) -> Result<(Ring, Vec<Operation>), KeyringError> {
        let mut operations = Vec::new();
        let mut pem = None;
        if ring.next.is_none() {
            let (key, made) = new_key()?;
            ring.next = Some(RingKey::new(&key, KeyState::Next, self.now));
            pem = Some(made);
        }
        ring.interrupted = false;
        let document = ring.document()?;
        let published = self.found.published.as_ref();
        if published.is_none_or(|published| !same_kids(published.kids(), document.kids())) {
            operations.push(self.keyring.publish(&ring)?);
        }
        if self.found.record.as_ref() != Some(&ring.record()) {
            operations.push(self.keyring.record(&ring)?);
        }
        operations.extend(pem.map(|pem| Operation::keep(self.keyring.next_path(), pem)));
        Ok((ring, operations))
    }

    /// Drops all keys that have signed, or the one that is named.
    fn emergency(&self, mut ring: Ring, kid: Option<&str>) -> Result<Plan<Rotated>, KeyringError> {
        let named = |key: &RingKey| kid.is_none_or(|kid| kid == key.kid);
        if let Some(kid) = kid
            && !ring.current.iter().chain(&ring.previous).any(named)
        {
            let kid = kid.to_owned();
            return Err(KeyringError::NotSigned { kid });
        }
        // The first operation, so that after an interruption the next run knows the compromised
        // keys.
        let mut marked = ring.clone();
        let have_signed = marked.current.iter_mut().chain(&mut marked.previous);
        for key in have_signed.filter(|key| named(key)) {
            key.state = KeyState::Compromised;
        }
        let mark = self.keyring.record(&marked)?;
        let dropped: Vec<_> = ring.previous.extract_if(.., |key| named(key)).collect();
        let mut removed: Vec<_> = dropped.into_iter().map(|key| key.kid).collect();
        if let Some(current) = ring.current.as_ref().filter(|key| !named(key)) {
            let (signs, published) = (current.kid.clone(), current.published);
            let (ring, mut operations) = self.completed(ring)?;
            operations.insert(0, mark);
            let rotated = Rotated {
                before: Some(signs.clone()),
                now: signs,
                published,
                next: ring.next.ok_or(KeyringError::NoNext)?.kid,
                removed,
                finished: false,
            };
            return Ok(Plan::new(operations, Ok(rotated)));
        }
        let before = ring.current.as_ref().map(|key| key.kid.clone());
        let before = before.or_else(|| self.lost());
        removed.splice(0..0, ring.current.iter().map(|key| key.kid.clone()));
        let (mut operations, now, next) = self.replace_current(ring)?;
        operations.insert(0, mark);
        let rotated = Rotated {
            before,
            published: now.published,
            now: now.kid,
            next,
            removed,
            finished: false,
        };
        Ok(Plan::new(operations, Ok(rotated)))
    }

    /// Completes an emergency rotation that was interrupted while the compromised key signs.
    fn finish_emergency(&self, ring: Ring) -> Result<Plan<Rotated>, KeyringError> {
        let before = ring.current.as_ref().map(|key| key.kid.clone());
        // The record already has the marks.
        let (operations, now, next) = self.replace_current(ring)?;
        let record = self.found.record.iter();
        let rotated = Rotated {
            before,
            published: now.published,
            now: now.kid,
            next,
            removed: record.flat_map(Record::compromised).cloned().collect(),
            finished: true,
        };
        Ok(Plan::new(operations, Ok(rotated)))
    }

    /// Makes the next key sign in place of the current one, which is dropped. Returns the key that
    /// signs then, and the `kid` of the new next key.
    fn replace_current(
        &self,
        mut ring: Ring,
    ) -> Result<(Vec<Operation>, RingKey, String), KeyringError> {
        let (next, next_pem) = self.take_next(&mut ring)?;
        let (key, pem) = new_key()?;
        ring.previous.push(next.clone());
        ring.next = Some(RingKey::new(&key, KeyState::Next, self.now));
        let both = self.keyring.publish(&ring)?;

        ring.previous.pop();
        ring.current = Some(next.clone().signing(self.now));
        let operations = vec![
            both,
            Operation::keep(self.keyring.current_path(), next_pem),
            self.keyring.publish(&ring)?,
            self.keyring.record(&ring)?,
            Operation::keep(self.keyring.next_path(), pem),
        ];
        Ok((operations, next, key.kid().to_owned()))
    }

    /// Returns the key that signed, if its private key is lost.
    fn lost(&self) -> Option<String> {
        let mut entries = self.found.recorded();
        let signed = entries.find(|entry| entry.state == KeyState::Current)?;
        Some(signed.kid.clone())
    }

    fn take_next(&self, ring: &mut Ring) -> Result<(RingKey, SecretString), KeyringError> {
        let pem = self.found.next_pem.clone();
        ring.next.take().zip(pem).ok_or(KeyringError::NoNext)
    }
}

impl Keyring {
    fn publish(&self, ring: &Ring) -> Result<Operation, KeyringError> {
        let document = ring.document()?.document();
        let text = String::from_utf8_lossy(&document).into_owned();
        Ok(Operation::publish(self.jwks_path(), text))
    }

    fn record(&self, ring: &Ring) -> Result<Operation, KeyringError> {
        let text = serde_json::to_string_pretty(&ring.record()).map_err(KeyringError::Record)?;
        Ok(Operation::publish(self.ring_path(), text))
    }
}

fn remove_due(ring: &mut Ring, policy: &RotationPolicy, now: SystemTime) -> Vec<String> {
    let due = |key: &mut RingKey| key.removable(policy) <= now;
    let removed = ring.previous.extract_if(.., due);
    removed.map(|key| key.kid).collect()
}

fn same_kids(some: &[String], others: &[String]) -> bool {
    some.len() == others.len() && some.iter().all(|kid| others.contains(kid))
}

fn new_key() -> Result<(SigningKey, SecretString), KeyringError> {
    let pem = signing_key::generate_pem()?;
    Ok((SigningKey::from_pem(pem.expose_secret().as_bytes())?, pem))
}
