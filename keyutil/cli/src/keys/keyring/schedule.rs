//! The waits of a rotation, and rotations at an interval.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::Arc,
    time::{Duration, SystemTime},
};

use humantime::{format_duration, format_rfc3339_seconds};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use super::{Keyring, KeyringError, Ring};
use crate::{
    files::{LOCK_LIMIT, Lock},
    keys::fetches::Fetches,
    wall_clock::{LONGEST_WAIT, Span},
};
use keyutil::{
    base::chain,
    health::metrics::{Numbers, seconds},
    status::Failure,
};

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
///
/// The ring records the durations of each run that relies on them. If a later run has other ones,
/// the longer of the two applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Recorded", into = "Recorded")]
pub struct RotationPolicy {
    times: RotationTimes,
    retire_after: Duration,
    shortens: bool,
}

/// A [`RotationPolicy`] in `ring.json`.
#[derive(Serialize, Deserialize)]
struct Recorded {
    refresh_interval: Span,
    token_lifetime: Span,
    clock_skew: Span,
    propagation: Span,
    retire_after: Span,
}

impl From<Recorded> for RotationPolicy {
    fn from(recorded: Recorded) -> Self {
        Self {
            times: RotationTimes {
                refresh_interval: recorded.refresh_interval.0,
                token_lifetime: recorded.token_lifetime.0,
                clock_skew: recorded.clock_skew.0,
                propagation: recorded.propagation.0,
            },
            retire_after: recorded.retire_after.0,
            shortens: false,
        }
    }
}

impl From<RotationPolicy> for Recorded {
    fn from(policy: RotationPolicy) -> Self {
        Self {
            refresh_interval: Span(policy.times.refresh_interval),
            token_lifetime: Span(policy.times.token_lifetime),
            clock_skew: Span(policy.times.clock_skew),
            propagation: Span(policy.times.propagation),
            retire_after: Span(policy.retire_after),
        }
    }
}

impl RotationTimes {
    /// The longest time until every server has fetched what was just published.
    fn until_known(&self) -> Duration {
        sum([self.propagation, self.refresh_interval, self.clock_skew])
    }

    /// The longest time until no server accepts a token of a key that just stopped signing.
    fn until_unused(&self) -> Duration {
        sum([self.until_known(), self.token_lifetime])
    }

    fn combined(self, other: Self, pick: impl Fn(Duration, Duration) -> Duration) -> Self {
        Self {
            refresh_interval: pick(self.refresh_interval, other.refresh_interval),
            token_lifetime: pick(self.token_lifetime, other.token_lifetime),
            clock_skew: pick(self.clock_skew, other.clock_skew),
            propagation: pick(self.propagation, other.propagation),
        }
    }
}

impl RotationPolicy {
    /// Returns the shortest waits for these durations; `retire_after` replaces the second one.
    ///
    /// # Errors
    /// [`PolicyError`], for a `retire_after` shorter than tokens need.
    pub fn new(times: RotationTimes, retire_after: Option<Duration>) -> Result<Self, PolicyError> {
        let shortest = times.until_unused();
        let retire_after = retire_after.unwrap_or(shortest);
        if retire_after < shortest {
            return Err(PolicyError::RetiresTooEarly {
                retire_after,
                shortest,
                times,
            });
        }
        Ok(Self {
            times: times.combined(times, |one, _| one.min(LONGEST_WAIT)),
            retire_after: retire_after.min(LONGEST_WAIT),
            shortens: false,
        })
    }

    /// Returns the same waits, but such that they replace longer recorded ones. Keys that have
    /// signed still stay published for as long as was promised while they signed.
    pub fn shortening(self) -> Self {
        let shortens = true;
        Self { shortens, ..self }
    }

    pub(super) fn shortens(&self) -> bool {
        self.shortens
    }

    /// Returns the waits that apply if `recorded` ones were promised: of each, the longer value,
    /// unless these waits shorten them.
    pub(super) fn holding(self, recorded: Option<Self>) -> Self {
        let Some(recorded) = recorded.filter(|_| !self.shortens) else {
            return self;
        };
        let times = self.times.combined(recorded.times, Duration::max);
        let waits = [self.retire_after, recorded.retire_after];
        let retire_after = waits.into_iter().fold(times.until_unused(), Duration::max);
        Self {
            times,
            retire_after: retire_after.min(LONGEST_WAIT),
            shortens: false,
        }
    }

