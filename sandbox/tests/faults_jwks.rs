//! The JWKS endpoint fails, when the server starts and during a rotation.
//!
//! What the server makes of it is not ours to choose: an answer that is no JSON changes nothing,
//! one that is JSON without keys makes it refuse every token until the next good answer. The
//! endpoint of this project never gives the latter; see `keyutil/tests/jwks_endpoint.rs`.

use std::time::{Duration, Instant, SystemTime};

use crate::support::{
    self, InFlight, LIMIT,
    jwks::{Endpoint, Manner},
};
use keyutil_cli::{
    keys::keyring::{KeyringError, RotationPolicy, RotationTimes},
    pki::Party,
};
use sandbox::{Stack, StackOptions, guard::Guard, stack::REFRESH};

/// From a good answer to accepted tokens: one refresh, and time for a busy machine.
const RECOVERY: Duration = Duration::from_secs(15);

/// How long the endpoint fails: several refreshes.
const FAULT: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_down() {
    costs_nothing_once_the_server_runs(Manner::Down).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_hangs() {
    costs_nothing_once_the_server_runs(Manner::Hangs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_answers_with_a_page() {
    costs_nothing_once_the_server_runs(Manner::Page).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_answers_half() {
    costs_nothing_once_the_server_runs(Manner::Truncated).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_answers_with_json_of_its_own() {
    stops_the_work_until_it_is_good(Manner::JsonError).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_answers_with_no_keys() {
    stops_the_work_until_it_is_good(Manner::Empty).await;
}

async fn costs_nothing_once_the_server_runs(manner: Manner) {
    let (stack, endpoint) = started_during(manner).await;
    let worker = support::worker(&stack).await;
    let load = InFlight::start(&stack.connect_args(Party::Starter)).await;
    until_next_is_known(&stack).await;

    endpoint.become_like(manner);
    rotate(&stack);
    tokio::time::sleep(FAULT).await;
    load.more(50).await;
    endpoint.become_like(Manner::Good);

    load.stop().await;
    worker.stop().await;
}

async fn stops_the_work_until_it_is_good(manner: Manner) {
    let (stack, endpoint) = started_during(manner).await;
    let mut worker = support::worker(&stack).await;
    support::assert_greeted(&support::starter(&stack, &[]).await);
    until_next_is_known(&stack).await;

    endpoint.become_like(manner);
    rotate(&stack);
    tokio::time::sleep(FAULT).await;
    let refused = support::starter(&stack, &["--connect-timeout", "5s"]).await;
    assert_eq!(refused.status.code(), Some(80), "{refused:?}");
    let words = support::stderr(&refused);
    assert!(words.contains("Request unauthorized."), "{words}");
    assert!(words.contains("JWKS does not contain it"), "{words}");
    endpoint.become_like(Manner::Good);

    // By itself: the worker is the same as before.
    works_within(RECOVERY, &stack).await;
    worker.signal(sandbox::guard::Signal::TERM);
    let ended = worker.ended(LIMIT).await;
    assert!(ended.success(), "{}", worker.log());
}

/// A server that was started while the endpoint failed, and can be used since it no longer does.
async fn started_during(manner: Manner) -> (Stack, Endpoint) {
    let guard = Guard::new("temporal-test-").unwrap();
    let document = guard.folder().join("certs/signing/jwks.json");
    let endpoint = Endpoint::start(document, manner).await;
    let binary = support::server_binary().await;
    let options = StackOptions {
        jwks_uri: Some(endpoint.url()),
        ..StackOptions::default()
    };
    let starting = Stack::start_server_alone(&binary, guard, options);
    let mend = async {
        tokio::time::sleep(FAULT).await;
        endpoint.become_like(Manner::Good);
    };
    let (stack, ()) = tokio::join!(starting, mend);
    let stack = stack.unwrap();
    let mended = Instant::now();
    while let Err(error) = stack.register_namespace().await {
        assert!(mended.elapsed() < RECOVERY, "{}", keyutil::chain(&error));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    (stack, endpoint)
}

fn policy() -> RotationPolicy {
    let times = RotationTimes {
        refresh_interval: REFRESH,
        propagation: Duration::from_secs(1),
        clock_skew: Duration::from_secs(1),
        ..RotationTimes::default()
    };
    RotationPolicy::new(times, None).unwrap()
}

async fn until_next_is_known(stack: &Stack) {
    let ring = stack.keyring().look(SystemTime::now()).unwrap();
    let allowed = ring.rotation_allowed(&policy()).unwrap();
    let left = allowed.duration_since(SystemTime::now());
    tokio::time::sleep(left.unwrap_or_default() + Duration::from_secs(1)).await;
}

fn rotate(stack: &Stack) {
    match stack.keyring().rotate(&policy(), SystemTime::now) {
        Ok(_) => {}
        Err(KeyringError::TooEarly { left, .. }) => panic!("{left:?} left"),
        Err(error) => panic!("{error}"),
    }
}

async fn works_within(limit: Duration, stack: &Stack) {
    let begun = Instant::now();
    loop {
        let output = support::starter(stack, &[]).await;
        if output.status.success() {
            return support::assert_greeted(&output);
        }
        assert!(begun.elapsed() < limit, "{}", support::stderr(&output));
    }
}
