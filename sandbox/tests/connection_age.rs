//! A server, or a balancer before it, ends connections by age while they are in use.

use std::time::Duration;

use sandbox::{StackOptions, guard::Signal};

use crate::support;

/// Without the care that `keyutil/src/transport/sdk_service.rs` takes, about one call in a hundred fails:
/// one that was queued on a connection when the server ended it. These workflows make some 6,000 calls.
#[tokio::test(flavor = "multi_thread")]
async fn no_call_fails_when_the_server_ends_connections_by_age() {
    let stack = support::stack(StackOptions {
        dynamic_config: [
            ("frontend.keepAliveMaxConnectionAge".into(), "1500ms".into()),
            (
                "frontend.keepAliveMaxConnectionAgeGrace".into(),
                "2s".into(),
            ),
        ]
        .into(),
        ..StackOptions::default()
    })
    .await;
    let mut command = support::worker_command(&stack).await;
    command.env("RUST_LOG", "info,keyutil=debug");
    let mut worker = support::polling(&mut command).await;

    let mut command = support::starter_command(&stack).await;
    command.args(["--count", "700", "--concurrency", "50"]);
    // A task that is lost with its connection is dispatched again after its timeout of 10 s, and on
    // a busy machine that can happen several times to one workflow.
    command.args(["--workflow-timeout", "200s"]);
    let output = support::run_within(Duration::from_secs(240), &mut command).await;

    support::assert_all_greeted(&output, 700);
    let connections = worker.lines_with("TLS handshake").len();
    assert!(connections > 4, "only {connections} connections");
    // On a busy machine the SDK has to repeat a poll several times, and warns of that.
    let complaints = worker.complaints().into_iter();
    let others = complaints.filter(|line| !line.contains("WARN gRPC call poll_"));
    assert_eq!(others.collect::<Vec<_>>(), [""; 0]);
    worker.signal(Signal::TERM);
    let status = worker.ended(support::LIMIT).await;
    assert!(status.success(), "{status}");
}
