//! Rotations that are made when they are due, for a process that runs all the time.

use std::{
    convert::Infallible,
    time::{Duration, SystemTime},
};

use tracing::error;

use super::{Keyring, KeyringError, PolicyError, Ring, RotationPolicy};
use crate::wall_clock::LONGEST_WAIT;
use keyutil::base::chain;

/// Rotates a ring at an interval, by the wall clock and by what the ring's own files say, so that
/// a restart neither delays a rotation nor makes one too many.
#[derive(Clone, Debug)]
pub struct Schedule {
    keyring: Keyring,
    policy: RotationPolicy,
    every: Duration,
}

/// How long to pause at most before looking again: a machine may have slept meanwhile.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long to pause after something failed, as on a full disk.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(30);

impl Schedule {
    /// Rotates this ring every so often.
    ///
    /// # Errors
    /// [`PolicyError::TooOften`].
    pub fn new(
        keyring: Keyring,
        policy: RotationPolicy,
        every: Duration,
    ) -> Result<Self, PolicyError> {
        policy.check_interval(every)?;
        Ok(Self {
            keyring,
            policy,
            every: every.min(LONGEST_WAIT),
        })
    }

    /// Makes rotations and removals when they are due, until it is dropped. What fails is logged
    /// and tried again.
    pub async fn run(self) -> Infallible {
        loop {
            let schedule = self.clone();
            let turn = tokio::task::spawn_blocking(move || schedule.turn(SystemTime::now()));
            let pause = match turn.await {
                Ok(Ok(pause)) => pause.min(LONGEST_PAUSE),
                Ok(Err(failure)) => {
                    error!(
                        error = chain(&failure),
                        "rotating the signing key failed: trying again"
                    );
                    PAUSE_AFTER_FAILURE
                }
                Err(failure) => {
                    error!(%failure, "rotating the signing key failed: trying again");
                    PAUSE_AFTER_FAILURE
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Does what is due at `now`, and says for how long nothing will be.
    ///
    /// # Errors
    /// Those of the ring.
    pub fn turn(&self, now: SystemTime) -> Result<Duration, KeyringError> {
        // This also writes down what the files do not tell, such as times that were lost: they
        // count from now on, once.
        self.keyring.retire(&self.policy, || now)?;
        let ring = self.keyring.look(now)?;
        if ring.interrupted || self.rotation_due(&ring).is_none_or(|due| due <= now) {
            match self.keyring.rotate(&self.policy, || now) {
                // Another process was faster, or a next key had to be published first.
                Err(KeyringError::TooEarly { .. }) => {}
                rotated => _ = rotated?,
            }
        }
        let ring = self.keyring.look(now)?;
        let due = [self.rotation_due(&ring), ring.removal_due(&self.policy)];
        let first = due.into_iter().flatten().min().unwrap_or(now);
        let left = first.duration_since(now).unwrap_or_default();
        // At least this long, so that nothing can make it spin.
        Ok(left.max(Duration::from_secs(1)))
    }

    fn rotation_due(&self, ring: &Ring) -> Option<SystemTime> {
        ring.rotation_due(&self.policy, self.every)
    }
}
