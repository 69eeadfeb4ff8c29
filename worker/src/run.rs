//! Polls until it is told to stop, and then stops in order.

use std::{future::Future, sync::Arc, time::Duration};

use temporalio_client::Client;
use temporalio_common::telemetry::{TelemetryOptions, metrics::CoreMeter};
use temporalio_sdk::{
    Runtime, RuntimeError, Worker, WorkerCreateError, WorkerOptions, WorkerRunError,
    WorkflowRegistrationError, runtime::RuntimeOptions,
};
use tracing::{info, warn};

use crate::{activities::Greetings, workflows::HelloWorkflow};

/// How a worker runs.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// The task queue to poll.
    pub task_queue: String,
    /// How long running activities and workflow tasks have after the signal to stop.
    pub shutdown_grace: Duration,
    /// What the SDK counts with: [`SdkMetrics::meter`](crate::SdkMetrics::meter), or nothing.
    pub meter: Option<Arc<dyn CoreMeter>>,
}

/// After the grace has run out and activities were told that they are cancelled: how long they
/// have to act on it.
const CANCELLATION_GRACE: Duration = Duration::from_secs(2);

/// Runs a worker until `shutdown` is done and the work in hand is finished.
///
/// # Errors
/// [`RunError`]: the worker could not start or had to give up, or the grace ran out.
pub async fn run(
    client: Client,
    settings: WorkerSettings,
    shutdown: impl Future<Output = &'static str>,
) -> Result<(), RunError> {
    let telemetry = TelemetryOptions::builder()
        .maybe_metrics(settings.meter)
        .build();
    let options = RuntimeOptions::builder()
        .telemetry_options(telemetry)
        .build()
        .map_err(RunError::Options)?;
    let runtime = Runtime::from_current_tokio(options).map_err(RunError::Runtime)?;
    let options = WorkerOptions::new(settings.task_queue.as_str())
        .register_workflow::<HelloWorkflow>()
        .map_err(RunError::Register)?
        .register_activities(Greetings)
        .graceful_shutdown_period(settings.shutdown_grace)
        .build();
    let mut worker = Worker::new(&runtime, client, options).map_err(RunError::Create)?;
    let stop = worker.shutdown_handle();
    let task_queue = settings.task_queue.clone();

    let running = worker.run();
    tokio::pin!(running);
    info!(task_queue, "worker started");
    let reason = tokio::select! {
        ended = &mut running => return ended.map_err(RunError::Run),
        reason = shutdown => reason,
    };
    let grace = settings.shutdown_grace;
    info!(reason, grace = %humantime::format_duration(grace), "stopping: finishing the work in hand");
    stop();
    match tokio::time::timeout(grace.saturating_add(CANCELLATION_GRACE), running).await {
        Ok(ended) => {
            ended.map_err(RunError::Run)?;
            info!(task_queue, "worker stopped");
            Ok(())
        }
        Err(_) => {
            warn!(task_queue, "worker gave up waiting");
            Err(RunError::GraceRanOut { grace })
        }
    }
}

/// Why a worker ended otherwise than in order.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The SDK's runtime, before it was made.
    #[error("the Temporal SDK refuses its options: {0}")]
    Options(String),
    /// The SDK's runtime.
    #[error("failed to set up the Temporal SDK")]
    Runtime(#[source] RuntimeError),
    /// A workflow type was registered twice.
    #[error("failed to register the workflow")]
    Register(#[source] WorkflowRegistrationError),
    /// The options contradict each other.
    #[error("failed to create the worker")]
    Create(#[source] WorkerCreateError),
    /// Polling was refused for too long, or something inside broke.
    #[error("the worker had to give up")]
    Run(#[source] WorkerRunError),
    /// Something did not finish in time.
    #[error(
        "the grace of {} ran out before the worker had stopped: work was in hand, or the server did not answer; what was in hand goes to another worker when it times out",
        humantime::format_duration(*grace)
    )]
    GraceRanOut {
        /// `--shutdown-grace`.
        grace: Duration,
    },
}
