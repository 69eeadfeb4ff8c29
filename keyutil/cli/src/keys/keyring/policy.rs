//! How long a key waits before it signs, and how long it stays published afterwards.

use std::time::Duration;

use humantime::format_duration;

use crate::wall_clock::LONGEST_WAIT;

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
