//! Times and durations as text: RFC 3339 in UTC.

use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

/// The last second of the year 9999, 9999-12-31T23:59:59Z: the last time that X.509 and RFC 3339
/// can express.
pub const LAST_SECOND: u64 = 253_402_300_799;

/// Serializes a time as RFC 3339 text, for `#[serde(with = "time")]`.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    rfc3339(*time).serialize(serializer)
}

/// Serializes an optional time as RFC 3339 text, for `#[serde(with = "time::option")]`.
pub mod option {
    use super::*;

    /// Serializes the time, or nothing.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(
        time: &Option<SystemTime>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        time.map(rfc3339).serialize(serializer)
    }
}

/// The time in RFC 3339, to the millisecond. `humantime` panics on times after the year 9999, which
/// a token can contain.
pub fn rfc3339(time: SystemTime) -> String {
    within_the_calendar(time, |time| {
        humantime::format_rfc3339_millis(time).to_string()
    })
}

/// The time in RFC 3339, to the second.
pub fn rfc3339_seconds(time: SystemTime) -> String {
    within_the_calendar(time, |time| {
        humantime::format_rfc3339_seconds(time).to_string()
    })
}

fn within_the_calendar(time: SystemTime, shown: impl Fn(SystemTime) -> String) -> String {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Err(_) => "before 1970".to_owned(),
        Ok(since) if since.as_secs() > LAST_SECOND => "after the year 9999".to_owned(),
        Ok(_) => shown(time),
    }
}

/// Whether at most a tenth of the time between `from` and `until` is left at `now`.
pub fn is_near_end(from: SystemTime, until: SystemTime, now: SystemTime) -> bool {
    let tenth = until.duration_since(from).unwrap_or_default() / 10;
    until.duration_since(now).unwrap_or_default() <= tenth
}

/// A duration in whole seconds, such as `1m 5s`.
pub fn whole_seconds(duration: Duration) -> String {
    humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string()
}

/// A time to the second, and its distance from now.
pub fn when(time: SystemTime, now: SystemTime) -> String {
    let shown = rfc3339_seconds(time);
    match time.duration_since(now) {
        Ok(left) => format!("{shown} (in {})", roughly(left)),
        Err(past) => format!("{shown} ({} ago)", roughly(past.duration())),
    }
}

/// To the second, or in whole days from two days on.
fn roughly(duration: Duration) -> String {
    const DAY: u64 = 24 * 60 * 60;
    match duration.as_secs() {
        seconds if seconds >= 2 * DAY => format!("{} days", seconds / DAY),
        _ => whole_seconds(duration),
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn times_outside_the_calendar_do_not_panic() {
        let second = UNIX_EPOCH + Duration::from_millis(1_500);
        assert_eq!(rfc3339(second), "1970-01-01T00:00:01.500Z");
        let far = UNIX_EPOCH + Duration::from_secs(1 << 40);
        assert_eq!(rfc3339(far), "after the year 9999");
        let before = UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(rfc3339(before), "before 1970");
    }
}
