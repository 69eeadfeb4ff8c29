//! The server dies, again and again, or stands still, while work is under way.
//!
//! A server that is dead refuses connections, and the worker says so after the five seconds that a
//! restart may take. A frozen server shows only by its silence: up to 12 s pass before a ping, 8 s
//! before its connection counts as dead (`transport/channel.rs`), 10 s before the next attempt to
//! connect fails, and the same five seconds. Until then, 35 s in all, the worker is ready, and its
//! status shows the fault only by the times of the last calls that succeeded.

use std::time::{Duration, Instant};

use crate::support::{self, InFlight, LIMIT, Observed};
use keyutil_cli::pki::Party;
use reqwest::StatusCode;
use sandbox::{StackOptions, guard::Signal, server::Server};
use tokio::time::sleep;

/// For a worker to be ready again after the server is back. The SDK waits twelve seconds at most
/// before it polls again; the rest is for a busy machine.
const RECOVERY: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_five_times_costs_no_workflow() {
    let mut stack = support::stack(StackOptions {
        durable: true,
        ..StackOptions::default()
    })
    .await;
    let mut worker = support::worker(&stack).await;
    let load = InFlight::start(&stack.connect_args(Party::Starter)).await;

    for _ in 0..5 {
        stack.kill_server().await.unwrap().unwrap();
        stack.start_server().await.unwrap();
        load.more(20).await;
    }

    load.stop().await;
    worker.signal(Signal::TERM);
    let ended = worker.ended(LIMIT).await;
    assert!(ended.success(), "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_dead_for_8_s_is_told_and_costs_no_workflow() {
    let mut stack = support::stack(StackOptions {
        durable: true,
        ..StackOptions::default()
    })
    .await;
    let worker = Observed::start(&mut support::worker_command(&stack).await).await;
    worker.becomes_ready().await;
    let load = InFlight::start(&stack.connect_args(Party::Starter)).await;

    stack.kill_server().await.unwrap().unwrap();
    let killed = Instant::now();
    let reasons = worker
        .becomes_unready("the connection has been failing")
        .await;
    eprintln!("told {:?} after the server's death", killed.elapsed());
    // Five seconds pass in hope.
    assert!(killed.elapsed() < Duration::from_secs(8), "{reasons}");
    assert!(
        reasons.contains("no TCP connection to 127.0.0.1"),
        "{reasons}"
    );
    sleep(Duration::from_secs(8).saturating_sub(killed.elapsed())).await;
    stack.start_server().await.unwrap();
    let started = Instant::now();
    worker.becomes_ready().await;
    load.more(20).await;
    eprintln!("works again {:?} after the server did", started.elapsed());
    assert!(started.elapsed() < RECOVERY, "{:?}", started.elapsed());
    let status = worker.status().await;
    assert!(status["connection"]["last_failure"].is_null(), "{status:#}");

    load.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stands_still_for_20_s_costs_no_workflow() {
    let stack = support::stack(StackOptions::default()).await;
    let worker = Observed::start(&mut support::worker_command(&stack).await).await;
    worker.becomes_ready().await;
    let load = InFlight::start(&stack.connect_args(Party::Starter)).await;

    let server = stack.server().unwrap();
    has_started(server).await;
    server.pause().unwrap();
    sleep(Duration::from_secs(20)).await;
    assert_eq!(worker.ready().await.0, StatusCode::OK);
    let status = worker.status().await;
    assert!(status["connection"]["last_failure"].is_null(), "{status:#}");
    server.resume().unwrap();

    load.stop().await;
}

/// When it goes on, it refuses what has waited: the tokens were good when they were sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stands_still_for_longer_than_tokens_live_costs_no_workflow() {
    let lifetime = Duration::from_secs(4);
    let stack = support::stack(StackOptions::default()).await;
    let mut command = support::worker_command(&stack).await;
    command.env("KEYUTIL_TOKEN_LIFETIME", format!("{lifetime:?}"));
    let worker = Observed::start(&mut command).await;
    worker.becomes_ready().await;
    let mut starter = stack.connect_args(Party::Starter);
    starter.token.claims.token_lifetime = Some(lifetime);
    let load = InFlight::start(&starter).await;

    let server = stack.server().unwrap();
    has_started(server).await;
    server.pause().unwrap();
    sleep(lifetime * 2).await;
    server.resume().unwrap();
    load.more(50).await;

    let refusals = worker.status().await["calls"]["refusals"].clone();
    assert_eq!(refusals["count"], 0, "{refusals:#}");
    let log = server.log_tail(usize::MAX).unwrap();
    assert!(
        log.iter().any(|line| line.contains("Token is expired")),
        "nothing came too late"
    );
    load.stop().await;
}

/// Without load, because a workflow may take a minute at most.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stands_still_for_longer_is_told_and_found_again() {
    let stack = support::stack(StackOptions::default()).await;
    let worker = Observed::start(&mut support::worker_command(&stack).await).await;
    worker.becomes_ready().await;
    support::assert_greeted(&support::starter(&stack, &[]).await);

    let server = stack.server().unwrap();
    has_started(server).await;
    server.pause().unwrap();
    let paused = Instant::now();
    let reasons = loop {
        let (status, reasons) = worker.ready().await;
        if status == StatusCode::SERVICE_UNAVAILABLE {
            break reasons;
        }
        assert!(paused.elapsed() < NOTICED, "{:#}", worker.status().await);
        sleep(Duration::from_millis(200)).await;
    };
    eprintln!("told after {:?}: {reasons}", paused.elapsed());
    assert!(
        reasons.contains("the connection has been failing"),
        "{reasons}"
    );
    server.resume().unwrap();

    let resumed = Instant::now();
    worker.becomes_ready().await;
    support::assert_greeted(&support::starter(&stack, &[]).await);
    eprintln!("works again {:?} after the server did", resumed.elapsed());
    assert!(resumed.elapsed() < RECOVERY, "{:?}", resumed.elapsed());
}

/// One that stands still before that dies of it.
async fn has_started(server: &Server) {
    let begun = Instant::now();
    while !matches!(server.has_started(), Ok(true)) {
        assert!(begun.elapsed() < LIMIT, "the server does not start");
        sleep(Duration::from_millis(100)).await;
    }
}

/// The minute that it takes, and half as much for a busy machine.
const NOTICED: Duration = Duration::from_secs(90);
