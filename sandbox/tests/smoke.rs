//! The starter as a smoke test, as a CI job runs it: without a terminal, with a limit, and with
//! nothing but what it prints and ends with to go by.

use std::{
    process::{Output, Stdio},
    time::{Duration, Instant},
};

use keyutil::credentials::Identity;
use keyutil_cli::{
    keys::keyring::read_signing_key,
    pki::{Layout, Party},
};
use sandbox::{Stack, StackOptions, guard::Signal};
use serde_json::Value;

use crate::support;

/// Runs it with `--output json`, and gives the object and the exit code.
async fn smoke(stack: &Stack, args: &[&str]) -> (Value, i32) {
    let mut command = support::starter_command(stack).await;
    command.args(["--output", "json"]).args(args);
    let output = support::run(command.stdin(Stdio::null())).await;
    let (object, code) = object(&output);
    assert_eq!(object["exit_code"], code, "{object:#}");
    assert_eq!(object["ok"], code == 0, "{object:#}");
    (object, code)
}

fn object(output: &Output) -> (Value, i32) {
    let printed = support::stdout(output);
    assert_eq!(printed.lines().count(), 1, "{printed}");
    let code = output.status.code().unwrap();
    (serde_json::from_str(&printed).unwrap(), code)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_went_well_names_runs_latencies_and_credentials() {
    let stack = support::stack(StackOptions::default()).await;
    let _worker = support::worker(&stack).await;
    let (object, code) = smoke(&stack, &["--count", "3", "--timeout", "50s"]).await;
    assert_eq!(code, 0, "{object:#}");

    let workflows = object["workflows"].as_array().unwrap();
    assert_eq!(workflows.len(), 3, "{object:#}");
    for workflow in workflows {
        assert_eq!(workflow["result"], "Hello Temporal!", "{object:#}");
        assert_eq!(workflow["run_id"].as_str().unwrap().len(), 36, "{object:#}");
        assert!(workflow["latency_ms"].as_u64() > Some(0), "{object:#}");
        assert!(workflow["error"].is_null(), "{object:#}");
    }
    for quantile in ["median", "p95", "p99", "worst"] {
        assert!(
            object["latency_ms"][quantile].as_u64() > Some(0),
            "{object:#}"
        );
    }
    let credentials = &object["credentials"];
    let key = read_signing_key(&stack.keyring().current_path()).unwrap();
    assert_eq!(credentials["token_kid"], key.kid(), "{object:#}");
    let files = Layout::new(&stack.certs()).party(Party::Starter);
    let identity = Identity::follow(files.certificate, files.key).unwrap();
    let serial = identity.current().leaf().serial.clone();
    assert_eq!(credentials["client_certificate"]["serial"], serial);
    assert!(credentials["server_certificate"]["issuer"].is_string());
    assert!(object["failure"].is_null(), "{object:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_names_the_step_the_cause_and_what_to_do() {
    let stack = support::stack(StackOptions::default()).await;
    let failed = async |args: &[&str], exit_code: i32, step: &str| {
        let (object, code) = smoke(&stack, args).await;
        assert_eq!(code, exit_code, "{object:#}");
        let failure = &object["failure"];
        assert_eq!(failure["step"], step, "{object:#}");
        assert!(failure["cause"].is_string(), "{object:#}");
        assert!(failure["hint"].is_string(), "{object:#}");
        object
    };
    // Found before anything is dialled, and yet an object.
    failed(&["--tls-cert-path", "missing.crt"], 64, "files").await;
    failed(
        &["--address", "nowhere.invalid:1", "--timeout", "1s"],
        69,
        "name",
    )
    .await;
    failed(&["--tls-server-name", "other.example"], 76, "server_tls").await;
    failed(&["--permissions", "other:write"], 77, "permission").await;
    failed(&["--audience", "other"], 80, "jwks").await;
    failed(
        &["--namespace", "nowhere", "--timeout", "10s"],
        81,
        "permission",
    )
    .await;

    // It may connect, and not start anything: of each workflow it is said.
    let object = failed(
        &["--permissions", "default:read", "--count", "2"],
        77,
        "permission",
    )
    .await;
    let workflows = object["workflows"].as_array().unwrap();
    assert_eq!(workflows.len(), 2, "{object:#}");
    for workflow in workflows {
        let error = workflow["error"].as_str().unwrap();
        assert!(error.contains("`default:read`"), "{error}");
    }
    let cause = object["failure"]["cause"].as_str().unwrap();
    assert!(cause.starts_with("2 of 2 workflows failed: "), "{cause}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_worker_the_error_says_that_none_polls() {
    let stack = support::stack(StackOptions::default()).await;
    // Outside of the measured time: the first test that needs the programs builds them.
    support::binaries().await;
    for args in [
        &["--timeout", "2s"][..],
        &["--workflow-timeout", "1s"],
        &["--check"],
    ] {
        let started = Instant::now();
        let output = support::starter(&stack, args).await;
        let said = support::stderr(&output);
        assert_eq!(output.status.code(), Some(82), "{args:?}: {said}");
        let printed = support::stdout(&output);
        match args {
            ["--check"] => assert_eq!(printed, ""),
            _ => assert!(printed.starts_with("Workflow id: hello-"), "{printed}"),
        }
        for words in [
            "no worker polls the task queue `sandbox`",
            "hint: start a worker",
        ] {
            assert!(said.contains(words), "{args:?}: no {words} in {said}");
        }
        assert!(started.elapsed() < Duration::from_secs(20), "{args:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_wait_is_explained_after_some_seconds() {
    let stack = support::stack(StackOptions::default()).await;
    let output = support::starter(&stack, &["--timeout", "8s", "--quiet"]).await;
    let said = support::stderr(&output);
    let told: Vec<_> = said.matches("still waiting for a result").collect();
    assert_eq!(told.len(), 1, "{said}");
    assert!(
        said.contains("after 8s (`--timeout`); it may still be running: no worker"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_are_too_late_the_first_is_told() {
    let stack = support::stack(StackOptions::default()).await;
    let many = ["--count", "500", "--concurrency", "5", "--timeout", "2s"];
    let output = support::starter(&stack, &many).await;
    let said = support::stderr(&output);
    assert_eq!(output.status.code(), Some(82), "{said}");
    assert!(said.lines().count() < 20, "{said}");
    let cause = "starter: 500 of 500 workflows failed: stopped waiting for workflow `hello-";
    assert!(said.contains(cause), "{said}");
    assert!(
        said.contains("after 2s (`--timeout`); it may still be running: no worker"),
        "{said}"
    );
    let (object, _) = smoke(&stack, &many).await;
    assert_eq!(object["workflows"].as_array().map(Vec::len), Some(500));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_starts_nothing() {
    let stack = support::stack(StackOptions::default()).await;
    let mut worker = support::worker(&stack).await;
    support::assert_greeted(&support::starter(&stack, &[]).await);
    let (object, code) = smoke(&stack, &["--check"]).await;
    assert_eq!((code, &object["check"]), (0, &Value::Bool(true)));
    assert_eq!(object["workflows"], Value::Array(Vec::new()), "{object:#}");
    let checked = support::starter(&stack, &["--check"]).await;
    support::assert_success(&checked);
    assert_eq!(
        support::stdout(&checked),
        "Check passed: the token is sufficient to start workflows in `default`, and a worker polls `sandbox`\n"
    );
    let refused = support::starter(&stack, &["--check", "--permissions", "default:read"]).await;
    assert_eq!(
        refused.status.code(),
        Some(77),
        "{}",
        support::stderr(&refused)
    );

    // Of all the starts there was one that a worker has run.
    worker.signal(Signal::TERM);
    assert!(worker.ended(support::LIMIT).await.success());
    assert_eq!(workflows(&stack).await, 1);
}

/// How many workflows there are in the namespace.
async fn workflows(stack: &Stack) -> i64 {
    use temporalio_common::protos::temporal::api::workflowservice::v1::{
        CountWorkflowExecutionsRequest, workflow_service_client::WorkflowServiceClient,
    };
    let args = stack.connect_args(Party::Starter);
    let connection = keyutil::connect(&args, "test").await.unwrap();
    let request = CountWorkflowExecutionsRequest {
        namespace: stack.namespace().to_owned(),
        ..Default::default()
    };
    let mut service = WorkflowServiceClient::new(connection.session().authorized_channel());
    let answer = service.count_workflow_executions(request).await.unwrap();
    answer.into_inner().count
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stands_still_takes_no_longer_than_the_limit() {
    let stack = support::stack(StackOptions::default()).await;
    // Outside of the measured time: the first test that needs the programs builds them.
    support::binaries().await;
    stack.server().unwrap().pause().unwrap();
    let started = Instant::now();
    let (object, code) = smoke(&stack, &["--timeout", "3s"]).await;
    assert!(started.elapsed() < Duration::from_secs(15), "{object:#}");
    stack.server().unwrap().resume().unwrap();
    assert_eq!(code, 69, "{object:#}");
}
