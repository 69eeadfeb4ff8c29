//! The outcomes of the SDK's calls: counters, and a log of the failures that last.
//!
//! A successful call takes no lock. The SDK retries failed calls, and a refused poll for a while,
//! so one cause makes many failures. The log reports a cause when it begins, at growing intervals
//! while it lasts, and when it ends.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::pin,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::{Code, Status};
use tracing::{info, warn};

use crate::{
    base::time::{rfc3339, whole_seconds},
    diagnosis::Diagnosis,
    status::{CallsStatus, Outcomes, RefusalStatus},
};

/// The outcomes of all calls so far. A call that the caller abandons is not counted.
#[derive(Debug, Default)]
pub struct CallOutcomes {
    begun: AtomicU64,
    polls: Counts,
    /// When a poll was last found open and not refused, in microseconds; 0 for never.
    poll_accepted: AtomicU64,
    others: Counts,
    /// Whether a failure is ongoing. If not, a successful call takes no lock.
    failing: AtomicBool,
    failures: Mutex<Failures>,
}

/// Counters for one kind of call.
#[derive(Debug, Default)]
struct Counts {
    /// Indexed by gRPC code.
    by_code: [AtomicU64; CODES],
    /// In microseconds since 1970; 0 is never.
    last_success: AtomicU64,
}

/// The long polls for tasks. `PollWorkflowExecutionUpdate` is not one of them: it waits for an
/// update that a client has started.
pub(super) const POLLS: [&str; 3] = [
    "PollWorkflowTaskQueue",
    "PollActivityTaskQueue",
    "PollNexusTaskQueue",
];

/// The gRPC codes, from `Ok`, 0, to `Unauthenticated`, 16.
const CODES: usize = 17;

/// A poll that is open for longer was not refused: a refusal comes at once.
const AUTHORIZED_AFTER: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
struct Failures {
    log: FailureLog,
    refusals: RefusalStatus,
    /// The number of calls that had begun when the last one failed.
    begun: u64,
}

/// The cause of a failure that affects other calls too.
#[derive(Clone, Debug)]
pub struct Cause {
    /// The diagnosis.
    pub diagnosis: Diagnosis,
    /// Whether a later call may succeed although nothing changes on this side. A refused poll is
    /// then reported to the SDK as one that did not reach the server.
    pub may_pass: bool,
}

/// A call in progress.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    number: u64,
    /// The index in `POLLS`, for a poll.
    poll: Option<usize>,
    /// Whether the server answers it without a permission.
    open: bool,
}

impl CallOutcomes {
    /// Registers a call of this method.
    pub(super) fn begin(&self, rpc: &str) -> Call {
        Call {
            number: self.begun.fetch_add(1, Ordering::Relaxed) + 1,
            poll: POLLS.iter().position(|name| *name == rpc),
            open: rpc == "GetSystemInfo",
        }
    }

