//! The worker's clock is wrong, or stands still because the machine is asleep.
//!
//! `faketime` makes the clock. Where it is not installed these tests say so, and test nothing.

use std::time::{Duration, Instant};

use crate::support::{self, InFlight, LIMIT, Observed, clock::Clock};
use keyutil_cli::pki::Party;
use sandbox::{Stack, StackOptions, guard::Signal, stack::connection_age};
use tokio::time::sleep;

/// For work to go on after the clock was set right. The SDK waits twelve seconds at most
/// before it polls again; the rest is for a busy machine.
const RECOVERY: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_half_a_minute_ahead_or_behind_costs_nothing() {
    let stack = support::stack(StackOptions::default()).await;
    let Some(clock) = Clock::right(&stack).await else {
        return;
    };
    // Not by a step that the worker sees: by its clock it was never any other time.
    for (seconds, lifetime) in [(30, "5m"), (-30, "5m"), (30, "3s")] {
        clock.differs_by(seconds);
        let mut command = support::worker_command(&stack).await;
        command.env("KEYUTIL_TOKEN_LIFETIME", lifetime);
        let worker = Observed::start(clock.is_of(&mut command)).await;
        worker.becomes_ready().await;
        let load = InFlight::start(&stack.connect_args(Party::Starter)).await;
        load.more(50).await;
        if lifetime == "3s" {
            worker
                .until("tokens are minted on", |status| {
                    status["credentials"]["minting"]["minted"].as_u64() >= Some(4)
                })
                .await;
        }
        load.stop().await;
        worker.program.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_ten_minutes_ahead_is_named_and_work_goes_on_when_it_is_right() {
    a_clock_that_is_set(600, "Token is not valid yet").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_ten_minutes_behind_is_named_and_work_goes_on_when_it_is_right() {
    a_clock_that_is_set(-600, "Token is expired").await;
}

async fn a_clock_that_is_set(seconds: i64, servers_words: &str) {
    let stack = support::stack(StackOptions {
        // Handshakes go on, and a connection lasts long enough for calls that are refused.
        dynamic_config: connection_age(Duration::from_secs(8)),
        ..StackOptions::default()
    })
    .await;
    let Some(clock) = Clock::right(&stack).await else {
        return;
    };
    let mut command = support::worker_command(&stack).await;
    let mut worker = Observed::start(clock.is_of(&mut command)).await;
    worker.becomes_ready().await;
    let load = InFlight::start(&stack.connect_args(Party::Starter)).await;

    clock.differs_by(seconds);
    let reasons = worker
        .becomes_unready("calls have been refused since")
        .await;
    let words = "the clock of this machine (";
    assert!(reasons.contains(words), "{reasons}");
    if seconds < 0 {
        // As seen from here the server's certificate is not valid yet.
        let reasons = worker
            .becomes_unready("the connection has been failing")
            .await;
        let words = " (the clock of this machine: ";
        assert!(reasons.contains(words), "{reasons}");
    } else {
        sleep(Duration::from_secs(8)).await;
    }
    clock.differs_by(0);
    let right = Instant::now();
    worker.becomes_ready().await;
    load.more(20).await;
    eprintln!(
        "works again {:?} after the clock was right",
        right.elapsed()
    );
    assert!(right.elapsed() < RECOVERY, "{:?}", right.elapsed());

    // The server's own words for it: what the tests of other files look for, and do not find.
    let log = stack.server().unwrap().log_tail(usize::MAX).unwrap();
    assert!(log.iter().any(|line| line.contains(servers_words)));
    load.stop().await;
    worker.program.signal(Signal::TERM);
    let ended = worker.program.ended(LIMIT).await;
    assert!(ended.success(), "{}", worker.program.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_clock_ten_minutes_off_a_worker_does_not_start_and_says_so() {
    let stack = support::stack(StackOptions::default()).await;
    let Some(clock) = Clock::right(&stack).await else {
        return;
    };
    clock.differs_by(600);
    let (code, told) = fails_to_start(&stack, &clock).await;
    assert_eq!(code, Some(80), "{told}");
    for words in ["Request unauthorized", "the clock of this machine"] {
        assert!(told.contains(words), "{words}: {told}");
    }

    // Behind, its own certificate is the first thing that comes into sight.
    clock.differs_by(-600);
    let (code, told) = fails_to_start(&stack, &clock).await;
    assert_ne!(code, Some(0), "{told}");
    for words in ["is not valid before", "the clock of this machine"] {
        assert!(told.contains(words), "{words}: {told}");
    }
}

async fn fails_to_start(stack: &Stack, clock: &Clock) -> (Option<i32>, String) {
    let mut command = support::worker_command(stack).await;
    command.args(["--connect-timeout", "5s"]);
    let output = support::run(clock.is_of(&mut command)).await;
    let told = support::stderr(&output);
    eprintln!("{told}");
    (output.status.code(), told)
}

/// The process stands still as on a machine that is asleep, and meanwhile its token expires.
#[tokio::test(flavor = "multi_thread")]
async fn a_sleep_that_outlasts_the_token_costs_nothing() {
    let stack = support::stack(StackOptions::default()).await;
    let mut command = support::worker_command(&stack).await;
    command.env("KEYUTIL_TOKEN_LIFETIME", "4s");
    let mut worker = Observed::start(&mut command).await;
    worker.becomes_ready().await;
    let load = InFlight::start(&stack.connect_args(Party::Starter)).await;

    for _ in 0..2 {
        worker.program.signal(Signal::STOP);
        sleep(Duration::from_secs(10)).await;
        worker.program.signal(Signal::CONT);
        load.more(50).await;
        worker.becomes_ready().await;
    }

    load.stop().await;
    let status = worker.status().await;
    assert_eq!(status["calls"]["refusals"]["count"], 0, "{status:#}");
    // The SDK warns of tasks that the server had given up on meanwhile, and of a call that got its
    // token before the process stood still and was sent after that.
    let allowed = ["ot found", "TMPRL1104", "before the server checked it"];
    for complaint in worker.program.complaints() {
        let is_allowed = allowed.iter().any(|words| complaint.contains(words));
        assert!(is_allowed, "{complaint}");
    }
    worker.program.signal(Signal::TERM);
    let ended = worker.program.ended(LIMIT).await;
    assert!(ended.success(), "{}", worker.program.log());
}
