//! `ring.json`: when each key was published, began to sign and stopped.
//!
//! Which key signs and which one waits is told by the two private keys alone. The record adds the
//! times, and the public halves, so that a lost `jwks.json` can be written again.

use std::time::{Duration, SystemTime};

use jsonwebtoken::jwk::Jwk;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) keys: Vec<Entry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) clock_set_back: Option<ClockSetBack>,
}

/// The clock has shown less than a time that was recorded before. Either it was wrong then, or it is
/// wrong now. Once it shows `until` again it was wrong in between: what was recorded then counts as
/// recorded at `until`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ClockSetBack {
    /// The least that it has shown.
    #[serde(with = "rfc3339")]
    pub(super) from: SystemTime,
    /// The latest time that was recorded.
    #[serde(with = "rfc3339")]
    pub(super) until: SystemTime,
}

impl Record {
    /// Whether the clock stands before where it stood once, with what was known of that before.
    pub(super) fn clock_set_back(&self, now: SystemTime) -> Option<ClockSetBack> {
        let times = self.keys.iter().flat_map(Entry::times);
        let before = self.clock_set_back.as_ref();
        let until = times.chain(before.map(|before| before.until)).max()?;
        let from = before.map_or(now, |before| before.from.min(now));
        (now < until).then_some(ClockSetBack { from, until })
    }

    /// What a recorded time counts as.
    pub(super) fn counted(&self, time: SystemTime, now: SystemTime) -> SystemTime {
        match &self.clock_set_back {
            Some(ClockSetBack { from, until })
                if *until <= now && (*from..*until).contains(&time) =>
            {
                *until
            }
            _ => time,
        }
    }
}

/// One key. Times are RFC 3339 in UTC, in whole seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) kid: String,
    /// For a person who looks into the file.
    pub(super) state: State,
    #[serde(with = "rfc3339")]
    pub(super) published: SystemTime,
    #[serde(
        default,
        with = "rfc3339_if_any",
        skip_serializing_if = "Option::is_none"
    )]
    pub(super) activated: Option<SystemTime>,
    #[serde(
        default,
        with = "rfc3339_if_any",
        skip_serializing_if = "Option::is_none"
    )]
    pub(super) retired: Option<SystemTime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) public: Option<Jwk>,
}

impl Entry {
    fn times(&self) -> impl Iterator<Item = SystemTime> {
        [Some(self.published), self.activated, self.retired]
            .into_iter()
            .flatten()
    }
}

/// Where a key is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Published, not yet signing.
    Next,
    /// Signs.
    Current,
    /// Has stopped signing, and is published for as long as a token of its may live.
    Previous,
    /// In the wrong hands: on the way out, by `--emergency`.
    Compromised,
}

impl State {
    /// As in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Next => "next",
            Self::Current => "current",
            Self::Previous => "previous",
            Self::Compromised => "compromised",
        }
    }
}

/// The next whole second: a wait that is counted from it is never too short.
pub(super) fn whole_second(time: SystemTime) -> SystemTime {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let seconds = since.as_secs() + u64::from(since.subsec_nanos() > 0);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

mod rfc3339 {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(
        time: &SystemTime,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_rfc3339_seconds(*time))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<SystemTime, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_rfc3339(&text).map_err(D::Error::custom)
    }
}

mod rfc3339_if_any {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(
        time: &Option<SystemTime>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => super::rfc3339::serialize(time, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<SystemTime>, D::Error> {
        #[derive(Deserialize)]
        struct Time(#[serde(with = "super::rfc3339")] SystemTime);
        let time = Option::<Time>::deserialize(deserializer)?;
        Ok(time.map(|Time(time)| time))
    }
}
