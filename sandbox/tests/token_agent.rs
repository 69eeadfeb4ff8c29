//! A worker without a signing key, on the tokens that `keyutil token renew` writes for it.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use crate::support::{self, InFlight, LIMIT, Program};
use keyutil_cli::pki::Party;
use sandbox::{Stack, StackOptions, guard::Signal};

#[tokio::test(flavor = "multi_thread")]
async fn work_goes_on_over_token_lives_a_new_key_and_an_agent_that_is_killed() {
    let stack = support::stack(StackOptions::default()).await;
    let output = stack.guard().folder().join("token-of-the-worker/token");
    let mut agent = agent(&stack, &output).await;
    let mut worker = support::worker_with_token_file(&stack, &output).await;
    let first = worker.status().await["credentials"]["token"].clone();
    let load = InFlight::start(&stack.connect_args(Party::Starter)).await;

    // Three lives of a token, one after the other.
    let expiry = |status: &serde_json::Value| status["credentials"]["token"]["valid_until"].clone();
    let mut known = first["valid_until"].clone();
    for _ in 0..3 {
        let status = worker
            .until("the next token", |status| expiry(status) != known)
            .await;
        known = expiry(&status);
    }
    load.more(20).await;

    rotate_the_key(&stack).await;
    let status = worker
        .until("a token of the new key", |status| {
            status["credentials"]["token"]["id"] != first["id"]
        })
        .await;
    let ring = stack.keyring().look(SystemTime::now()).unwrap();
    let signs = ring.current.unwrap().kid;
    assert_eq!(status["credentials"]["token"]["id"], signs.as_str());

    // The token that is there lasts until there is another agent.
    agent.signal(Signal::KILL);
    agent.ended(LIMIT).await;
    load.more(20).await;
    let agent = self::agent(&stack, &output).await;
    let known = expiry(&worker.status().await);
    worker
        .until("a token of the new agent", |status| expiry(status) != known)
        .await;

    load.stop().await;
    let status = worker.status().await;
    assert_eq!(status["calls"]["refusals"]["count"], 0, "{status:#}");
    drop(agent);
    worker.program.signal(Signal::TERM);
    assert!(worker.program.ended(LIMIT).await.success());
}

/// The shortest life that the agent allows.
const LIFETIME: Duration = Duration::from_secs(15);

async fn agent(stack: &Stack, output: &Path) -> Program {
    let keyutil = support::binaries().await.keyutil.clone();
    let mut command = stack.command(&keyutil, Party::Worker);
    let lifetime = format!("{}s", LIFETIME.as_secs());
    command
        .args(["token", "renew", "--subject=worker"])
        .arg("--output")
        .arg(output)
        .args(["--token-lifetime", &lifetime]);
    let mut agent = Program::start(&mut command);
    agent.wait_for("token written", LIMIT).await;
    agent
}

/// As a person does, with the waits of the sandbox.
async fn rotate_the_key(stack: &Stack) {
    let keyutil = support::binaries().await.keyutil.clone();
    let mut command = stack.command(&keyutil, Party::Admin);
    command
        .args(["key", "rotate", "--wait", "--refresh-interval=1s"])
        .args(["--clock-skew=1s", "--propagation=2s", "--dir"])
        .arg(stack.certs().join("signing"));
    let rotated = support::run(&mut command).await;
    support::assert_success(&rotated);
}
