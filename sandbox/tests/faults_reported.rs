//! A worker whose calls fail says so once, and again at growing intervals, and when it is over; and
//! one that the SDK ends says why.

use std::time::Duration;

use crate::support::{self, HOUR, LIMIT, Program};
use keyutil::token::Permission;
use keyutil_cli::files::{self, Mode};
use sandbox::StackOptions;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

/// What keeps calls from going well, as it is logged.
const TOLD: &str = "calls are failing";

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_refused_for_a_minute_tells_when_it_will_end_and_why_it_did() {
    let stack = support::stack(StackOptions::default()).await;
    let file = stack.guard().folder().join("token");
    let replace = |token: SecretString| {
        files::replace(&file, token.expose_secret().as_bytes(), Mode::Private).unwrap();
    };
    replace(support::token(&stack, HOUR));
    let worker = support::worker_with_token_file(&stack, &file).await;
    support::assert_greeted(&support::starter(&stack, &[]).await);

    // A refusal that no fetch of the key set cures.
    replace(support::token_of(
        &stack,
        Permission::write("another"),
        HOUR,
    ));
    let reloaded = |status: &Value| status["credentials"]["token"]["reloads"].as_u64() > Some(0);
    worker.until("the token is replaced", reloaded).await;
    let mut worker = worker.program;
    // The server refuses the results of polls that it accepted before, and all later polls.
    let load = ["--count", "5", "--workflow-timeout", "1s"];
    let mut command = support::starter_command(&stack).await;
    let _starter = Program::start(command.args(load));

    let first = worker.wait_for(TOLD, LIMIT).await;
    for words in [
        "WARN",
        "step=permission",
        "the token has the permissions `another:write`",
        "issue the token with `--permissions default:write`",
    ] {
        assert!(first.contains(words), "no {words} in {first}");
    }
    assert!(!first.contains("lasted"), "{first}");
    let second = worker.wait_for(TOLD, LIMIT).await;
    for words in ["lasted=\"1", "worker_ends_at="] {
        assert!(second.contains(words), "no {words} in {second}");
    }

    // The SDK has had enough after 60 s, and pauses between its attempts.
    let ended = worker.ended(2 * LIMIT).await;
    let log = worker.log();
    assert_eq!(ended.code(), Some(77), "{log}");
    assert!(worker.lines_with(TOLD).len() <= 5, "{log}");
    let (_, end) = log.split_once("worker: the worker failed").unwrap();
    for words in [
        "Request unauthorized.",
        "the token has the permissions `another:write`",
        "hint: issue the token with",
    ] {
        assert!(end.contains(words), "no {words} in {end}");
    }
    assert_eq!(worker.lines_with("retried").len(), 0, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_told_once_and_again_and_when_it_is_back() {
    let mut stack = support::stack(StackOptions {
        durable: true,
        ..StackOptions::default()
    })
    .await;
    let mut worker = support::worker(&stack).await;
    support::assert_greeted(&support::starter(&stack, &[]).await);

    stack.kill_server().await.unwrap();
    let first = worker.wait_for(TOLD, LIMIT).await;
    assert!(first.contains("step=TCP"), "{first}");
    assert!(first.contains("Connection refused"), "{first}");
    assert!(!first.contains("worker_ends_at"), "{first}");
    let second = worker.wait_for(TOLD, LIMIT).await;
    assert!(second.contains("lasted=\"1"), "{second}");
    stack.start_server().await.unwrap();
    worker.wait_for("calls recovered lasted=\"", LIMIT).await;
    support::assert_greeted(&support::starter(&stack, &[]).await);
    // Ten seconds lie between the first and the second, and twenty before the third.
    assert!(worker.lines_with(TOLD).len() <= 3, "{}", worker.log());
}

/// A fault that is over before the second time is told once.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_is_told_once() {
    let mut stack = support::stack(StackOptions {
        durable: true,
        ..StackOptions::default()
    })
    .await;
    let mut worker = support::worker(&stack).await;
    support::assert_greeted(&support::starter(&stack, &[]).await);
    stack.kill_server().await.unwrap();
    worker.wait_for(TOLD, LIMIT).await;
    stack.start_server().await.unwrap();
    worker
        .wait_for("calls recovered", Duration::from_secs(30))
        .await;
    assert!(worker.lines_with(TOLD).len() <= 2, "{}", worker.log());
}
