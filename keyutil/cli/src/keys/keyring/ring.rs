//! The state of a key ring, derived from its files.

use std::time::{Duration, SystemTime};

use jsonwebtoken::jwk::Jwk;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::{KeyringError, RotationPolicy};
use crate::{
    keys::{Jwks, jwks},
    wall_clock::{ClockRegression, Span, Timestamp},
};
use keyutil::token::SigningKey;

/// The files of a ring as they were read.
#[derive(Debug, Default)]
pub(super) struct KeyringFiles {
    /// `current.pem`.
    pub(super) current: Option<SigningKey>,
    /// `next.pem`.
    pub(super) next: Option<SigningKey>,
    /// The text of `next.pem`, which is moved to `current.pem`.
    pub(super) next_pem: Option<SecretString>,
    /// `jwks.json`, unless it is missing or must not be published.
    pub(super) published: Option<Jwks>,
    /// `ring.json`.
    pub(super) record: Option<Record>,
}

impl KeyringFiles {
    /// Returns the keys recorded in `ring.json`.
    pub(super) fn recorded(&self) -> impl Iterator<Item = &Entry> {
        self.record.iter().flat_map(|record| &record.keys)
    }
}

/// The keys of a ring and their history.
///
/// The private keys say which key signs and which one waits, `jwks.json` which keys are published,
/// and `ring.json` since when. Where they disagree, for example after an interrupted run, the times
/// that make waits longer count: a key that was not published is published from now on, a key that
/// stopped at an unknown time stopped now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    /// The key that signs.
    pub current: Option<RingKey>,
    /// The key that is published and signs next.
    pub next: Option<RingKey>,
    /// The keys that are published until their last token expires, latest first.
    pub previous: Vec<RingKey>,
    /// Whether a rotation was interrupted.
    pub interrupted: bool,
    /// The durations from which the waits of this ring were computed, if a run has recorded them.
    pub(super) policy: Option<RotationPolicy>,
    pub(super) clock_regression: Option<ClockRegression>,
}

/// The public half of a key and its history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingKey {
    /// The RFC 7638 thumbprint.
    pub kid: String,
    /// The stage of the key.
    pub state: KeyState,
    /// Since when the key is in the key set.
    pub published: SystemTime,
    /// When the key began to sign.
    pub activated: Option<SystemTime>,
    /// When the key stopped signing.
    pub retired: Option<SystemTime>,
    /// The wait that was promised: how long a next key is published before it signs, or how long
    /// another key stays published after it stopped.
    pub promised: Option<Duration>,
    pub(super) public: Jwk,
}

/// The stage of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// Published, not yet signing.
    Next,
    /// Signs tokens.
    Current,
    /// Has stopped signing; published until its last token expires.
    Previous,
    /// Compromised; `--emergency` is removing it.
    Compromised,
}

impl KeyState {
    /// Returns the name used in the record.
    pub fn name(self) -> &'static str {
        match self {
            Self::Next => "next",
            Self::Current => "current",
            Self::Previous => "previous",
            Self::Compromised => "compromised",
        }
    }
}

impl Ring {
    pub(super) fn of(found: &KeyringFiles, now: SystemTime) -> Result<Self, KeyringError> {
        let now = whole_second(now);
        let sources = Sources { found, now };
        let key = |key: &SigningKey, state| sources.key(key.kid(), key.public().clone(), state);
        let current = found.current.as_ref();
        let next = found.next.as_ref();
        // Between two operations of a rotation one key is in both files.
        let in_both = next.is_some() && next.map(SigningKey::kid) == current.map(SigningKey::kid);
        let current = current.map(|current| key(current, KeyState::Current));
        let next = next.filter(|_| !in_both);
        let next = next.map(|next| key(next, KeyState::Next));
        let known = current.iter().chain(&next).map(|key| &*key.kid);
        let others = sources.others(known.collect())?;
        let (compromised, mut previous): (Vec<_>, Vec<_>) = others
            .into_iter()
            .partition(|key| key.state == KeyState::Compromised);
        previous.sort_by_key(|key| std::cmp::Reverse(key.retired));
        let record = found.record.as_ref();
        let clock_regression = record.and_then(|record| {
            let times = record.keys.iter().flat_map(Entry::times);
            ClockRegression::at(now, times, record.clock_set_back.as_ref())
        });
        let is_compromised = |key: &RingKey| key.state == KeyState::Compromised;
        let marked = !compromised.is_empty() || current.as_ref().is_some_and(is_compromised);
        Ok(Self {
            current,
            next,
            previous,
            interrupted: in_both || marked,
            policy: record.and_then(|record| record.policy),
            clock_regression,
        })
    }

