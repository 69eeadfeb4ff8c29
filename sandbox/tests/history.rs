//! The recorded history that the worker's replay test uses is what server and worker really write.
//!
//! `SNAPSHOTS=overwrite cargo test -p sandbox --test it history` records it anew.

use std::{fs, path::Path};

use keyutil_cli::pki::Party;
use sandbox::StackOptions;
use serde_json::Value;
use temporalio_client::{
    WorkflowFetchHistoryOptions, WorkflowGetResultOptions, WorkflowStartOptions,
};
use temporalio_sdk::WorkerOptions;
use tokio::sync::oneshot;
use worker::canary::{Greetings, HelloWorkflow};

use keyutil::worker::{RunOptions, run};

use crate::support;

const TASK_QUEUE: &str = "history";

#[tokio::test(flavor = "multi_thread")]
async fn the_recording_is_what_is_written_today() {
    let stack = support::stack(StackOptions::default()).await;
    let recorded = record(&stack).await;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../worker/tests/history/hello.json");
    if std::env::var_os("SNAPSHOTS").is_some_and(|wish| wish == "overwrite") {
        fs::write(&path, &recorded).unwrap();
    }
    let saved = fs::read_to_string(&path).unwrap();
    let (written, saved) = (event_types(&recorded), event_types(&saved));
    assert!(written.iter().all(Value::is_number), "{written:?}");
    assert_eq!(written, saved);
}

async fn record(stack: &sandbox::Stack) -> String {
    let connection = keyutil::connect(&stack.connect_args(Party::Worker), "worker")
        .await
        .unwrap();
    let client = connection.client().clone();
    let options = WorkerOptions::new(TASK_QUEUE)
        .register_workflow::<HelloWorkflow>()
        .unwrap()
        .register_activities(Greetings)
        .build();
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async {
        let _ = stopped.await;
        "the test is done"
    };
    let working = run([(client.clone(), options)], RunOptions::default(), shutdown);
    let recording = async {
        let options = WorkflowStartOptions::new(TASK_QUEUE, "hello").build();
        let handle = client
            .start_workflow(HelloWorkflow::run, "Temporal".to_owned(), options)
            .await
            .unwrap();
        let result = handle
            .get_result(WorkflowGetResultOptions::default())
            .await
            .unwrap();
        assert_eq!(result, "Hello Temporal!");
        let history = handle.fetch_history(WorkflowFetchHistoryOptions::default());
        stop.send(()).unwrap();
        history.to_json().await.unwrap()
    };
    let (worked, history) = tokio::join!(working, recording);
    worked.unwrap();
    readable(&history, client.connection().identity())
}

/// One member per line, so that a change can be reviewed; and nothing of this machine in it.
fn readable(history: &[u8], identity: &str) -> String {
    let history: Value = serde_json::from_slice(history).unwrap();
    let text = serde_json::to_string_pretty(&history).unwrap();
    text.replace(identity, "worker@example") + "\n"
}

fn event_types(history: &str) -> Vec<Value> {
    let history: Value = serde_json::from_str(history).unwrap();
    let events = history["events"].as_array().unwrap();
    events
        .iter()
        .map(|event| event["event_type"].clone())
        .collect()
}
