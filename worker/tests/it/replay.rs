//! Replays the recorded histories. `starter history <workflow id>` records one, from any cluster.
//!
//! A change of a workflow that makes its replay fail would break every run in progress when it is
//! deployed.

use std::{fs, path::Path};

use temporalio_client::WorkflowHistory;
use temporalio_sdk::workflow_replayer::{WorkflowReplayer, WorkflowReplayerOptions};
use worker::{canary::HelloWorkflow, order::OrderWorkflow};

pub async fn replay(history: &str) -> Result<(), String> {
    let options = WorkflowReplayerOptions::new()
        .register_workflow::<HelloWorkflow>()
        .and_then(|options| options.register_workflow::<OrderWorkflow>())
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
async fn every_recorded_run_replays() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/history");
    let mut failures = Vec::new();
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let history = fs::read_to_string(&path).unwrap();
        if let Err(error) = replay(&history).await {
            failures.push(format!("{}: {error}", path.display()));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
