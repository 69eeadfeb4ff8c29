//! Times in files, which outlive the process that wrote them.
//!
//! A rotation takes many runs, and its waits are counted from times that earlier runs recorded.
//! The clock may have been set in between; no wait may become shorter because of that.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// The longest wait (100 years): short enough to be added to any time without an overflow.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// A time as the files have it: RFC 3339 in UTC, with fractions of a second if there are any.
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

/// The clock has shown less than a time that was recorded before. Either it was wrong then, or it
/// is wrong now. Once it shows `until` again it was wrong in between: what was recorded from `from`
/// on counts as recorded at `until`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClockRegression {
    /// The least that the clock has shown.
    pub(crate) from: Timestamp,
    /// The latest time that was recorded.
    pub(crate) until: Timestamp,
}

impl ClockRegression {
    /// Whether the clock shows less than one of the times `recorded`, or still less than in an
    /// `earlier` regression.
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

    /// What a recorded time counts as.
    pub(crate) fn corrected(&self, time: Timestamp, now: SystemTime) -> Timestamp {
        let over = self.until.0 <= now;
        if over && (self.from..self.until).contains(&time) {
            self.until
        } else {
            time
        }
    }
}
