//! The workflow replays from the history of a run on the real server.
//!
//! `history/hello.json` was recorded by `sandbox/tests/history.rs`, which also tells when it no
//! longer is what the server and this worker write. A change of the workflow that fails here would
//! break every workflow that is running when it is deployed.

use temporalio_client::WorkflowHistory;
use temporalio_sdk::workflow_replayer::{WorkflowReplayer, WorkflowReplayerOptions};
use worker::canary::HelloWorkflow;

const HISTORY: &str = include_str!("history/hello.json");

async fn replay(history: &str) -> Result<(), String> {
    let options = WorkflowReplayerOptions::new()
        .register_workflow::<HelloWorkflow>()
        .map_err(|error| error.to_string())?
        .build();
    let history =
        WorkflowHistory::from_json(history.as_bytes()).map_err(|error| error.to_string())?;
    let replayer = WorkflowReplayer::new(options).map_err(|error| error.to_string())?;
    replayer
        .replay_workflow(history)
        .await
        .map_err(|error| error.to_string())
}

#[tokio::test]
async fn the_recorded_run_replays() {
    replay(HISTORY).await.unwrap();
}

#[tokio::test]
async fn a_run_of_other_code_does_not() {
    // As if the run had called an activity of another name.
    let altered = HISTORY.replace("Greetings::greet", "Greetings::wave");
    assert_ne!(altered, HISTORY, "the recording names no activity");
    let error = replay(&altered).await.unwrap_err();
    assert!(error.contains("nondeterminis"), "{error}");
}
