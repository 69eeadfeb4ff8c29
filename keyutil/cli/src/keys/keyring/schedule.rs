//! The waits of a rotation, and rotations at an interval.

use std::{
    convert::Infallible,
    time::{Duration, SystemTime},
};

use humantime::format_duration;
use tracing::error;

use super::{Keyring, KeyringError, Ring};
use crate::wall_clock::LONGEST_WAIT;
use keyutil::base::chain;

/// The durations that the waits of a rotation consist of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RotationTimes {
    /// `global.authorization.jwtKeyProvider.refreshInterval` of the server: it fetches the key set
    /// at this interval, and never because of an unknown `kid`.
    pub refresh_interval: Duration,
    /// The longest lifetime of any token that the key signs.
    pub token_lifetime: Duration,
    /// The largest difference between the clocks of signers and servers.
    pub clock_skew: Duration,
    /// How long a replaced file takes to reach its readers: the endpoint and the signers.
    pub propagation: Duration,
}

impl Default for RotationTimes {
    fn default() -> Self {
        Self {
            // `TEMPORAL_JWT_KEY_REFRESH` in the configuration template of the server.
            refresh_interval: Duration::from_secs(60),
            // The default of `--token-lifetime`.
            token_lifetime: Duration::from_secs(5 * 60),
            // More than the difference between machines with a working NTP.
            clock_skew: Duration::from_secs(30),
            // Files are checked once a second, and a cache may keep the key set for five seconds.
            propagation: Duration::from_secs(10),
        }
    }
}

/// The two waits of a rotation: no key signs before servers know it, and no key with a valid token
/// is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RotationPolicy {
    publish_before: Duration,
    retire_after: Duration,
}

impl RotationPolicy {
    /// Returns the shortest waits for these durations; `retire_after` replaces the second one.
    ///
    /// # Errors
    /// [`PolicyError`], for a `retire_after` shorter than tokens need.
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

    /// Returns how long a key is published before it signs: until then some server may not have
    /// fetched it and would refuse its tokens.
    pub fn publish_before(&self) -> Duration {
        self.publish_before
    }

    /// Returns how long a key stays published after it stopped signing: until then some of its
    /// tokens may be valid.
    pub fn retire_after(&self) -> Duration {
        self.retire_after
    }

    /// Checks the interval of scheduled rotations.
    ///
    /// # Errors
    /// [`PolicyError::TooOften`], when the next key could not be published long enough.
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
        "keys would be removed {} after they stopped signing, but their tokens may be valid for {}: \
         propagation {} + token lifetime {} + clock skew {} + refresh interval {}",
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
        "keys cannot rotate every {}: the next key must be published for {} before it signs",
        format_duration(*every),
        format_duration(*publish_before)
    )]
    TooOften {
        every: Duration,
        publish_before: Duration,
    },
}

/// Adds durations, and saturates at the longest [`Duration`].
fn sum(parts: impl IntoIterator<Item = Duration>) -> Duration {
    parts
        .into_iter()
        .fold(Duration::ZERO, Duration::saturating_add)
}

/// Rotates a ring at an interval. It goes by the wall clock and by the record of the ring, so that
/// a restart neither delays a rotation nor adds one.
#[derive(Clone, Debug)]
pub struct Schedule {
    keyring: Keyring,
    policy: RotationPolicy,
    every: Duration,
}

/// The longest pause before the next check: the machine may have been suspended.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The pause after a failure such as a full disk.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(30);

/// Does work that blocks, and sleeps for the pause that it returns. A failure is logged, and the work
/// is repeated later.
async fn pause_after(
    work: impl FnOnce() -> Result<Duration, KeyringError> + Send + 'static,
    attempted: &str,
) {
    let failure = match tokio::task::spawn_blocking(work).await {
        Ok(Ok(pause)) => return tokio::time::sleep(pause).await,
        Ok(Err(failure)) => chain(&failure),
        Err(panicked) => chain(&panicked),
    };
    error!(error = failure, "failed to {attempted}, retrying");
    tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
}

impl Keyring {
    /// Finishes emergency rotations that were interrupted, within about a second, until the future
    /// is dropped. Until then the compromised keys are published.
    pub async fn finish_emergencies(self) -> Infallible {
        loop {
            let ring = self.clone();
            let finish = move || {
                ring.finish_emergency(SystemTime::now)
                    .map(|_| Duration::from_secs(1))
            };
            pause_after(finish, "finish an emergency rotation").await;
        }
    }
}

impl Schedule {
    /// Creates a schedule for this ring and interval.
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

    /// Rotates and removes keys when they are due, until the future is dropped. Failures are logged
    /// and retried.
    pub async fn run(self) -> Infallible {
        loop {
            let schedule = self.clone();
            let turn = move || {
                schedule
                    .turn(SystemTime::now())
                    .map(|pause| pause.min(LONGEST_PAUSE))
            };
            pause_after(turn, "rotate the signing key").await;
        }
    }

    /// Does what is due at `now`, and returns how long nothing else is due.
    ///
    /// # Errors
    /// [`KeyringError`], when the ring cannot be read or written.
    pub fn turn(&self, now: SystemTime) -> Result<Duration, KeyringError> {
        // This also records times that were lost; they count from now on, once.
        self.keyring.retire(&self.policy, || now)?;
        let ring = self.keyring.look(now)?;
        if ring.interrupted || self.rotation_due(&ring).is_none_or(|due| due <= now) {
            match self.keyring.rotate(&self.policy, || now) {
                // Another process has rotated, or a next key had to be published first.
                Err(KeyringError::TooEarly { .. }) => {}
                rotated => _ = rotated?,
            }
        }
        let ring = self.keyring.look(now)?;
        let due = [self.rotation_due(&ring), ring.removal_due(&self.policy)];
        let first = due.into_iter().flatten().min().unwrap_or(now);
        let left = first.duration_since(now).unwrap_or_default();
        // A lower bound, so that the loop cannot spin.
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
