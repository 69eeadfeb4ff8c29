//! What keeps calls from going well, told in the log once, and then at growing intervals.
//!
//! The SDK repeats what may pass, and repeats a refused poll for a while, so one cause makes many
//! failures. A person wants to know of it when it begins, that it is still so, and when it is over.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tracing::{info, warn};

use crate::{diagnosis::Diagnosis, status::in_words};

/// From the first time that it is told to the second; twice as long after each.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// For how long the SDK repeats a poll that is refused; then its worker ends
/// (`LONG_POLL_FATAL_GRACE` in `retry.rs` of temporalio-client 1.1).
const SDK_PATIENCE: Duration = Duration::from_secs(60);

/// A cause that goes on.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) diagnosis: Diagnosis,
    begun: Instant,
    told: Instant,
    pause: Duration,
    /// When the SDK will have had enough of refused polls.
    gives_up_at: Option<SystemTime>,
}

impl Trouble {
    /// It begins, or goes on: what is told depends on what stands already.
    pub(super) fn note(standing: &mut Option<Self>, diagnosis: Diagnosis, poll_refused: bool) {
        let now = Instant::now();
        let same = |standing: &Self| {
            let (was, is) = (&standing.diagnosis, &diagnosis);
            was.step == is.step && was.class == is.class
        };
        let gives_up_at = poll_refused.then(|| SystemTime::now() + SDK_PATIENCE);
        match standing {
            Some(trouble) if same(trouble) => {
                trouble.diagnosis = diagnosis;
                trouble.gives_up_at = trouble.gives_up_at.or(gives_up_at);
                if now.duration_since(trouble.told) >= trouble.pause {
                    trouble.told = now;
                    trouble.pause = trouble.pause.saturating_mul(2).min(LONGEST_PAUSE);
                    trouble.tell(Some(now.duration_since(trouble.begun)));
                }
            }
            _ => {
                let trouble = Self {
                    diagnosis,
                    begun: now,
                    told: now,
                    pause: FIRST_PAUSE,
                    gives_up_at,
                };
                trouble.tell(None);
                *standing = Some(trouble);
            }
        }
    }

    fn tell(&self, lasted: Option<Duration>) {
        let Diagnosis {
            step, cause, hint, ..
        } = &self.diagnosis;
        warn!(
            %step,
            reason = cause,
            hint,
            lasted = lasted.map(seconds),
            the_worker_ends_at = self.gives_up_at.map(in_words),
            "calls fail"
        );
    }

    /// It is over.
    pub(super) fn end(self) {
        info!(
            lasted = seconds(self.begun.elapsed()),
            "calls go well again"
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

    /// The times after which it was told, when it is noted once a second.
    async fn told(seconds: u64) -> Vec<u64> {
        let mut standing = None;
        let begun = Instant::now();
        let mut times = Vec::new();
        for _ in 0..seconds {
            let before = standing.as_ref().map(|trouble: &Trouble| trouble.told);
            Trouble::note(&mut standing, diagnosis(Step::Jwks), true);
            let after = standing.as_ref().map(|trouble| trouble.told);
            if after != before {
                times.push(begun.elapsed().as_secs());
            }
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        times
    }

    #[tokio::test(start_paused = true)]
    async fn what_goes_on_is_told_at_growing_intervals() {
        assert_eq!(told(200).await, [0, 10, 30, 70, 150]);
    }

    #[tokio::test(start_paused = true)]
    async fn another_cause_is_told_at_once() {
        let mut standing = None;
        Trouble::note(&mut standing, diagnosis(Step::Jwks), true);
        tokio::time::advance(Duration::from_secs(1)).await;
        Trouble::note(&mut standing, diagnosis(Step::Clock), true);
        assert!(standing.is_some_and(|trouble| trouble.told == Instant::now()));
    }

    #[test]
    fn the_worker_ends_only_when_polls_are_refused() {
        let mut standing = None;
        Trouble::note(&mut standing, diagnosis(Step::Jwks), false);
        assert_eq!(
            standing.as_ref().and_then(|trouble| trouble.gives_up_at),
            None
        );
        Trouble::note(&mut standing, diagnosis(Step::Jwks), true);
        let at = standing.and_then(|trouble| trouble.gives_up_at);
        assert!(at > Some(SystemTime::now() + SDK_PATIENCE / 2));
    }
}
