//! When: how long a key waits before it signs, how long it stays published afterwards, and rotations
//! that are made when they are due, for a process that runs all the time.

use std::{
    convert::Infallible,
    time::{Duration, SystemTime},
};

use humantime::format_duration;
use tracing::error;

use super::{Keyring, KeyringError, Ring};
use crate::wall_clock::LONGEST_WAIT;
use keyutil::base::chain;

/// What the waits of a rotation are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RotationTimes {
    /// The server's `global.authorization.jwtKeyProvider.refreshInterval`: it fetches the key set
    /// that often, and never because of an unknown `kid`.
    pub refresh_interval: Duration,
    /// The longest life of any token that the key signs.
    pub token_lifetime: Duration,
    /// How far the clocks of signers and servers may be apart.
    pub clock_skew: Duration,
    /// How long a replaced file takes to reach its readers: the endpoint, and the signers.
    pub propagation: Duration,
}

impl Default for RotationTimes {
    fn default() -> Self {
        Self {
            // `TEMPORAL_JWT_KEY_REFRESH` of the server's own configuration template.
            refresh_interval: Duration::from_secs(60),
            // The default of `--token-lifetime`.
            token_lifetime: Duration::from_secs(5 * 60),
            // More than machines with a working NTP are apart.
            clock_skew: Duration::from_secs(30),
            // Files are looked at once a second, and a cache may keep the key set for five.
            propagation: Duration::from_secs(10),
        }
    }
}

/// The two waits that keep every key with a live token published, and none from signing before the
/// servers know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RotationPolicy {
    publish_before: Duration,
    retire_after: Duration,
}

impl RotationPolicy {
    /// The shortest waits that these times allow; with `retire_after`, that one instead of the
    /// shortest.
    ///
    /// # Errors
    /// [`PolicyError`], for a `retire_after` that is shorter than what tokens need.
    pub fn new(times: RotationTimes, retire_after: Option<Duration>) -> Result<Self, PolicyError> {
        let publish_before = sum([times.propagation, times.refresh_interval, times.clock_skew]);
        let shortest = sum([
            times.propagation,
            times.token_lifetime,
            times.clock_skew,
            times.refresh_interval,
        ]);
        let retire_after = retire_after.unwrap_or(shortest);
        if retire_after < shortest {
            return Err(PolicyError::RetiresTooEarly {
                retire_after,
                shortest,
                times,
            });
        }
        Ok(Self {
            publish_before: publish_before.min(LONGEST_WAIT),
            retire_after: retire_after.min(LONGEST_WAIT),
        })
    }

    /// How long a key is published before it signs: until then some server may not have fetched
    /// it, and would refuse its tokens.
    pub fn publish_before(&self) -> Duration {
        self.publish_before
    }

    /// How long a key stays published after it has stopped signing: until then some token of its
    /// may be alive.
    pub fn retire_after(&self) -> Duration {
        self.retire_after
    }

    /// Checks how often keys are to be rotated by themselves.
    ///
    /// # Errors
    /// [`PolicyError::TooOften`], when the next key could never have been published long enough.
    pub fn check_interval(&self, every: Duration) -> Result<(), PolicyError> {
        if every < self.publish_before {
            return Err(PolicyError::TooOften {
                every,
                publish_before: self.publish_before,
            });
        }
        Ok(())
    }
}

/// Durations that contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what they are")]
pub enum PolicyError {
    #[error(
        "keys would be removed {} after they have signed last, and the tokens they signed may be \
         needed for {}: propagation {} + token lifetime {} + clock skew {} + refresh interval {}",
        format_duration(*retire_after),
        format_duration(*shortest),
        format_duration(times.propagation),
        format_duration(times.token_lifetime),
        format_duration(times.clock_skew),
        format_duration(times.refresh_interval)
    )]
    RetiresTooEarly {
        retire_after: Duration,
        shortest: Duration,
        times: RotationTimes,
    },
    #[error(
        "keys cannot rotate every {}: the next one has to be published for {} before it signs",
        format_duration(*every),
        format_duration(*publish_before)
    )]
    TooOften {
        every: Duration,
        publish_before: Duration,
    },
}

/// A sum that is longer than a [`Duration`] can say is the longest one.
fn sum(parts: impl IntoIterator<Item = Duration>) -> Duration {
    parts
        .into_iter()
        .fold(Duration::ZERO, Duration::saturating_add)
}

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

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_waits_are_those_of_the_servers_defaults() {
        let policy = RotationPolicy::new(RotationTimes::default(), None).unwrap();
        assert_eq!(policy.publish_before(), 100 * SECOND);
        assert_eq!(policy.retire_after(), 400 * SECOND);
    }

    #[test]
    fn a_token_that_outlives_its_key_is_refused() {
        let times = RotationTimes {
            token_lifetime: 3600 * SECOND,
            ..RotationTimes::default()
        };
        let error = RotationPolicy::new(times, Some(3600 * SECOND)).unwrap_err();
        assert!(error.to_string().contains("token lifetime 1h"), "{error}");
        assert!(RotationPolicy::new(times, Some(3700 * SECOND)).is_ok());
    }

    #[test]
    fn a_pace_that_leaves_no_time_to_publish_is_refused() {
        let policy = RotationPolicy::new(RotationTimes::default(), None).unwrap();
        assert!(policy.check_interval(100 * SECOND).is_ok());
        let error = policy.check_interval(99 * SECOND).unwrap_err();
        assert!(error.to_string().contains("1m 40s"), "{error}");
    }

    #[test]
    fn durations_without_end_do_not_overflow() {
        let times = RotationTimes {
            token_lifetime: Duration::MAX,
            ..RotationTimes::default()
        };
        assert!(RotationPolicy::new(times, None).is_ok());
    }
}