    /// Waits for the answer to a call. A refusal comes at once, and an idle poll is answered after
    /// a minute. A poll that is still open after [`AUTHORIZED_AFTER`] was therefore accepted,
    /// unless it waits for a connection, which `connected` tells.
    // The polls of an idle worker return once a minute, too rarely to show that it works again.
    pub(super) async fn watch<F: Future>(
        &self,
        call: Call,
        connected: impl Fn() -> bool,
        answer: F,
    ) -> F::Output {
        if call.poll.is_none() {
            return answer.await;
        }
        let mut answer = pin!(answer);
        match tokio::time::timeout(AUTHORIZED_AFTER, &mut answer).await {
            Ok(answer) => answer,
            Err(_) => {
                let connected = connected();
                if connected {
                    let now = micros(SystemTime::now());
                    self.poll_accepted.store(now, Ordering::Relaxed);
                }
                if self.failing.load(Ordering::Acquire) {
                    self.mark_authorized(call, connected);
                }
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

    /// Counts a failure with the code of the answer. There is a `cause` if it affects other calls,
    /// too.
    pub(super) fn failed(&self, call: Call, answered: Code, cause: Option<Cause>) {
        self.counts(call).count(answered);
        if let Some(cause) = cause {
            self.record_failure(call, cause, refuses(answered));
        }
    }

    /// A call that began before the last failure proves nothing: a long poll that was accepted with
    /// an earlier token stays open for a minute.
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
    fn record_failure(&self, call: Call, cause: Cause, refused: bool) {
        let now = SystemTime::now();
        let mut failures = self.failures.lock();
        failures.begun = self.begun.load(Ordering::Relaxed);
        if refused {
            let refusals = &mut failures.refusals;
            refusals.count += 1;
            refusals.last = Some(cause.diagnosis.clone());
            refusals.last_at = Some(now);
            refusals.refusing_since.get_or_insert(now);
        }
        failures.log.note(cause, refused, call.poll);
        self.failing.store(true, Ordering::Release);
    }

    /// The counters, as plain values.
    pub fn status(&self) -> CallsStatus {
        CallsStatus {
            polls: self.polls.outcomes(),
            others: self.others.outcomes(),
            poll_accepted: time(&self.poll_accepted),
            refusals: self.failures.lock().refusals.clone(),
        }
    }

    /// The cause of the failures that are ongoing.
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

/// Whether the server has refused a call for lack of authentication or permission.
pub fn is_refusal(status: &Status) -> bool {
    refuses(status.code())
}

fn refuses(code: Code) -> bool {
    matches!(code, Code::PermissionDenied | Code::Unauthenticated)
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
        Outcomes {
            by_code: counted.collect::<BTreeMap<_, _>>(),
            last_success: time(&self.last_success),
        }
    }
}

fn time(micros: &AtomicU64) -> Option<SystemTime> {
    match micros.load(Ordering::Relaxed) {
        0 => None,
        micros => Some(UNIX_EPOCH + Duration::from_micros(micros)),
    }
}

fn micros(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Pause between the first and the second log line about a cause, doubled after each line.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// A cause that returns sooner continues where it was, and is not logged at each return.
const RELAPSE: Duration = Duration::from_secs(60);

/// How long the SDK repeats a refused poll before its worker ends (`LONG_POLL_FATAL_GRACE` in
/// `retry.rs` of temporalio-client 1.1).
const SDK_PATIENCE: Duration = Duration::from_secs(60);

/// What a worker does while its polls are refused temporarily.
const WAITS: &str = "the worker repeats its polls until the server accepts the token";

/// The causes that are ongoing, and those that have ended.
#[derive(Debug, Default)]
struct FailureLog {
    known: Vec<LoggedFailure>,
    /// When polls of each kind began to be refused.
    refused_polls: [Option<SystemTime>; POLLS.len()],
}

/// A cause, identified by its step and class.
#[derive(Debug)]
struct LoggedFailure {
    diagnosis: Diagnosis,
    /// Whether the server refuses the calls.
    refusal: bool,
    may_pass: bool,
    begun: Instant,
    noted: Instant,
    logged_at: Instant,
    pause: Duration,
    stands: bool,
    /// Whether a line was logged since the cause last ended.
    announced: bool,
}

impl FailureLog {
    /// Records a failure. `refused` says whether the server refused the call, and `poll` the kind
    /// of poll.
    fn note(&mut self, cause: Cause, refused: bool, poll: Option<usize>) {
        let Cause {
            diagnosis,
            may_pass,
        } = cause;
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
                may_pass,
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
        (ongoing.diagnosis, ongoing.may_pass) = (diagnosis, may_pass);
        ongoing.noted = now;
        if now.duration_since(ongoing.logged_at) >= ongoing.pause {
            let lasted = now.duration_since(ongoing.begun);
            ongoing.log((!lasted.is_zero()).then_some(lasted), ends_at);
            (ongoing.logged_at, ongoing.announced) = (now, true);
            let longer = ongoing.pause.saturating_mul(2);
            ongoing.pause = longer.clamp(FIRST_PAUSE, LONGEST_PAUSE);
        }
    }

    /// Ends the causes after a successful call. Refusals continue unless the call `takes` a
    /// permission.
    fn mark_succeeded(&mut self, takes: bool, poll: Option<usize>) {
        self.end(|ongoing| takes || !ongoing.refusal, poll.filter(|_| takes));
    }

    /// Ends the refusals after a poll that was accepted. Other causes end only if it is
    /// `connected`.
    fn mark_authorized(&mut self, poll: Option<usize>, connected: bool) {
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
            info!(lasted = whole_seconds(lasted), "calls recovered");
        }
    }

    /// The ongoing cause that was recorded last.
    fn latest(&self) -> Option<&Diagnosis> {
        let standing = self.known.iter().filter(|ongoing| ongoing.stands);
        let latest = standing.max_by_key(|ongoing| ongoing.noted)?;
        Some(&latest.diagnosis)
    }

    /// When the SDK will end the worker, if polls stay refused.
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
        let ends_at = ends_at.filter(|_| self.refusal);
        warn!(
            %step,
            reason = cause,
            hint,
            lasted = lasted.map(whole_seconds),
            worker_ends_at = ends_at.filter(|_| !self.may_pass).map(rfc3339),
            next = ends_at.filter(|_| self.may_pass).map(|_| WAITS),
            "calls are failing"
        );
    }
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
        let cause = Cause {
            diagnosis,
            may_pass: false,
        };
        calls.failed(calls.begin(rpc), Code::PermissionDenied, Some(cause));
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
        calls.failed(calls.begin(POLL), Code::Unavailable, None);
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

        // Accepted with an earlier token, and a call that requires no permission.
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
    async fn a_poll_that_stays_open_shows_that_the_worker_polls() {
        for connected in [false, true] {
            let calls = CallOutcomes::default();
            let answer = tokio::time::sleep(Duration::from_secs(60));
            let mut poll = pin!(calls.watch(calls.begin(POLL), || connected, answer));
            tokio::select! {
                () = &mut poll => unreachable!("it takes a minute"),
                () = tokio::time::sleep(Duration::from_secs(5)) => {}
            }
            let status = calls.status();
            assert_eq!(status.poll_accepted.is_some(), connected);
            assert_eq!(status.polls.last_success, None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_poll_that_stays_open_is_authorized() {
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

    fn cause(step: Step) -> Cause {
        let diagnosis = Diagnosis {
            step,
            class: Class::Token,
            cause: "no such kid".to_owned(),
            hint: None,
        };
        Cause {
            diagnosis,
            may_pass: false,
        }
    }

    async fn a_second() {
        tokio::time::advance(Duration::from_secs(1)).await;
    }

    /// The seconds at which the causes are logged. Each is recorded once a second, and a call
    /// succeeds after every `relief`th second.
    async fn logged_at(steps: &[Step], seconds: u64, relief: u64) -> Vec<u64> {
        let mut log = FailureLog::default();
        let begun = Instant::now();
        let mut times = Vec::new();
        for second in 1..=seconds {
            for step in steps {
                let before: Vec<_> = log.known.iter().map(|known| known.logged_at).collect();
                log.note(cause(*step), true, Some(0));
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
    async fn an_ongoing_cause_is_logged_at_growing_intervals() {
        assert_eq!(
            logged_at(&[Step::Jwks], 200, 999).await,
            [0, 10, 30, 70, 150]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn alternating_causes_are_logged_independently() {
        let both = [Step::Jwks, Step::Grpc];
        let twice = [0, 0, 10, 10, 30, 30, 70, 70];
        assert_eq!(logged_at(&both, 100, 999).await, twice);
    }

    #[tokio::test(start_paused = true)]
    async fn a_recurring_cause_is_not_logged_each_time() {
        assert_eq!(logged_at(&[Step::Jwks], 100, 2).await, [0, 10, 30, 70]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cause_that_returns_late_is_new() {
        let mut log = FailureLog::default();
        log.note(cause(Step::Jwks), true, None);
        log.mark_succeeded(true, None);
        assert_eq!(log.latest(), None);
        tokio::time::advance(2 * RELAPSE).await;
        log.note(cause(Step::Jwks), true, None);
        assert_eq!(log.known[0].logged_at, Instant::now());
        assert_eq!(log.known[0].pause, FIRST_PAUSE);
        assert!(log.latest().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_poll_that_stays_open_without_a_connection_proves_nothing() {
        let mut log = FailureLog::default();
        log.note(cause(Step::Tcp), false, Some(0));
        log.mark_authorized(Some(0), false);
        assert!(log.latest().is_some());
        log.mark_authorized(Some(0), true);
        assert_eq!(log.latest(), None);
    }

    #[test]
    fn the_worker_ends_by_the_first_kind_of_poll_that_is_refused() {
        let mut log = FailureLog::default();
        log.note(cause(Step::Grpc), false, Some(0));
        log.note(cause(Step::Jwks), true, None);
        assert_eq!(log.worker_ends_at(), None);
        log.note(cause(Step::Jwks), true, Some(1));
        let first = log.worker_ends_at();
        assert!(first > Some(SystemTime::now() + SDK_PATIENCE / 2));
        // Success or later refusal of another kind of poll does not delay it.
        log.mark_succeeded(true, Some(0));
        log.note(cause(Step::Jwks), true, Some(2));
        assert_eq!(log.worker_ends_at(), first);
        log.mark_succeeded(true, Some(1));
        assert!(log.worker_ends_at() > first);
    }
}
