//! What has become of the calls, counted without a lock on the path of those that go well.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::pin,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use tonic::{Code, Status};

use super::failure_log::{self, FailureLog};
use crate::{
    diagnosis::Diagnosis,
    status::{CallsStatus, Outcomes, RefusalStatus},
};

/// What has become of the calls so far. One that the caller gives up on is not counted.
#[derive(Debug, Default)]
pub struct CallOutcomes {
    begun: AtomicU64,
    polls: Counts,
    others: Counts,
    /// Whether there are failures to be cleared, so that a call which goes well takes no lock.
    failing: AtomicBool,
    failures: Mutex<Failures>,
}

/// Calls of one kind.
#[derive(Debug, Default)]
struct Counts {
    /// By the number of their gRPC code.
    by_code: [AtomicU64; CODES],
    /// In microseconds since 1970; 0 is never.
    last_success: AtomicU64,
}

/// The long polls for tasks. Not `PollWorkflowExecutionUpdate`, which waits for something that was
/// started.
const POLLS: [&str; failure_log::POLLS] = [
    "PollWorkflowTaskQueue",
    "PollActivityTaskQueue",
    "PollNexusTaskQueue",
];

/// From `Ok`, 0, to `Unauthenticated`, 16.
const CODES: usize = 17;

/// Far longer than a refusal takes.
const AUTHORIZED_AFTER: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
struct Failures {
    log: FailureLog,
    refusals: RefusalStatus,
    /// How many calls had begun when the last one failed.
    begun: u64,
}

/// A call under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    number: u64,
    /// Of which kind, if it is a poll for tasks.
    poll: Option<usize>,
    /// The server answers it without looking for permissions.
    open: bool,
}

impl CallOutcomes {
    /// A call of this method begins.
    pub(super) fn begin(&self, rpc: &str) -> Call {
        Call {
            number: self.begun.fetch_add(1, Ordering::Relaxed) + 1,
            poll: POLLS.iter().position(|name| *name == rpc),
            open: rpc == "GetSystemInfo",
        }
    }

    /// Waits for the answer to a call. A refusal comes at once, and the answer to a poll after a
    /// minute where there is nothing to do: a poll that is still open after a while was let in,
    /// unless it waits for a connection, which has failed before: `connected` says so.
    pub(super) async fn watch<F: Future>(
        &self,
        call: Call,
        connected: impl Fn() -> bool,
        answer: F,
    ) -> F::Output {
        if call.poll.is_none() || !self.failing.load(Ordering::Acquire) {
            return answer.await;
        }
        let mut answer = pin!(answer);
        match tokio::time::timeout(AUTHORIZED_AFTER, &mut answer).await {
            Ok(answer) => answer,
            Err(_) => {
                self.mark_authorized(call, connected());
                answer.await
            }
        }
    }

    pub(super) fn succeeded(&self, call: Call) {
        let counts = self.counts(call);
        counts.count(Code::Ok);
        counts
            .last_success
            .store(micros(SystemTime::now()), Ordering::Relaxed);
        if self.failing.load(Ordering::Acquire) {
            self.accepted(call);
        }
    }

    /// The diagnosis is of what keeps more calls than this one from going well.
    pub(super) fn failed(&self, call: Call, status: &Status, diagnosis: Option<Diagnosis>) {
        self.counts(call).count(status.code());
        if let Some(diagnosis) = diagnosis {
            self.record_failure(call, diagnosis, is_refusal(status));
        }
    }

    /// A call that had begun before the last failure proves nothing: a long poll that was let in
    /// with the token before goes on for a minute.
    #[cold]
    fn accepted(&self, call: Call) {
        let mut failures = self.failures.lock();
        let refusing = failures.refusals.refusing_since.is_some();
        if call.number <= failures.begun {
            return;
        }
        failures.log.mark_succeeded(!call.open, call.poll);
        if !(call.open && refusing) {
            failures.refusals.refusing_since = None;
            self.failing.store(false, Ordering::Release);
        }
    }

    #[cold]
    fn mark_authorized(&self, call: Call, connected: bool) {
        let mut failures = self.failures.lock();
        if call.number > failures.begun {
            failures.refusals.refusing_since = None;
            failures.log.mark_authorized(call.poll, connected);
            let stands = failures.log.latest().is_some();
            self.failing.store(stands, Ordering::Release);
        }
    }

    #[cold]
    fn record_failure(&self, call: Call, diagnosis: Diagnosis, refused: bool) {
        let now = SystemTime::now();
        let mut failures = self.failures.lock();
        failures.begun = self.begun.load(Ordering::Relaxed);
        if refused {
            let refusals = &mut failures.refusals;
            refusals.count += 1;
            refusals.last = Some(diagnosis.clone());
            refusals.last_at = Some(now);
            refusals.refusing_since.get_or_insert(now);
        }
        failures.log.note(diagnosis, refused, call.poll);
        self.failing.store(true, Ordering::Release);
    }

