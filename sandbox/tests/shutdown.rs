//! Work in hand and the reloading of credentials outlive a stopped worker and a dropped connection.

use std::time::{Duration, Instant, SystemTime};

use crate::support::{self, InFlight, LIMIT, Observed};
use keyutil_cli::{
    files::{self, Mode},
    keys::keyring::{KeyringError, RotationPolicy, RotationTimes},
    pki::{
        self, AuthorityKind, AuthorityOptions, AuthorityRotated, Layout, LeafOptions, Party,
        RotateError, RotationStep,
    },
};
use sandbox::{
    Stack, StackOptions,
    guard::Signal,
    stack::{REFRESH, TASK_QUEUE},
};
use secrecy::ExposeSecret;
use temporalio_client::WorkflowStartOptions;
use worker::canary::HelloWorkflow;

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_says_when_its_grace_ran_out() {
    let stack = support::stack(StackOptions::default()).await;
    let mut command = support::worker_command(&stack).await;
    command.args(["--shutdown-grace", "1s"]);
    let mut worker = support::polling(&mut command).await;

    // It says that it has started before its first poll is under way.
    support::assert_greeted(&support::starter(&stack, &[]).await);
    // A server that answers nothing cannot take leave of the worker either.
    stack.server().unwrap().pause().unwrap();
    worker.signal(Signal::TERM);
    let status = worker.ended(LIMIT).await;
    stack.server().unwrap().resume().unwrap();

    assert_eq!(status.code(), Some(1), "{}", worker.log());
    let log = worker.log();
    assert!(log.contains("SIGTERM"), "{log}");
    assert!(log.contains("within the grace period of 1s"), "{log}");
}

/// The server is away, so that what is in hand cannot be reported, while the worker is told to stop
/// and every credential that it presents is replaced.
#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_rotate_while_a_worker_stops_are_used_for_its_last_calls() {
    let mut stack = support::stack(StackOptions {
        durable: true,
        ..StackOptions::default()
    })
    .await;
    // The steps that every program must have seen before the next.
    authority_step(&stack, RotationStep::Trust).await;
    let before = SystemTime::now();
    let signing = policy();
    let ring = stack.keyring();
    let allowed = ring
        .look(before)
        .unwrap()
        .rotation_allowed(&signing)
        .unwrap();
    // The server looks for new CAs once a second, and so does the endpoint for new keys.
    let seen = allowed
        .duration_since(SystemTime::now())
        .unwrap_or_default();
    tokio::time::sleep(seen.max(PROPAGATION + REFRESH)).await;

    let (mut worker, load) = stopping_with_work_in_hand(&mut stack).await;
    let layout = Layout::new(&stack.certs());
    let options = LeafOptions::default();
    pki::rotate_leaf(&layout, Party::Worker, &options, SystemTime::now).unwrap();
    let reissued = authority_step(&stack, RotationStep::Reissue).await;
    match ring.rotate(&signing, SystemTime::now) {
        Ok(_) => {}
        Err(KeyringError::TooEarly { left, .. }) => panic!("{left:?} left"),
        Err(error) => panic!("{error}"),
    }
    worker
        .until("the new credentials are in use", |status| {
            let replaced = |name: &str| status["credentials"][name]["reloads"].as_u64() > Some(0);
            replaced("client_certificate") && replaced("signing_key")
        })
        .await;
    assert_eq!(worker.status().await["phase"]["name"], "stopping");
    // New credentials that found no server are tried again after some seconds at most. Until then
    // calls go on with those before, which are still good.
    tokio::time::sleep(Duration::from_secs(4)).await;
    stack.start_server().await.unwrap();

    let ended = worker.program.ended(LIMIT).await;
    let log = worker.program.log();
    assert!(ended.success(), "{log}");
    let mut leaves = reissued.leaves.iter();
    let leaf = leaves.find(|leaf| leaf.party == Party::Worker).unwrap();
    let presented = format!("client_serial=\"{}\"", leaf.new.serial);
    // On a busy machine a worker that had nothing in hand may stop too late to be told from one that
    // had. It makes no connection any more.
    let connects = log
        .rsplit("stopping: ")
        .next()
        .is_some_and(|after| after.contains("TLS handshake"));
    if connects {
        assert!(log.contains(&presented), "no {presented} in\n{log}");
    } else {
        eprintln!("the worker had nothing in hand");
    }
    // What it could not take any more, another one does, with the new credentials from the start.
    let next = support::worker(&stack).await;
    load.stop().await;
    drop(next);
}