    /// Returns a sentence for each duration that differs from the `recorded` one.
    pub(super) fn differences(&self, recorded: &Self) -> Vec<String> {
        let (ours, theirs) = (&self.times, &recorded.times);
        let mut pairs = vec![
            (
                "`--refresh-interval` (KEYUTIL_JWKS_REFRESH_INTERVAL)",
                ours.refresh_interval,
                theirs.refresh_interval,
            ),
            (
                "`--token-lifetime` (KEYUTIL_TOKEN_LIFETIME)",
                ours.token_lifetime,
                theirs.token_lifetime,
            ),
            (
                "`--clock-skew` (KEYUTIL_CLOCK_SKEW)",
                ours.clock_skew,
                theirs.clock_skew,
            ),
            (
                "`--propagation` (KEYUTIL_PROPAGATION)",
                ours.propagation,
                theirs.propagation,
            ),
        ];
        // The default is the sum of the other durations.
        let is_set = |policy: &Self| policy.retire_after != policy.times.until_unused();
        if is_set(self) || is_set(recorded) {
            pairs.push((
                "`--retire-after` (KEYUTIL_RETIRE_AFTER)",
                self.retire_after,
                recorded.retire_after,
            ));
        }
        let differing = pairs.into_iter().filter(|(_, ours, theirs)| ours != theirs);
        let told = differing.map(|(flag, ours, theirs)| {
            let (ours_text, theirs_text) = (format_duration(ours), format_duration(theirs));
            let outcome = if ours < theirs && !self.shortens {
                "the longer value applies, until `keyutil key retire --shorten-waits` replaces it"
                    .to_owned()
            } else {
                format!("{ours_text} applies")
            };
            format!("{flag} is {ours_text}, but `ring.json` records {theirs_text}: {outcome}")
        });
        told.collect()
    }

    /// Returns the longest lifetime of a token that does not outlive its key.
    pub(super) fn longest_token(&self) -> Duration {
        let least = self.times.token_lifetime;
        let margin = self.times.until_known();
        self.retire_after.saturating_sub(margin).max(least)
    }

