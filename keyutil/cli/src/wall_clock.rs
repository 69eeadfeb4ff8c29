//! Times recorded in files, which outlive the process that wrote them.
//!
//! A rotation spans several runs, and its waits are counted from times that earlier runs recorded.
//! The clock may be set in between; that must not shorten a wait.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// The longest wait (100 years): short enough to be added to any time without an overflow.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// A recorded time: RFC 3339 in UTC, with fractions of a second if there are any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Timestamp(pub(crate) SystemTime);

impl TryFrom<String> for Timestamp {
    type Error = humantime::TimestampError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        humantime::parse_rfc3339(&text).map(Self)
    }
}

impl From<Timestamp> for String {
    fn from(Timestamp(time): Timestamp) -> Self {
        humantime::format_rfc3339(time).to_string()
    }
}

/// A recorded duration, such as `1m 40s`. A duration above [`LONGEST_WAIT`] counts as
/// [`LONGEST_WAIT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Span(pub(crate) Duration);

impl TryFrom<String> for Span {
    type Error = humantime::DurationError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let duration = humantime::parse_duration(&text)?;
        Ok(Self(duration.min(LONGEST_WAIT)))
    }
}

impl From<Span> for String {
    fn from(Span(duration): Span) -> Self {
        humantime::format_duration(duration).to_string()
    }
}

/// The clock showed a time earlier than one recorded before: it was wrong either then or now. Once
/// it shows `until` again, it was wrong in between, and times recorded from `from` on count as
/// `until`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClockRegression {
    /// The earliest time that the clock showed.
    pub(crate) from: Timestamp,
    /// The latest time that was recorded.
    pub(crate) until: Timestamp,
}

impl ClockRegression {
    /// Returns the regression if the clock shows less than one of the times `recorded`, or less
    /// than the end of an `earlier` regression.
    pub(crate) fn at(
        now: SystemTime,
        recorded: impl IntoIterator<Item = Timestamp>,
        earlier: Option<&Self>,
    ) -> Option<Self> {
        let recorded = recorded.into_iter();
        let until = recorded.chain(earlier.map(|earlier| earlier.until)).max()?;
        let now = Timestamp(now);
        let from = earlier.map_or(now, |earlier| earlier.from.min(now));
        (now < until).then_some(Self { from, until })
    }

    /// Returns the time that a recorded time counts as.
    pub(crate) fn corrected(&self, time: Timestamp, now: SystemTime) -> Timestamp {
        let over = self.until.0 <= now;
        if over && (self.from..self.until).contains(&time) {
            self.until
        } else {
            time
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
    }

    #[test]
    fn a_time_is_written_in_whole_seconds_unless_it_has_fractions() {
        let whole = at(1_000_000_000);
        let fraction = Timestamp(whole.0 + Duration::from_nanos(7_000_000));
        for (time, text) in [
            (whole, "\"2001-09-09T01:46:40Z\""),
            (fraction, "\"2001-09-09T01:46:40.007000000Z\""),
        ] {
            assert_eq!(serde_json::to_string(&time).unwrap(), text);
            assert_eq!(serde_json::from_str::<Timestamp>(text).unwrap(), time);
        }
        assert!(serde_json::from_str::<Timestamp>("\"yesterday\"").is_err());
    }

    #[test]
    fn what_was_recorded_by_a_clock_that_was_behind_counts_from_its_return() {
        let first = ClockRegression::at(at(500).0, [at(900), at(100)], None).unwrap();
        let second = ClockRegression::at(at(400).0, [at(500)], Some(&first)).unwrap();
        assert_eq!((second.from, second.until), (at(400), at(900)));
        for (recorded, now, counts_as) in [
            // Nothing is known until the clock is back.
            (at(500), at(899), at(500)),
            (at(500), at(900), at(900)),
            (at(400), at(2000), at(900)),
            // From before it was set back, or after.
            (at(399), at(900), at(399)),
            (at(901), at(950), at(901)),
        ] {
            assert_eq!(second.corrected(recorded, now.0), counts_as, "{recorded:?}");
        }
        assert_eq!(
            ClockRegression::at(at(900).0, [at(500)], Some(&second)),
            None
        );
        assert_eq!(ClockRegression::at(at(900).0, [], None), None);
    }
}
