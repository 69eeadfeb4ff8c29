//! A worker and a starter in one process, with payloads that the server stores compressed.
//!
//! The data converter is an option of the client, and a worker uses that of its client. One client,
//! made with [`Connection::client_with`](keyutil::Connection::client_with), therefore serves both.
//! To run the example, source the environment file of `sandbox up`:
//!
//! ```text
//! cargo run -p keyutil --example data_converter -- --task-queue compressed
//! ```
//!
//! It prints the result of the workflow, and the encoding and size of each payload in the history.

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use clap::Parser;
use flate2::{
    Compression,
    write::{GzDecoder, GzEncoder},
};
use futures::{FutureExt, future::BoxFuture};
use keyutil::{
    ConnectArgs,
    program::{self, LogArgs, print_line},
    worker::RunOptions,
};
use prost::Message;
use temporalio_client::{
    Client, ClientOptions, WorkflowFetchHistoryOptions, WorkflowGetResultOptions,
    WorkflowStartOptions,
};
use temporalio_common::{
    data_converters::{
        DataConverter, DefaultFailureConverter, PayloadCodec, PayloadConversionError,
        PayloadConverter, SerializationContextData,
    },
    protos::temporal::api::{common::v1::Payload, history::v1::history_event::Attributes},
};
use temporalio_macros::{activities, workflow, workflow_methods};
use temporalio_sdk::{
    ActivityOptions, WorkerOptions, WorkflowContext, WorkflowResult,
    activities::{ActivityContext, ActivityError},
};
use tokio::sync::oneshot;

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    connect: ConnectArgs,

    /// Task queue of the workflow and of the worker
    #[arg(short, long, env = "TEMPORAL_TASK_QUEUE", default_value = "compressed")]
    task_queue: String,

    /// Name to greet
    #[arg(long, default_value = "Temporal")]
    name: String,

    #[command(flatten)]
    log: LogArgs,
}

fn main() -> ExitCode {
    program::main("data_converter", work)
}

async fn work(arguments: Arguments) -> anyhow::Result<()> {
    arguments.log.start()?;
    let connection = keyutil::connect(&arguments.connect, "data_converter").await?;
    let converter = DataConverter::new(
        PayloadConverter::default(),
        DefaultFailureConverter::default(),
        GzipCodec,
    );
    let options = ClientOptions::new(&arguments.connect.namespace).data_converter(converter);
    let client = connection.client_with(options.build())?;

    let worker = WorkerOptions::new(&arguments.task_queue)
        .register_workflow::<HelloWorkflow>()?
        .register_activities(Greetings)
        .build();
    let (done, is_done) = oneshot::channel::<()>();
    let interrupted = program::interrupted();
    let shutdown = async {
        tokio::select! {
            // The channel also closes when the starter fails.
            _ = is_done => "the workflow has ended",
            signal = interrupted => signal,
        }
    };
    let workers = [(client.clone(), worker)];
    let working = keyutil::worker::run(workers, RunOptions::default(), shutdown);
    let starting = async {
        let started = greet(&client, arguments.task_queue, arguments.name).await;
        drop(done);
        started
    };
    let (worked, started) = tokio::join!(working, starting);
    started.and(worked.map_err(Into::into))
}

/// Runs the workflow, and prints its result and the payloads that the server stores.
async fn greet(client: &Client, task_queue: String, name: String) -> anyhow::Result<()> {
    let options = WorkflowStartOptions::new(task_queue, "data-converter")
        .execution_timeout(Duration::from_secs(60))
        .build();
    let handle = client.start_workflow(HelloWorkflow::run, name, options);
    let handle = handle.await?;
    let result = handle.get_result(WorkflowGetResultOptions::default());
    print_line(format_args!("Workflow result: {}", result.await?))?;

    let history = handle.fetch_history(WorkflowFetchHistoryOptions::default());
    for event in history.into_events().await? {
        let payloads = match event.attributes {
            Some(Attributes::WorkflowExecutionStartedEventAttributes(started)) => started.input,
            Some(Attributes::ActivityTaskScheduledEventAttributes(scheduled)) => scheduled.input,
            Some(Attributes::ActivityTaskCompletedEventAttributes(completed)) => completed.result,
            Some(Attributes::WorkflowExecutionCompletedEventAttributes(ended)) => ended.result,
            _ => None,
        };
        for payload in payloads.into_iter().flat_map(|payloads| payloads.payloads) {
            let encoding = payload.metadata.get(ENCODING).map(Vec::as_slice);
            print_line(format_args!(
                "event {}: {}, {} bytes",
                event.event_id,
                String::from_utf8_lossy(encoding.unwrap_or_default()),
                payload.data.len()
            ))?;
        }
    }
    Ok(())
}

/// The metadata key of a payload's encoding, and its value for this codec.
const ENCODING: &str = "encoding";
const GZIP: &[u8] = b"binary/gzip";

/// Encodes a payload as another one, whose data is the compressed original, metadata included.
struct GzipCodec;

impl PayloadCodec for GzipCodec {
    fn encode(
        &self,
        _: &SerializationContextData,
        payloads: Vec<Payload>,
    ) -> BoxFuture<'static, Result<Vec<Payload>, PayloadConversionError>> {
        async move { payloads.iter().map(compress).collect() }.boxed()
    }

    /// Leaves payloads with another encoding unchanged: a client without the codec made them.
    fn decode(
        &self,
        _: &SerializationContextData,
        payloads: Vec<Payload>,
    ) -> BoxFuture<'static, Result<Vec<Payload>, PayloadConversionError>> {
        async move { payloads.into_iter().map(decompress).collect() }.boxed()
    }
}

fn compress(payload: &Payload) -> Result<Payload, PayloadConversionError> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder
        .write_all(&payload.encode_to_vec())
        .map_err(failed)?;
    Ok(Payload {
        metadata: [(ENCODING.to_owned(), GZIP.to_vec())].into(),
        data: encoder.finish().map_err(failed)?,
        ..Payload::default()
    })
}

fn decompress(payload: Payload) -> Result<Payload, PayloadConversionError> {
    if payload.metadata.get(ENCODING).map(Vec::as_slice) != Some(GZIP) {
        return Ok(payload);
    }
    let mut decoder = GzDecoder::new(Vec::new());
    decoder.write_all(&payload.data).map_err(failed)?;
    let data = decoder.finish().map_err(failed)?;
    Payload::decode(data.as_slice()).map_err(|error| failed(io::Error::other(error)))
}

fn failed(error: io::Error) -> PayloadConversionError {
    PayloadConversionError::EncodingError(Box::new(error))
}

/// The same workflow as that of the worker.
#[workflow]
#[derive(Default)]
struct HelloWorkflow;

#[workflow_methods]
impl HelloWorkflow {
    #[run]
    async fn run(context: &mut WorkflowContext<Self>, name: String) -> WorkflowResult<String> {
        let options = ActivityOptions::start_to_close_timeout(Duration::from_secs(10));
        Ok(context
            .execute_activity(Greetings::greet, name, options)
            .await?)
    }
}

struct Greetings;

#[activities]
impl Greetings {
    #[activity]
    async fn greet(_context: ActivityContext, name: String) -> Result<String, ActivityError> {
        Ok(format!("Hello {name}!"))
    }
}