const PROPAGATION: Duration = Duration::from_secs(2);

fn policy() -> RotationPolicy {
    let times = RotationTimes {
        refresh_interval: REFRESH,
        propagation: PROPAGATION,
        clock_skew: Duration::from_secs(1),
        ..RotationTimes::default()
    };
    RotationPolicy::new(times, None).unwrap()
}

/// Does one step of the rotation of the CA of clients, as soon as it may be done.
async fn authority_step(stack: &Stack, step: RotationStep) -> AuthorityRotated {
    let options = AuthorityOptions {
        refresh_interval: REFRESH,
        propagation: PROPAGATION,
        ..AuthorityOptions::default()
    };
    let layout = Layout::new(&stack.certs());
    let rotate = || {
        let clients = AuthorityKind::Clients;
        pki::rotate_authority(&layout, clients, step, &options, SystemTime::now)
    };
    loop {
        match rotate() {
            Err(RotateError::TooEarly { left, .. }) => tokio::time::sleep(left).await,
            rotated => return rotated.unwrap(),
        }
    }
}

/// `keyutil::connect(…).client().clone()` is what people write, and they let go of the rest.
#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_followed_as_long_as_a_clone_of_the_client_lives() {
    let stack = support::stack(StackOptions::default()).await;
    let worker = support::worker(&stack).await;
    let lifetime = Duration::from_secs(4);
    let file = stack.guard().folder().join("token");
    let renew = || {
        files::replace(
            &file,
            support::token(&stack, lifetime).expose_secret().as_bytes(),
            Mode::Private,
        )
    };
    renew().unwrap();
    let mut args = stack.connect_args(Party::Starter);
    args.token = Default::default();
    args.token.token_file = Some(file.clone());

    let client = {
        let connection = keyutil::connect(&args, "starter").await.unwrap();
        connection.client().clone()
    };
    let begun = Instant::now();
    let mut number = 0;
    while begun.elapsed() < lifetime * 2 {
        renew().unwrap();
        number += 1;
        let options = WorkflowStartOptions::new(TASK_QUEUE, format!("w{number}"));
        let handle = client
            .start_workflow(HelloWorkflow::run, "you".to_owned(), options.build())
            .await
            .unwrap();
        let greeting = handle.get_result(Default::default()).await.unwrap();
        assert_eq!(greeting, "Hello you!");
    }
    worker.stop().await;
}

/// A worker that was told to stop when the server had died, and that has something to tell it. One
/// that has nothing in hand at that moment ends at once, and another one is tried.
async fn stopping_with_work_in_hand(stack: &mut Stack) -> (Observed, InFlight) {
    let mut started = None;
    for _ in 0..10 {
        let mut command = support::worker_command(stack).await;
        let worker = Observed::start(command.args(["--shutdown-grace", "60s"])).await;
        worker.becomes_ready().await;
        let load = match started.take() {
            Some(load) => load,
            None => InFlight::start_without_pause(&stack.connect_args(Party::Starter)).await,
        };
        load.more(5).await;
        stack.kill_server().await.unwrap().unwrap();
        worker.program.signal(Signal::TERM);
        tokio::time::sleep(Duration::from_millis(500)).await;
        if worker.program.lines_with("worker stopped").is_empty() {
            worker.becomes_unready("stopping").await;
            return (worker, load);
        }
        started = Some(load);
        stack.start_server().await.unwrap();
    }
    panic!("no worker had anything in hand when the server died");
}