    /// What has become of them so far.
    pub fn status(&self) -> CallsStatus {
        CallsStatus {
            polls: self.polls.outcomes(),
            others: self.others.outcomes(),
            refusals: self.failures.lock().refusals.clone(),
        }
    }

    /// What keeps calls from going well at this time.
    pub fn ongoing(&self) -> Option<Diagnosis> {
        let failures = self.failures.lock();
        failures.log.latest().cloned()
    }

    fn counts(&self, call: Call) -> &Counts {
        match call.poll {
            Some(_) => &self.polls,
            None => &self.others,
        }
    }
}

/// Whether the server has refused a call for what the caller may do, or for who it is.
pub fn is_refusal(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::PermissionDenied | Code::Unauthenticated
    )
}

impl Counts {
    fn count(&self, code: Code) {
        if let Some(counter) = self.by_code.get(code as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn outcomes(&self) -> Outcomes {
        let counted = self.by_code.iter().zip(0..).filter_map(|(counter, code)| {
            let count = counter.load(Ordering::Relaxed);
            (count > 0).then(|| (format!("{:?}", Code::from_i32(code)), count))
        });
        let last_success = match self.last_success.load(Ordering::Relaxed) {
            0 => None,
            micros => Some(UNIX_EPOCH + Duration::from_micros(micros)),
        };
        Outcomes {
            by_code: counted.collect::<BTreeMap<_, _>>(),
            last_success,
        }
    }
}

fn micros(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::{Class, Step};

    const POLL: &str = "PollWorkflowTaskQueue";
    const OTHER: &str = "RespondWorkflowTaskCompleted";

    fn deny(calls: &CallOutcomes, rpc: &str, cause: &str) {
        let diagnosis = Diagnosis {
            step: Step::Token,
            class: Class::Token,
            cause: cause.to_owned(),
            hint: None,
        };
        let status = Status::permission_denied("Request unauthorized.");
        calls.failed(calls.begin(rpc), &status, Some(diagnosis));
    }

    #[test]
    fn calls_are_counted_by_kind_and_code() {
        let calls = CallOutcomes::default();
        let ok = |rpc| calls.succeeded(calls.begin(rpc));
        for rpc in [
            POLL,
            "PollNexusTaskQueue",
            OTHER,
            "PollWorkflowExecutionUpdate",
        ] {
            ok(rpc);
        }
        calls.failed(calls.begin(POLL), &Status::unavailable("gone"), None);
        let status = calls.status();
        let count = |outcomes: &Outcomes, code: &str| outcomes.by_code.get(code).copied();
        assert_eq!(count(&status.polls, "Ok"), Some(2));
        assert_eq!(count(&status.polls, "Unavailable"), Some(1));
        assert_eq!(count(&status.others, "Ok"), Some(2));
        assert_eq!(count(&status.others, "Unavailable"), None);
        assert!(status.polls.last_success.is_some());
        assert_eq!(status.refusals, RefusalStatus::default());
    }

    #[test]
    fn refusals_go_on_until_a_call_is_accepted_that_was_begun_after_them() {
        let calls = CallOutcomes::default();
        let long_poll = calls.begin(POLL);
        deny(&calls, OTHER, "no such kid");
        let since = calls.status().refusals.refusing_since;
        assert!(since.is_some());

        // Let in with the token before, and one that everybody may make.
        calls.succeeded(long_poll);
        calls.succeeded(calls.begin("GetSystemInfo"));
        deny(&calls, POLL, "who?");
        let refusals = calls.status().refusals;
        assert_eq!(refusals.refusing_since, since);
        assert_eq!(
            (refusals.count, refusals.last.map(|last| last.cause)),
            (2, Some("who?".to_owned()))
        );
        assert!(calls.ongoing().is_some());

        calls.succeeded(calls.begin(POLL));
        let refusals = calls.status().refusals;
        assert_eq!((refusals.count, refusals.refusing_since), (2, None));
        assert_eq!(calls.ongoing(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_poll_that_stays_open_was_let_in() {
        let calls = CallOutcomes::default();
        deny(&calls, OTHER, "no such kid");
        let refusing = || calls.status().refusals.refusing_since.is_some();
        let asleep = |seconds| tokio::time::sleep(Duration::from_secs(seconds));

        calls.watch(calls.begin(POLL), || true, asleep(1)).await;
        calls.watch(calls.begin(OTHER), || true, asleep(60)).await;
        assert!(refusing());
        let mut poll = pin!(calls.watch(calls.begin(POLL), || true, asleep(60)));
        tokio::select! {
            () = &mut poll => unreachable!("it takes a minute"),
            () = asleep(5) => {}
        }
        assert!(!refusing());
    }
}
