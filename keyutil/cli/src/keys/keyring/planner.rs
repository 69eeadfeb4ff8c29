//! One step, while it is worked out: the ring as it will be, and the operations that lead there.

use std::time::SystemTime;

use secrecy::{ExposeSecret, SecretString};

use super::{
    Keyring,
    error::KeyringError,
    plan::{Plan, Rotated},
    policy::RotationPolicy,
    record::{State, whole_second},
    ring::{Found, Ring, RingKey},
};
use crate::files::{Change, Operation};
use keyutil::token::{SigningKey, signing_key};

/// Makes one step for one ring.
pub(super) struct Planner<'a> {
    keyring: &'a Keyring,
    found: &'a Found,
    pub(super) now: SystemTime,
}

impl<'a> Planner<'a> {
    pub(super) fn new(keyring: &'a Keyring, found: &'a Found, now: SystemTime) -> Self {
        Self {
            keyring,
            found,
            now: whole_second(now),
        }
    }

    pub(super) fn in_turn(
        &self,
        mut ring: Ring,
        policy: &RotationPolicy,
    ) -> Result<Plan<Rotated>, KeyringError> {
        let allowed = ring.rotation_allowed(policy);
        if allowed.is_none_or(|allowed| self.now < allowed) {
            return self.too_early(ring, policy);
        }
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
        ring.next = Some(RingKey::new(&key, State::Next, self.now));
        let change = Change::new(vec![
            self.publish(&ring)?,
            Operation::keep(self.keyring.current_path(), next_pem),
            self.record(&ring)?,
            Operation::keep(self.keyring.next_path(), pem),
        ]);
        Ok(Plan {
            change,
            verdict: Ok(rotated),
        })
    }

    /// Publishes a next key where there is none, and says how long it has to wait.
    fn too_early(
        &self,
        ring: Ring,
        policy: &RotationPolicy,
    ) -> Result<Plan<Rotated>, KeyringError> {
        let (ring, change) = self.mended(ring)?;
        let next = ring.next.ok_or(KeyringError::NoNext)?;
        let allowed = next.published + policy.publish_before();
        let verdict = Err(KeyringError::TooEarly {
            kid: next.kid,
            published: next.published,
            publish_before: policy.publish_before(),
            left: allowed.duration_since(self.now).unwrap_or_default(),
        });
        Ok(Plan { change, verdict })
    }

    /// Writes what an interrupted run has not come to write.
    pub(super) fn finish(&self, ring: Ring) -> Result<Plan<Rotated>, KeyringError> {
        let signed = |key: &&RingKey| key.activated.is_some();
        let before = ring.previous.iter().find(signed);
        let before = before.map(|key| key.kid.clone());
        let (ring, change) = self.mended(ring)?;
        let recorded = self.found.record.iter().flat_map(|record| &record.keys);
        let gone = recorded.filter(|entry| ring.keys().all(|key| key.kid != entry.kid));
        let removed = gone.map(|entry| entry.kid.clone()).collect();
        let current = ring.current.ok_or(KeyringError::NoNext)?;
        let next = ring.next.ok_or(KeyringError::NoNext)?;
        Ok(Plan {
            change,
            verdict: Ok(Rotated {
                before,
                now: current.kid,
                published: current.published,
                next: next.kid,
                removed,
                finished: true,
            }),
        })
    }

    /// The ring with a next key, and what makes the files say the same as the ring.
    pub(super) fn mended(&self, mut ring: Ring) -> Result<(Ring, Change), KeyringError> {
        let mut operations = Vec::new();
        let mut pem = None;
        if ring.next.is_none() {
            let (key, made) = new_key()?;
            ring.next = Some(RingKey::new(&key, State::Next, self.now));
            pem = Some(made);
        }
        ring.interrupted = false;
        let document = ring.document()?;
        let published = self.found.published.as_ref();
        if published.is_none_or(|published| !same_kids(published.kids(), document.kids())) {
            operations.push(self.publish(&ring)?);
        }
        if self.found.record.as_ref() != Some(&ring.record()) {
            operations.push(self.record(&ring)?);
        }
        operations.extend(pem.map(|pem| Operation::keep(self.keyring.next_path(), pem)));
        Ok((ring, Change::new(operations)))
    }

    pub(super) fn emergency(
        &self,
        mut ring: Ring,
        finished: bool,
    ) -> Result<Plan<Rotated>, KeyringError> {
        let (next, next_pem) = self.take_next(&mut ring)?;
        let (key, pem) = new_key()?;
        let mut operations = Vec::new();
        if let Some(current) = &mut ring.current {
            // First of all, so that whoever goes on after an interruption knows which one it was.
            current.state = State::Compromised;
            let mut marked = ring.clone();
            marked.next = Some(next.clone());
            operations.push(self.record(&marked)?);
        }
        ring.previous.push(next.clone());
        ring.next = Some(RingKey::new(&key, State::Next, self.now));
        operations.push(self.publish(&ring)?);
        operations.push(Operation::keep(self.keyring.current_path(), next_pem));

        ring.previous.pop();
        let dropped = match ring.current.replace(next.clone().signing(self.now)) {
            Some(current) => Some(current),
            None => self.take_lost(&mut ring),
        };
        operations.push(self.publish(&ring)?);
        operations.push(self.record(&ring)?);
        operations.push(Operation::keep(self.keyring.next_path(), pem));
        let dropped = dropped.map(|key| key.kid);
        Ok(Plan {
            change: Change::new(operations),
            verdict: Ok(Rotated {
                before: dropped.clone(),
                now: next.kid,
                published: next.published,
                next: key.kid().to_owned(),
                removed: dropped.into_iter().collect(),
                finished,
            }),
        })
    }

    /// The key that signed and whose private half is gone.
    fn take_lost(&self, ring: &mut Ring) -> Option<RingKey> {
        let mut entries = self.found.record.iter().flat_map(|record| &record.keys);
        let signed = entries.find(|entry| entry.state == State::Current)?;
        let index = ring.previous.iter().position(|key| key.kid == signed.kid)?;
        Some(ring.previous.remove(index))
    }

    fn take_next(&self, ring: &mut Ring) -> Result<(RingKey, SecretString), KeyringError> {
        let pem = self.found.next_pem.clone();
        ring.next.take().zip(pem).ok_or(KeyringError::NoNext)
    }

    pub(super) fn publish(&self, ring: &Ring) -> Result<Operation, KeyringError> {
        let document = ring.document()?.document();
        let text = String::from_utf8_lossy(&document).into_owned();
        Ok(Operation::publish(self.keyring.jwks_path(), text))
    }

    pub(super) fn record(&self, ring: &Ring) -> Result<Operation, KeyringError> {
        let text = serde_json::to_string_pretty(&ring.record()).map_err(KeyringError::Record)?;
        Ok(Operation::publish(self.keyring.ring_path(), text))
    }
}

pub(super) fn remove_due(ring: &mut Ring, policy: &RotationPolicy, now: SystemTime) -> Vec<String> {
    let mut removed = Vec::new();
    ring.previous.retain(|key| {
        let due = key.removable(policy) <= now;
        if due {
            removed.push(key.kid.clone());
        }
        !due
    });
    removed
}

fn same_kids(some: &[String], others: &[String]) -> bool {
    some.len() == others.len() && some.iter().all(|kid| others.contains(kid))
}

pub(super) fn new_key() -> Result<(SigningKey, SecretString), KeyringError> {
    let pem = signing_key::generate_pem()?;
    Ok((SigningKey::from_pem(pem.expose_secret().as_bytes())?, pem))
}
