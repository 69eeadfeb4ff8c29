//! What keeps calls from going well, told in the log once, and then at growing intervals.
//!
//! The SDK repeats what may pass, and repeats a refused poll for a while, so one cause makes many
//! failures. A person wants to know of it when it begins, that it is still so, and when it is over.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tracing::{info, warn};

use crate::{
    base::time::{rfc3339, whole_seconds},
    diagnosis::Diagnosis,
};

/// From the first time that it is told to the second; twice as long after each.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// A cause that comes back sooner than this goes on where it was: it is not told at each relapse.
const RELAPSE: Duration = Duration::from_secs(60);

/// For how long the SDK repeats a poll that is refused; then its worker ends
/// (`LONG_POLL_FATAL_GRACE` in `retry.rs` of temporalio-client 1.1).
const SDK_PATIENCE: Duration = Duration::from_secs(60);

/// The causes that stand, and those that are over.
#[derive(Debug, Default)]
pub(super) struct FailureLog {
    known: Vec<LoggedFailure>,
    /// Since when polls of each kind are refused.
    refused_polls: [Option<SystemTime>; POLLS],
}

/// How many kinds of polls there are.
pub(super) const POLLS: usize = 3;

/// A cause, known by its step and class.
#[derive(Debug)]
struct LoggedFailure {
    diagnosis: Diagnosis,
    /// Whether it is that the server refuses calls.
    refusal: bool,
    begun: Instant,
    noted: Instant,
    logged_at: Instant,
    pause: Duration,
    stands: bool,
    /// Whether it was told since it was last said to be over.
    announced: bool,
}

impl FailureLog {
    /// A cause begins, or goes on. `refused` is of a call that the server has refused, `poll` the
    /// kind of the poll that it was.
    pub(super) fn note(&mut self, diagnosis: Diagnosis, refused: bool, poll: Option<usize>) {
        if let Some(since) = poll.and_then(|kind| self.refused_polls.get_mut(kind))
            && refused
        {
            since.get_or_insert_with(SystemTime::now);
        }
        let ends_at = self.worker_ends_at();
        let now = Instant::now();
        let same = |known: &&mut LoggedFailure| {
            let (was, is) = (&known.diagnosis, &diagnosis);
            was.step == is.step && was.class == is.class
        };
        let Some(ongoing) = self.known.iter_mut().find(same) else {
            let ongoing = LoggedFailure {
                diagnosis,
                refusal: refused,
                begun: now,
                noted: now,
                logged_at: now,
                pause: FIRST_PAUSE,
                stands: true,
                announced: true,
            };
            ongoing.log(None, ends_at);
            return self.known.push(ongoing);
        };
        if !ongoing.stands {
            if now.duration_since(ongoing.noted) >= RELAPSE {
                (ongoing.logged_at, ongoing.pause) = (now, Duration::ZERO);
            }
            (ongoing.stands, ongoing.begun) = (true, now);
        }
        (ongoing.diagnosis, ongoing.noted) = (diagnosis, now);
        if now.duration_since(ongoing.logged_at) >= ongoing.pause {
            let lasted = now.duration_since(ongoing.begun);
            ongoing.log((!lasted.is_zero()).then_some(lasted), ends_at);
            (ongoing.logged_at, ongoing.announced) = (now, true);
            let longer = ongoing.pause.saturating_mul(2);
            ongoing.pause = longer.clamp(FIRST_PAUSE, LONGEST_PAUSE);
        }
    }

    /// A call has gone well, so nothing stands any more; but refusals do, unless it `takes` a
    /// permission that they were for.
    pub(super) fn mark_succeeded(&mut self, takes: bool, poll: Option<usize>) {
        self.end(|ongoing| takes || !ongoing.refusal, poll.filter(|_| takes));
    }

    /// A poll stays open: it was let in. Without a connection that says nothing of others.
    pub(super) fn mark_authorized(&mut self, poll: Option<usize>, connected: bool) {
        self.end(|ongoing| connected || ongoing.refusal, poll);
    }

    fn end(&mut self, which: impl Fn(&LoggedFailure) -> bool, poll: Option<usize>) {
        if let Some(since) = poll.and_then(|kind| self.refused_polls.get_mut(kind)) {
            *since = None;
        }
        let mut over = None;
        for ongoing in self.known.iter_mut().filter(|ongoing| ongoing.stands) {
            if which(ongoing) {
                ongoing.stands = false;
                if std::mem::take(&mut ongoing.announced) {
                    over = over.max(Some(ongoing.begun.elapsed()));
                }
            }
        }
        if let Some(lasted) = over {
            info!(lasted = whole_seconds(lasted), "calls go well again");
        }
    }

