//! What keeps calls from going well, told in the log once, and then at growing intervals.
//!
//! The SDK repeats what may pass, and repeats a refused poll for a while, so one cause makes many
//! failures. A person wants to know of it when it begins, that it is still so, and when it is over.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tracing::{info, warn};

use crate::{base::time::in_words, diagnosis::Diagnosis};

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
pub(super) struct Troubles {
    known: Vec<Trouble>,
    /// Since when polls of each kind are refused.
    refused_polls: [Option<SystemTime>; POLLS],
}

/// How many kinds of polls there are.
pub(super) const POLLS: usize = 3;

/// A cause, known by its step and class.
#[derive(Debug)]
struct Trouble {
    diagnosis: Diagnosis,
    /// Whether it is that the server refuses calls.
    refusal: bool,
    begun: Instant,
    noted: Instant,
    told: Instant,
    pause: Duration,
    stands: bool,
    /// Whether it was told since it was last said to be over.
    announced: bool,
}

impl Troubles {
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
        let same = |known: &&mut Trouble| {
            let (was, is) = (&known.diagnosis, &diagnosis);
            was.step == is.step && was.class == is.class
        };
        let Some(trouble) = self.known.iter_mut().find(same) else {
            let trouble = Trouble {
                diagnosis,
                refusal: refused,
                begun: now,
                noted: now,
                told: now,
                pause: FIRST_PAUSE,
                stands: true,
                announced: true,
            };
            trouble.tell(None, ends_at);
            return self.known.push(trouble);
        };
        if !trouble.stands {
            if now.duration_since(trouble.noted) >= RELAPSE {
                (trouble.told, trouble.pause) = (now, Duration::ZERO);
            }
            (trouble.stands, trouble.begun) = (true, now);
        }
        (trouble.diagnosis, trouble.noted) = (diagnosis, now);
        if now.duration_since(trouble.told) >= trouble.pause {
            let lasted = now.duration_since(trouble.begun);
            trouble.tell((!lasted.is_zero()).then_some(lasted), ends_at);
            (trouble.told, trouble.announced) = (now, true);
            let longer = trouble.pause.saturating_mul(2);
            trouble.pause = longer.clamp(FIRST_PAUSE, LONGEST_PAUSE);
        }
    }

    /// A call has gone well, so nothing stands any more; but refusals do, unless it `takes` a
    /// permission that they were for.
    pub(super) fn gone_well(&mut self, takes: bool, poll: Option<usize>) {
        self.end(|trouble| takes || !trouble.refusal, poll.filter(|_| takes));
    }

    /// A poll stays open: it was let in. Without a connection that says nothing of others.
    pub(super) fn let_in(&mut self, poll: Option<usize>, connected: bool) {
        self.end(|trouble| connected || trouble.refusal, poll);
    }

    fn end(&mut self, which: impl Fn(&Trouble) -> bool, poll: Option<usize>) {
        if let Some(since) = poll.and_then(|kind| self.refused_polls.get_mut(kind)) {
            *since = None;
        }
        let mut over = None;
        for trouble in self.known.iter_mut().filter(|trouble| trouble.stands) {
            if which(trouble) {
                trouble.stands = false;
                if std::mem::take(&mut trouble.announced) {
                    over = over.max(Some(trouble.begun.elapsed()));
                }
            }
        }
        if let Some(lasted) = over {
            info!(lasted = seconds(lasted), "calls go well again");
        }
    }

    /// The one that was noted last of those that stand.
    pub(super) fn latest(&self) -> Option<&Diagnosis> {
        let standing = self.known.iter().filter(|trouble| trouble.stands);
        let latest = standing.max_by_key(|trouble| trouble.noted)?;
        Some(&latest.diagnosis)
    }

    /// When the SDK will have had enough of the first kind of refused polls.
    fn worker_ends_at(&self) -> Option<SystemTime> {
        let first = self.refused_polls.iter().flatten().min()?;
        Some(*first + SDK_PATIENCE)
    }
}

impl Trouble {
    fn tell(&self, lasted: Option<Duration>, ends_at: Option<SystemTime>) {
        let Diagnosis {
            step, cause, hint, ..
        } = &self.diagnosis;
        warn!(
            %step,
            reason = cause,
            hint,
            lasted = lasted.map(seconds),
            the_worker_ends_at = ends_at.filter(|_| self.refusal).map(in_words),
            "calls fail"
        );
    }
}

fn seconds(duration: Duration) -> String {
    humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string()
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
    async fn told(steps: &[Step], seconds: u64, relief: u64) -> Vec<u64> {
        let mut troubles = Troubles::default();
        let begun = Instant::now();
        let mut times = Vec::new();
        for second in 1..=seconds {
            for step in steps {
                let before: Vec<_> = troubles.known.iter().map(|known| known.told).collect();
                troubles.note(diagnosis(*step), true, Some(0));
                let after: Vec<_> = troubles.known.iter().map(|known| known.told).collect();
                if after != before {
                    times.push(begun.elapsed().as_secs());
                }
            }
            if second % relief == 0 {
                troubles.gone_well(true, Some(0));
            }
            a_second().await;
        }
        times
    }

    #[tokio::test(start_paused = true)]
    async fn what_goes_on_is_told_at_growing_intervals() {
        assert_eq!(told(&[Step::Jwks], 200, 999).await, [0, 10, 30, 70, 150]);
    }

    #[tokio::test(start_paused = true)]
    async fn two_causes_that_alternate_are_told_as_each_would_be_alone() {
        let both = [Step::Jwks, Step::Grpc];
        let twice = [0, 0, 10, 10, 30, 30, 70, 70];
        assert_eq!(told(&both, 100, 999).await, twice);
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_back_again_and_again_is_not_told_each_time() {
        assert_eq!(told(&[Step::Jwks], 100, 2).await, [0, 10, 30, 70]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_back_after_long_is_new() {
        let mut troubles = Troubles::default();
        troubles.note(diagnosis(Step::Jwks), true, None);
        troubles.gone_well(true, None);
        assert_eq!(troubles.latest(), None);
        tokio::time::advance(2 * RELAPSE).await;
        troubles.note(diagnosis(Step::Jwks), true, None);
        assert_eq!(troubles.known[0].told, Instant::now());
        assert_eq!(troubles.known[0].pause, FIRST_PAUSE);
        assert!(troubles.latest().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_poll_that_stays_open_without_a_connection_proves_nothing() {
        let mut troubles = Troubles::default();
        troubles.note(diagnosis(Step::Tcp), false, Some(0));
        troubles.let_in(Some(0), false);
        assert!(troubles.latest().is_some());
        troubles.let_in(Some(0), true);
        assert_eq!(troubles.latest(), None);
    }

    #[test]
    fn the_worker_ends_by_the_first_kind_of_poll_that_is_refused() {
        let mut troubles = Troubles::default();
        troubles.note(diagnosis(Step::Grpc), false, Some(0));
        troubles.note(diagnosis(Step::Jwks), true, None);
        assert_eq!(troubles.worker_ends_at(), None);
        troubles.note(diagnosis(Step::Jwks), true, Some(1));
        let first = troubles.worker_ends_at();
        assert!(first > Some(SystemTime::now() + SDK_PATIENCE / 2));
        // Another kind that goes well does not put it off, nor one that is refused later.
        troubles.gone_well(true, Some(0));
        troubles.note(diagnosis(Step::Jwks), true, Some(2));
        assert_eq!(troubles.worker_ends_at(), first);
        troubles.gone_well(true, Some(1));
        assert!(troubles.worker_ends_at() > first);
    }
}
