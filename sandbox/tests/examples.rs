//! The examples of keyutil, as they are built, against a server.

use std::io::Read;

use crate::support::{self, HOUR, LIMIT, Program};
use flate2::read::GzDecoder;
use keyutil::{ConnectArgs, Connection, connect, settings::Settings};
use keyutil_cli::{namespace, pki::Party};
use sandbox::{Stack, StackOptions};
use temporalio_client::{
    ClientOptions, UntypedWorkflow, WorkflowFetchHistoryOptions, WorkflowGetResultOptions,
    WorkflowStartOptions,
};
use temporalio_common::{
    data_converters::{PayloadConverter, RawValue},
    protos::temporal::api::{common::v1::Payload, history::v1::history_event::Attributes},
};
use tokio::time::timeout;

#[tokio::test(flavor = "multi_thread")]
async fn the_smallest_worker_runs_the_starters_workflow() {
    let stack = support::stack(StackOptions::default()).await;
    let mut command = stack.command(&support::example("smallest_worker").await, Party::Worker);
    let worker = support::polling(&mut command).await;

    support::assert_greeted(&support::starter(&stack, &[]).await);

    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_namespaces_are_served_over_one_connection() {
    let stack = support::stack(StackOptions::default()).await;
    register(&stack, SECOND).await;
    let mut command = stack.command(&support::example("several_namespaces").await, Party::Worker);
    let mut workers = Program::start(command.env("SECOND_NAMESPACE", SECOND));
    for _ in [stack.namespace(), SECOND] {
        workers.wait_for("worker started", LIMIT).await;
    }

    let permissions = format!("{}:write,{SECOND}:write", stack.namespace());
    let connection = connection(&stack, Some(permissions)).await;
    for namespace in [stack.namespace(), SECOND] {
        let ran = timeout(LIMIT, where_it_runs(&connection, namespace)).await;
        let ran = ran.unwrap_or_else(|_| panic!("no result in {namespace}:\n{}", workers.log()));
        assert_eq!(ran, namespace);
    }

    let connected = workers.lines_with("connected and authorized");
    assert_eq!(connected.len(), 1, "{connected:?}");
    workers.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_stores_what_the_data_converter_made() {
    let stack = support::stack(StackOptions::default()).await;
    let name = "Temporal ".repeat(200);
    let mut command = stack.command(&support::example("data_converter").await, Party::Worker);
    let output = support::run(command.args(["--name", &name])).await;
    support::assert_success(&output);
    let greeting = format!("Hello {name}!");
    let printed = support::stdout(&output);
    assert!(
        printed.starts_with(&format!("Workflow result: {greeting}\n")),
        "{printed}"
    );

    let payloads = payloads(&connection(&stack, None).await, "data-converter").await;
    assert_eq!(payloads.len(), 4, "{payloads:?}");
    assert_eq!(printed.matches("binary/gzip").count(), 4, "{printed}");
    for payload in &payloads {
        assert_eq!(payload.metadata["encoding"], b"binary/gzip");
        assert!(payload.data.len() < name.len() / 4, "{payload:?}");
        let mut plain = Vec::new();
        let mut decoder = GzDecoder::new(payload.data.as_slice());
        decoder.read_to_end(&mut plain).unwrap();
        let plain = String::from_utf8_lossy(&plain);
        assert!(plain.contains("json/plain"), "{plain}");
        assert!(plain.contains(&name), "{plain}");
    }
}

/// The namespace beside that of the stack.
const SECOND: &str = "payments";

async fn register(stack: &Stack, namespace: &str) {
    let mut args = ConnectArgs {
        namespace: namespace.to_owned(),
        ..stack.connect_args(Party::Admin)
    };
    args.mint_for_admin();
    let opened = connect::open(Settings::new(&args, "test").unwrap()).unwrap();
    let registered = namespace::register(&opened, namespace, 24 * HOUR).await;
    registered.unwrap();
}

/// Of a starter that knows no data converter.
async fn connection(stack: &Stack, permissions: Option<String>) -> Connection {
    let mut args = stack.connect_args(Party::Starter);
    args.token.claims.permissions = permissions;
    keyutil::connect(&args, "test").await.unwrap()
}

/// What the workflow of `several_namespaces` says in this namespace.
async fn where_it_runs(connection: &Connection, namespace: &str) -> String {
    let options = ClientOptions::new(namespace).build();
    let client = connection.client_with(options).unwrap();
    let options = WorkflowStartOptions::new(format!("{namespace}-tasks"), "where").build();
    let workflow = UntypedWorkflow::new("WhereWorkflow");
    let none = RawValue::new(Vec::new());
    let handle = client.start_workflow(workflow, none, options);
    let handle = handle.await.unwrap();
    let result = handle.get_result(WorkflowGetResultOptions::default());
    let result = result.await.unwrap();
    result.to_value(&PayloadConverter::default())
}

/// As the server has them: to the workflow, to the activity, and back.
async fn payloads(connection: &Connection, workflow_id: &str) -> Vec<Payload> {
    let handle = connection
        .client()
        .get_workflow_handle::<UntypedWorkflow>(workflow_id);
    let history = handle.fetch_history(WorkflowFetchHistoryOptions::default());
    let events = history.into_events().await.unwrap().into_iter();
    let payloads = events.filter_map(|event| match event.attributes? {
        Attributes::WorkflowExecutionStartedEventAttributes(started) => started.input,
        Attributes::ActivityTaskScheduledEventAttributes(scheduled) => scheduled.input,
        Attributes::ActivityTaskCompletedEventAttributes(completed) => completed.result,
        Attributes::WorkflowExecutionCompletedEventAttributes(completed) => completed.result,
        _ => None,
    });
    payloads.flat_map(|payloads| payloads.payloads).collect()
}