    /// Returns all keys: current, next and previous ones.
    pub fn keys(&self) -> impl Iterator<Item = &RingKey> {
        self.current.iter().chain(&self.next).chain(&self.previous)
    }

    /// Returns the waits that apply to a run with `policy`: of each, the longer of its value and
    /// the recorded one, unless the run shortens them.
    pub fn policy(&self, policy: &RotationPolicy) -> RotationPolicy {
        policy.holding(self.policy)
    }

    /// Returns when the next key may sign.
    pub fn rotation_allowed(&self, policy: &RotationPolicy) -> Option<SystemTime> {
        let next = self.next.as_ref()?;
        Some(next.published + next.wait(&self.policy(policy)))
    }

    /// Records the waits on which other processes may now rely.
    pub(super) fn promise(&mut self, policy: &RotationPolicy) {
        self.policy = Some(*policy);
        let keys = self.current.iter_mut().chain(&mut self.next);
        for key in keys.chain(&mut self.previous) {
            key.promised = Some(key.wait(policy));
        }
    }

    /// Returns when a rotation at this interval is due.
    pub fn rotation_due(&self, policy: &RotationPolicy, every: Duration) -> Option<SystemTime> {
        let activated = self.current.as_ref()?.activated?;
        Some(self.rotation_allowed(policy)?.max(activated + every))
    }

    /// Returns when the next key may be removed from the key set.
    pub fn removal_due(&self, policy: &RotationPolicy) -> Option<SystemTime> {
        let policy = self.policy(policy);
        self.previous.iter().map(|key| key.removable(&policy)).min()
    }

    pub(super) fn document(&self) -> Result<Jwks, KeyringError> {
        Ok(Jwks::of(self.keys().map(|key| &key.public))?)
    }

    pub(super) fn record(&self) -> Record {
        let keys = self.keys().map(RingKey::entry).collect();
        Record {
            keys,
            policy: self.policy,
            clock_set_back: self.clock_regression.clone(),
        }
    }
}

impl RingKey {
    /// Creates the state of a key that is not in any file yet.
    pub(super) fn new(key: &SigningKey, state: KeyState, now: SystemTime) -> Self {
        Self {
            kid: key.kid().to_owned(),
            state,
            published: now,
            activated: (state == KeyState::Current).then_some(now),
            retired: None,
            promised: None,
            public: key.public().clone(),
        }
    }

    /// Returns when the key may be removed from the key set, once it has stopped signing.
    pub fn removable(&self, policy: &RotationPolicy) -> SystemTime {
        self.retired.unwrap_or(self.published) + self.wait(policy)
    }

    /// Returns how long a next key is published before it signs, or how long another key stays
    /// published after it stopped signing: the longer of the promised wait and that of `policy`.
    pub fn wait(&self, policy: &RotationPolicy) -> Duration {
        match self.state {
            KeyState::Next if policy.shortens() => policy.publish_before(),
            KeyState::Next => self
                .promised
                .unwrap_or_default()
                .max(policy.publish_before()),
            // Tokens that live as long as was promised may exist, even if later ones are shorter.
            _ => self.promised.unwrap_or_default().max(policy.retire_after()),
        }
    }

    pub(super) fn signing(mut self, now: SystemTime) -> Self {
        self.state = KeyState::Current;
        self.activated = Some(now);
        self.retired = None;
        self.promised = None;
        self
    }

    pub(super) fn stopped(mut self, now: SystemTime) -> Self {
        self.state = KeyState::Previous;
        self.retired = Some(now);
        self
    }

    fn entry(&self) -> Entry {
        Entry {
            kid: self.kid.clone(),
            state: self.state,
            published: Timestamp(self.published),
            activated: self.activated.map(Timestamp),
            retired: self.retired.map(Timestamp),
            promised: self.promised.map(Span),
            public: Some(self.public.clone()),
        }
    }
}

/// Combines what the files say of a key.
struct Sources<'a> {
    found: &'a KeyringFiles,
    now: SystemTime,
}

