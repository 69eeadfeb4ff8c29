//! What must not be lost when something is let go of: work in hand, and the following of
//! credentials.

mod support;

use std::time::{Duration, Instant};

use keyutil::{
    files::{self, Mode},
    pki::Party,
};
use sandbox::{StackOptions, signal::Signal};
use secrecy::ExposeSecret;
use support::LIMIT;
use temporalio_client::WorkflowStartOptions;
use worker::workflows::HelloWorkflow;

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_says_when_its_grace_ran_out() {
    let stack = support::stack(StackOptions::default()).await;
    let mut command = support::worker_command(&stack).await;
    command.args(["--shutdown-grace", "1s"]);
    let mut worker = support::polling(&mut command).await;

    // A server that answers nothing cannot take leave of the worker either.
    stack.server().unwrap().pause().unwrap();
    worker.signal(Signal::TERM);
    let status = worker.ended(LIMIT).await;
    stack.server().unwrap().resume().unwrap();

    assert_eq!(status.code(), Some(1), "{}", worker.log());
    let log = worker.log();
    assert!(log.contains("SIGTERM"), "{log}");
    assert!(log.contains("the grace of 1s ran out"), "{log}");
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
        let options = WorkflowStartOptions::new(worker::DEFAULT_TASK_QUEUE, format!("w{number}"));
        let handle = client
            .start_workflow(HelloWorkflow::run, "you".to_owned(), options.build())
            .await
            .unwrap();
        let greeting = handle.get_result(Default::default()).await.unwrap();
        assert_eq!(greeting, "Hello you!");
    }
    worker.stop().await;
}