    /// The one that was noted last of those that stand.
    pub(super) fn latest(&self) -> Option<&Diagnosis> {
        let standing = self.known.iter().filter(|ongoing| ongoing.stands);
        let latest = standing.max_by_key(|ongoing| ongoing.noted)?;
        Some(&latest.diagnosis)
    }

    /// When the SDK will have had enough of the first kind of refused polls.
    fn worker_ends_at(&self) -> Option<SystemTime> {
        let first = self.refused_polls.iter().flatten().min()?;
        Some(*first + SDK_PATIENCE)
    }
}

impl LoggedFailure {
    fn log(&self, lasted: Option<Duration>, ends_at: Option<SystemTime>) {
        let Diagnosis {
            step, cause, hint, ..
        } = &self.diagnosis;
        warn!(
            %step,
            reason = cause,
            hint,
            lasted = lasted.map(whole_seconds),
            the_worker_ends_at = ends_at.filter(|_| self.refusal).map(rfc3339),
            "calls fail"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::{Class, Step};

    fn diagnosis(step: Step) -> Diagnosis {
        Diagnosis {
            step,
            class: Class::Token,
            cause: "no such kid".to_owned(),
            hint: None,
        }
    }

    async fn a_second() {
        tokio::time::advance(Duration::from_secs(1)).await;
    }

    /// When the causes were told, in seconds from the beginning, each noted once a second, and
    /// after every `relief`th second all is well once.
    async fn logged_at(steps: &[Step], seconds: u64, relief: u64) -> Vec<u64> {
        let mut log = FailureLog::default();
        let begun = Instant::now();
        let mut times = Vec::new();
        for second in 1..=seconds {
            for step in steps {
                let before: Vec<_> = log.known.iter().map(|known| known.logged_at).collect();
                log.note(diagnosis(*step), true, Some(0));
                let after: Vec<_> = log.known.iter().map(|known| known.logged_at).collect();
                if after != before {
                    times.push(begun.elapsed().as_secs());
                }
            }
            if second % relief == 0 {
                log.mark_succeeded(true, Some(0));
            }
            a_second().await;
        }
        times
    }

    #[tokio::test(start_paused = true)]
    async fn what_goes_on_is_told_at_growing_intervals() {
        assert_eq!(
            logged_at(&[Step::Jwks], 200, 999).await,
            [0, 10, 30, 70, 150]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn two_causes_that_alternate_are_told_as_each_would_be_alone() {
        let both = [Step::Jwks, Step::Grpc];
        let twice = [0, 0, 10, 10, 30, 30, 70, 70];
        assert_eq!(logged_at(&both, 100, 999).await, twice);
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_back_again_and_again_is_not_told_each_time() {
        assert_eq!(logged_at(&[Step::Jwks], 100, 2).await, [0, 10, 30, 70]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_back_after_long_is_new() {
        let mut log = FailureLog::default();
        log.note(diagnosis(Step::Jwks), true, None);
        log.mark_succeeded(true, None);
        assert_eq!(log.latest(), None);
        tokio::time::advance(2 * RELAPSE).await;
        log.note(diagnosis(Step::Jwks), true, None);
        assert_eq!(log.known[0].logged_at, Instant::now());
        assert_eq!(log.known[0].pause, FIRST_PAUSE);
        assert!(log.latest().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_poll_that_stays_open_without_a_connection_proves_nothing() {
        let mut log = FailureLog::default();
        log.note(diagnosis(Step::Tcp), false, Some(0));
        log.mark_authorized(Some(0), false);
        assert!(log.latest().is_some());
        log.mark_authorized(Some(0), true);
        assert_eq!(log.latest(), None);
    }

    #[test]
    fn the_worker_ends_by_the_first_kind_of_poll_that_is_refused() {
        let mut log = FailureLog::default();
        log.note(diagnosis(Step::Grpc), false, Some(0));
        log.note(diagnosis(Step::Jwks), true, None);
        assert_eq!(log.worker_ends_at(), None);
        log.note(diagnosis(Step::Jwks), true, Some(1));
        let first = log.worker_ends_at();
        assert!(first > Some(SystemTime::now() + SDK_PATIENCE / 2));
        // Another kind that goes well does not put it off, nor one that is refused later.
        log.mark_succeeded(true, Some(0));
        log.note(diagnosis(Step::Jwks), true, Some(2));
        assert_eq!(log.worker_ends_at(), first);
        log.mark_succeeded(true, Some(1));
        assert!(log.worker_ends_at() > first);
    }
}