impl Sources<'_> {
    fn key(&self, kid: &str, public: Jwk, state: KeyState) -> RingKey {
        let entry = self.entry(kid);
        let activated = entry.and_then(|entry| entry.activated);
        let retired = entry.and_then(|entry| entry.retired);
        let is_compromised = entry.is_some_and(|entry| entry.state == KeyState::Compromised);
        // A next key that already signs, because a rotation was interrupted, was promised a
        // different wait.
        let same = |entry: &&Entry| (entry.state == KeyState::Next) == (state == KeyState::Next);
        let promised = entry.filter(same).and_then(|entry| entry.promised);
        RingKey {
            kid: kid.to_owned(),
            state: match state {
                KeyState::Current | KeyState::Previous if is_compromised => KeyState::Compromised,
                state => state,
            },
            published: self.published(kid),
            activated: match state {
                KeyState::Next => None,
                KeyState::Current => Some(self.at_most_now(activated)),
                KeyState::Previous | KeyState::Compromised => activated.map(|time| time.0),
            },
            retired: (state == KeyState::Previous).then(|| self.at_most_now(retired)),
            promised: promised.map(|span| span.0),
            public,
        }
    }

    /// Returns all other keys that are recorded or published.
    fn others<'a>(&'a self, mut known: Vec<&'a str>) -> Result<Vec<RingKey>, KeyringError> {
        let recorded = self.found.recorded().map(|entry| &entry.kid);
        let published = self.found.published.iter().flat_map(|jwks| jwks.kids());
        let mut keys = Vec::new();
        for kid in recorded.chain(published) {
            if known.contains(&&**kid) {
                continue;
            }
            known.push(kid);
            let published = match &self.found.published {
                Some(jwks) => jwks::find(&jwks.document(), kid)?,
                None => None,
            };
            // A key that is neither published nor recorded cannot be kept.
            let public = published.or_else(|| self.entry(kid)?.public.clone());
            keys.extend(public.map(|public| self.key(kid, public, KeyState::Previous)));
        }
        Ok(keys)
    }

    /// Returns since when the key is published: the recorded time, if the document has the key.
    fn published(&self, kid: &str) -> SystemTime {
        let in_document = self.found.published.as_ref();
        let in_document = in_document.is_some_and(|jwks| jwks.kids().iter().any(|one| one == kid));
        let recorded = self.entry(kid).map(|entry| entry.published);
        self.at_most_now(recorded.filter(|_| in_document))
    }

    /// Treats a missing time as now. A time in the future counts as now too: the clock was set
    /// back, and the time that has passed is unknown.
    fn at_most_now(&self, time: Option<Timestamp>) -> SystemTime {
        let record = self.found.record.as_ref();
        let regression = record.and_then(|record| record.clock_set_back.as_ref());
        let corrected =
            |time| regression.map_or(time, |regression| regression.corrected(time, self.now));
        time.map_or(self.now, |time| corrected(time).0.min(self.now))
    }

    fn entry(&self, kid: &str) -> Option<&Entry> {
        self.found.recorded().find(|entry| entry.kid == kid)
    }
}

/// `ring.json`: when each key was published, began to sign and stopped.
///
/// Only the two private keys decide which key signs and which one waits. The record adds the times,
/// and the public keys, from which a lost `jwks.json` can be restored; and the waits that were
/// promised, which a run with other durations must not shorten.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) keys: Vec<Entry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) policy: Option<RotationPolicy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) clock_set_back: Option<ClockRegression>,
}

impl Record {
    /// Returns the `kid`s that an emergency rotation is removing.
    pub(super) fn compromised(&self) -> impl Iterator<Item = &String> {
        let compromised = |entry: &&Entry| entry.state == KeyState::Compromised;
        self.keys.iter().filter(compromised).map(|entry| &entry.kid)
    }
}

/// A recorded key. Times are RFC 3339 in UTC, in whole seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) kid: String,
    /// For people who read the file.
    pub(super) state: KeyState,
    pub(super) published: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) activated: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) retired: Option<Timestamp>,
    /// The wait from `published` until the key signs, or from `retired` until it is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) promised: Option<Span>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) public: Option<Jwk>,
}

impl Entry {
    fn times(&self) -> impl Iterator<Item = Timestamp> {
        [Some(self.published), self.activated, self.retired]
            .into_iter()
            .flatten()
    }
}

/// Rounds up to a whole second, so that a wait counted from it is never too short.
pub(super) fn whole_second(time: SystemTime) -> SystemTime {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let seconds = since.as_secs() + u64::from(since.subsec_nanos() > 0);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}
