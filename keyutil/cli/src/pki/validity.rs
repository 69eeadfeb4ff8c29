//! From when until when a certificate is valid.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use keyutil::base::time::LAST_SECOND;

/// A certificate is valid from this much before it is made: the clock of the peer that checks it
/// may be behind.
pub const BACK_DATED: Duration = Duration::from_secs(5 * 60);

/// A span of time that X.509 can express: whole seconds between 1970 and 9999, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Validity {
    /// From [`BACK_DATED`] before now until `lifetime` from now.
    ///
    /// # Errors
    /// [`ValidityError`], when the lifetime is less than a second or ends after the year 9999.
    pub fn from_now(lifetime: Duration) -> Result<Self, ValidityError> {
        Self::from_time(SystemTime::now(), lifetime)
    }

    /// From [`BACK_DATED`] before `time` until `lifetime` after it.
    ///
    /// # Errors
    /// As [`Validity::from_now`].
    pub fn from_time(time: SystemTime, lifetime: Duration) -> Result<Self, ValidityError> {
        if lifetime < Duration::from_secs(1) {
            return Err(ValidityError::TooShort);
        }
        let not_before = time.checked_sub(BACK_DATED);
        let not_after = time.checked_add(lifetime);
        Self::between(
            not_before.ok_or(ValidityError::OutOfRange)?,
            not_after.ok_or(ValidityError::OutOfRange)?,
        )
    }

    /// Exactly this span, which may lie in the past or in the future; fractions of seconds are cut.
    ///
    /// # Errors
    /// [`ValidityError`], when the end is before the start or a date cannot be written in X.509.
    pub fn between(not_before: SystemTime, not_after: SystemTime) -> Result<Self, ValidityError> {
        let (not_before, not_after) = (whole_seconds(not_before)?, whole_seconds(not_after)?);
        if not_after < not_before {
            return Err(ValidityError::EndsBeforeStart);
        }
        Ok(Self {
            not_before,
            not_after,
        })
    }

    /// The first second.
    #[must_use]
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// The last second.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }
}

/// A span of time that no certificate can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValidityError {
    /// X.509 counts in seconds.
    #[error("shorter than a second")]
    TooShort,
    /// The start is after the end.
    #[error("the end is before the start")]
    EndsBeforeStart,
    /// Before 1970 or after 9999.
    #[error("a date outside of the years 1970 to 9999")]
    OutOfRange,
}

fn whole_seconds(time: SystemTime) -> Result<SystemTime, ValidityError> {
    let since_1970 = time.duration_since(UNIX_EPOCH);
    match since_1970.map(|since| since.as_secs()) {
        Ok(seconds) if seconds <= LAST_SECOND => Ok(UNIX_EPOCH + Duration::from_secs(seconds)),
        _ => Err(ValidityError::OutOfRange),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn starts_early_and_ends_on_time() {
        let now = at(1_000_000) + Duration::from_millis(700);
        let validity = Validity::from_time(now, Duration::from_secs(60)).unwrap();

        assert_eq!(validity.not_before(), at(1_000_000 - 300));
        assert_eq!(validity.not_after(), at(1_000_060));
    }

    #[test]
    fn what_x509_cannot_write_is_refused() {
        let second = Duration::from_secs(1);
        for (time, lifetime, error) in [
            (at(1_000_000), Duration::ZERO, ValidityError::TooShort),
            (at(1_000_000), second / 2, ValidityError::TooShort),
            (at(1_000_000), Duration::MAX, ValidityError::OutOfRange),
            (at(LAST_SECOND), second, ValidityError::OutOfRange),
            (at(0), second, ValidityError::OutOfRange),
        ] {
            let found = Validity::from_time(time, lifetime);
            assert_eq!(found, Err(error), "{time:?} {lifetime:?}");
        }
        let backwards = Validity::between(at(2), at(1));
        assert_eq!(backwards, Err(ValidityError::EndsBeforeStart));
        assert!(Validity::between(at(0), at(LAST_SECOND)).is_ok());
    }
}