    /// Returns how long a key is published before it signs: until then some server may not have
    /// fetched it and would refuse its tokens.
    pub fn publish_before(&self) -> Duration {
        self.times.until_known().min(LONGEST_WAIT)
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
        let publish_before = self.publish_before();
        if every < publish_before {
            return Err(PolicyError::TooOften {
                every,
                publish_before,
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
    /// How many addresses must have fetched the next key before it signs.
    expected: Option<(Fetches, usize)>,
    status: RotationStatus,
    /// The warnings about durations that were logged already.
    warned: Arc<Mutex<Vec<String>>>,
}

/// The longest pause before the next check: the machine may have been suspended.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The pause after a failure such as a full disk.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(30);

/// Does work that blocks, and sleeps for the pause that it returns. A failure is logged, and the work
/// is repeated later.
async fn pause_after(
    work: impl FnOnce() -> Result<Duration, KeyringError> + Send + 'static,
    attempted: &'static str,
    status: &RotationStatus,
) {
    let failure = match tokio::task::spawn_blocking(work).await {
        Ok(Ok(pause)) => {
            status.succeeded(attempted);
            return tokio::time::sleep(pause).await;
        }
        Ok(Err(failure)) => chain(&failure),
        Err(panicked) => chain(&panicked),
    };
    error!(error = failure, "failed to {attempted}, retrying");
    status.failed(attempted, failure, SystemTime::now());
    tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
}

impl Keyring {
    /// Finishes emergency rotations that were interrupted, within about a second, until the future
    /// is dropped. Until then the compromised keys are published.
    pub async fn finish_emergencies(self, status: RotationStatus) -> Infallible {
        loop {
            let ring = self.clone();
            let finish = move || {
                ring.finish_emergency(SystemTime::now)
                    .map(|_| Duration::from_secs(1))
            };
            pause_after(finish, FINISH, &status).await;
        }
    }

    /// Keeps the age of the signing key and the holder of the lock in `status` up to date, until
    /// the future is dropped.
    pub async fn observe(self, status: RotationStatus) -> Infallible {
        loop {
            let (ring, status) = (self.clone(), status.clone());
            let observe = move || {
                let (since, holder) = (ring.signing_since(), Lock::held_by(&ring.folder));
                status.observed(since, holder, SystemTime::now());
            };
            // The panic hook logs a panic in it.
            let _ = tokio::task::spawn_blocking(observe).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
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
            expected: None,
            status: RotationStatus::default(),
            warned: Arc::default(),
        })
    }

    /// Makes rotations wait until `fetchers` addresses have fetched the key set with the next key.
    pub fn expecting(self, fetches: Fetches, fetchers: usize) -> Self {
        let expected = Some((fetches, fetchers)).filter(|_| fetchers > 0);
        Self { expected, ..self }
    }

    /// Reports failures and stalled rotations to `status`.
    pub fn reporting(self, status: RotationStatus) -> Self {
        Self { status, ..self }
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
            pause_after(turn, ROTATE, &self.status).await;
        }
    }

    /// Does what is due at `now`, and returns how long nothing else is due.
    ///
    /// # Errors
    /// [`KeyringError`], when the ring cannot be read or written.
    pub fn turn(&self, now: SystemTime) -> Result<Duration, KeyringError> {
        self.warn_of_differences();
        // This also records times that were lost; they count from now on, once.
        self.keyring.retire(&self.policy, || now)?;
        let ring = self.keyring.look(now)?;
        let due = self.rotation_due(&ring);
        let is_due = ring.interrupted || due.is_none_or(|due| due <= now);
        let unfetched = due.filter(|_| is_due && !ring.interrupted);
        let unfetched = unfetched.and_then(|due| self.unfetched(&ring, due, now));
        let waits = unfetched.is_some();
        self.status.waits(unfetched, now);
        if is_due && !waits {
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

    /// Returns why the next key does not sign although it is due: too few have fetched it.
    fn unfetched(&self, ring: &Ring, due: SystemTime, now: SystemTime) -> Option<Stall> {
        let (fetches, expected) = self.expected.as_ref()?;
        let next = ring.next.as_ref()?;
        let present = fetches.present(now);
        let fetched = present.fetchers_of(&next.kid);
        if fetched >= *expected {
            return None;
        }
        // By then every server has fetched the key set, unless something is wrong.
        let policy = ring.policy(&self.policy);
        let overdue = due.max(present.since + policy.publish_before());
        Some(Stall {
            since: due,
            overdue,
            reason: format!(
                "the rotation of the signing key has been overdue since {}: {fetched} of {expected} expected \
                 servers have fetched the next key `{}`. Check `keySourceURIs` and `refreshInterval` of the \
                 servers. `--expect-fetchers` (KEYUTIL_EXPECT_FETCHERS) sets the expected number; with 0 the \
                 rotation does not wait for them",
                format_rfc3339_seconds(due),
                next.kid
            ),
        })
    }

    /// Logs each difference from the recorded durations once.
    fn warn_of_differences(&self) {
        let differences = self.keyring.differences(&self.policy);
        let mut warned = self.warned.lock();
        for difference in &differences {
            if !warned.contains(difference) {
                warn!("{difference}");
            }
        }
        *warned = differences;
    }

    fn rotation_due(&self, ring: &Ring) -> Option<SystemTime> {
        ring.rotation_due(&self.policy, self.every)
    }
}

const ROTATE: &str = "rotate the signing key";
const FINISH: &str = "finish an emergency rotation";

/// The state of the rotation, for health endpoints. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct RotationStatus(Arc<Mutex<RotationState>>);

#[derive(Debug, Default)]
struct RotationState {
    signing_since: Option<SystemTime>,
    /// The ongoing failures, by what was attempted.
    failures: BTreeMap<&'static str, Failure>,
    failed: u64,
    last_failure: Option<SystemTime>,
    stall: Option<Stall>,
    stall_logged: bool,
    /// The process that holds the lock, and since when.
    holder: Option<(String, SystemTime)>,
}

/// A rotation that is due and waits for fetches of the key set.
#[derive(Clone, Debug)]
struct Stall {
    since: SystemTime,
    /// When the wait begins to count as a fault.
    overdue: SystemTime,
    reason: String,
}

impl RotationStatus {
    /// Judges whether keys can be rotated.
    ///
    /// # Errors
    /// The reasons why they cannot.
    pub fn readiness(&self, now: SystemTime) -> Result<(), Vec<String>> {
        let state = self.0.lock();
        let failures = state.failures.iter().map(|(attempted, failure)| {
            let since = format_rfc3339_seconds(failure.since);
            format!(
                "attempts to {attempted} have failed since {since}: {}",
                failure.reason
            )
        });
        let mut reasons: Vec<_> = failures.collect();
        reasons.extend(state.stalled(now).map(|stall| stall.reason.clone()));
        if let Some((holder, since)) = &state.holder
            && state.lock_held(now) >= LOCK_LIMIT
        {
            reasons.push(format!(
                "{holder} has held the lock of the signing keys since {}, and no other process can change \
                 them: stop it if it hangs",
                format_rfc3339_seconds(*since)
            ));
        }
        if reasons.is_empty() {
            Ok(())
        } else {
            Err(reasons)
        }
    }

    /// Adds the metrics.
    ///
    /// # Errors
    /// An error for a duplicate name.
    pub fn render(&self, numbers: &Numbers, now: SystemTime) -> prometheus::Result<()> {
        let state = self.0.lock();
        let since = |time: SystemTime| now.duration_since(time).unwrap_or_default().as_secs_f64();
        let one = |value: Option<f64>| value.map(|value| (None, value));
        numbers.gauges(
            "signing_key_since_timestamp_seconds",
            "Time since which the current key signs, in seconds since 1970",
            None,
            one(state.signing_since.map(seconds)),
        )?;
        numbers.count(
            "rotation_failures_total",
            "Failed attempts to rotate or remove signing keys",
            state.failed,
        )?;
        numbers.gauges(
            "rotation_last_failure_timestamp_seconds",
            "Time of the last failed attempt to rotate or remove signing keys, in seconds since 1970",
            None,
            one(state.last_failure.map(seconds)),
        )?;
        numbers.gauges(
            "rotation_stalled_seconds",
            "Time since a rotation that waits for fetches of the key set became due, in seconds, or 0",
            None,
            one(Some(
                state.stalled(now).map_or(0.0, |stall| since(stall.since)),
            )),
        )?;
        numbers.gauges(
            "signing_lock_held_seconds",
            "Time for which another process has held the lock of the signing keys, or 0",
            None,
            one(Some(state.lock_held(now).as_secs_f64())),
        )
    }

    /// Sets every metric to some value.
    #[cfg(test)]
    pub(crate) fn with_all_metrics(&self, now: SystemTime) {
        self.observed(Some(now), None, now);
        self.failed(ROTATE, String::new(), now);
    }

    fn succeeded(&self, attempted: &'static str) {
        self.0.lock().failures.remove(attempted);
    }

    fn failed(&self, attempted: &'static str, reason: String, now: SystemTime) {
        let mut state = self.0.lock();
        let mut lasting = state.failures.remove(attempted);
        Failure::note(&mut lasting, reason, now);
        state
            .failures
            .extend(lasting.map(|failure| (attempted, failure)));
        state.failed += 1;
        state.last_failure = Some(now);
    }

    fn waits(&self, stall: Option<Stall>, now: SystemTime) {
        let mut state = self.0.lock();
        state.stall = stall;
        let reason = state.stalled(now).map(|stall| stall.reason.clone());
        if let Some(reason) = reason.as_ref().filter(|_| !state.stall_logged) {
            warn!("{reason}");
        }
        state.stall_logged = reason.is_some();
    }

    fn observed(&self, signing_since: Option<SystemTime>, holder: Option<String>, now: SystemTime) {
        let mut state = self.0.lock();
        state.signing_since = signing_since;
        let before = state.holder.take();
        state.holder = holder.map(|holder| match before {
            Some((same, since)) if same == holder => (same, since),
            _ => (holder, now),
        });
    }
}

impl RotationState {
    fn stalled(&self, now: SystemTime) -> Option<&Stall> {
        self.stall.as_ref().filter(|stall| stall.overdue <= now)
    }

    fn lock_held(&self, now: SystemTime) -> Duration {
        let held = |(_, since): &(String, SystemTime)| now.duration_since(*since).ok();
        self.holder.as_ref().and_then(held).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_keeps_keys_from_being_rotated_is_told() {
        let status = RotationStatus::default();
        let now = SystemTime::UNIX_EPOCH + 1_000_000_000 * SECOND;
        let told = |status: &RotationStatus, passed: u32| {
            let reasons = status.readiness(now + passed * SECOND).err();
            reasons.unwrap_or_default().join("\n")
        };
        // First a lock that changes hands, then one that a single process holds.
        for passed in 0..40 {
            let holder = Some(format!("process {}", passed % 2));
            status.observed(None, holder, now + passed * SECOND);
        }
        assert_eq!(told(&status, 40), "");
        for passed in 40..71 {
            status.observed(
                Some(now),
                Some("process 7".to_owned()),
                now + passed * SECOND,
            );
            assert_eq!(told(&status, passed).is_empty(), passed < 70);
        }
        assert!(told(&status, 70).starts_with("process 7 has held the lock"));
        status.observed(None, None, now);
        assert_eq!(told(&status, 70), "");

        status.failed(ROTATE, "the disk is full".to_owned(), now);
        status.succeeded(FINISH);
        let words = "attempts to rotate the signing key have failed since 2001-09-09T01:46:40Z: the disk is full";
        assert_eq!(told(&status, 0), words);
        status.succeeded(ROTATE);
        assert_eq!(told(&status, 0), "");

        let stall = Stall {
            since: now,
            overdue: now + 10 * SECOND,
            reason: "not fetched".to_owned(),
        };
        status.waits(Some(stall), now);
        assert_eq!(told(&status, 9), "");
        assert_eq!(told(&status, 10), "not fetched");
        let numbers = Numbers::default();
        status.render(&numbers, now + 11 * SECOND).unwrap();
        let text = numbers.text().unwrap();
        for line in [
            "keyutil_rotation_stalled_seconds 11\n",
            "keyutil_rotation_failures_total 1\n",
            "keyutil_rotation_last_failure_timestamp_seconds 1000000000\n",
            "keyutil_signing_lock_held_seconds 0\n",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        status.waits(None, now + 11 * SECOND);
        assert_eq!(told(&status, 12), "");
    }

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
