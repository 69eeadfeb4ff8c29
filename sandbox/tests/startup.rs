//! Programs may be started in any order.

use std::time::{Duration, Instant};

use crate::support::{self, LIMIT, Program};
use keyutil_cli::pki::Party;
use sandbox::{Stack, StackOptions};
use tokio::{process::Command, time::sleep};

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_waits_for_a_server_that_is_not_up_yet() {
    let mut stack = support::stack(StackOptions {
        durable: true,
        ..StackOptions::default()
    })
    .await;
    stack.kill_server().await.unwrap();

    let mut worker = Program::start(&mut support::worker_command(&stack).await);
    let line = worker.wait_for("waiting for the server", LIMIT).await;
    assert!(line.contains(&stack.address()), "{line}");
    assert!(line.contains("limit=5m"), "{line}");
    stack.start_server().await.unwrap();
    worker.wait_for("connected and authorized", LIMIT).await;
    worker.wait_for("worker started", LIMIT).await;

    support::assert_greeted(&support::starter(&stack, &[]).await);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_waits_for_a_namespace_that_is_registered_after_the_server_is_up() {
    let mut stack = support::stack(StackOptions::default()).await;
    stack.kill_server().await.unwrap();
    let mut command = support::worker_command(&stack).await;
    let mut worker = Program::start(command.env("RUST_LOG", "info,keyutil=debug"));
    let begun = Instant::now();
    worker.wait_for("waiting for the server", LIMIT).await;
    // Not for a state, but for the time: longer than a missing namespace is waited for.
    sleep(Duration::from_secs(5).saturating_sub(begun.elapsed())).await;

    // With the server's memory the namespace is gone.
    stack.start_server().await.unwrap();
    worker.wait_for("TLS handshake", LIMIT).await;
    stack.register_namespace().await.unwrap();

    worker.wait_for("worker started", LIMIT).await;
    support::assert_greeted(&support::starter(&stack, &[]).await);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_is_registered_once_and_can_be_used_at_once() {
    let stack = support::stack(StackOptions::default()).await;
    let name = "a-second-one";
    let mut outputs = Vec::new();
    for _ in 0..2 {
        let mut command = keyutil(&stack).await;
        command.args(["namespace", "register", "--namespace", name]);
        let output = support::run(&mut command).await;
        support::assert_success(&output);
        outputs.push(support::stdout(&output));

        let mut command = support::worker_command(&stack).await;
        let mut worker = Program::start(command.args(["--namespace", name]));
        let output = support::starter(&stack, &["--namespace", name]).await;
        support::assert_greeted(&output);
        worker.wait_for("worker started", LIMIT).await;
        worker.stop().await;
    }
    assert_eq!(
        outputs,
        [
            format!("Namespace registered: {name}\n"),
            format!("Namespace already exists: {name}\n"),
        ]
    );
}

async fn keyutil(stack: &Stack) -> Command {
    stack.command(&support::binaries().await.keyutil, Party::Admin)
}
