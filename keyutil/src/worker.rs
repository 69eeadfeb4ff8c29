//! Runs workers until they are told to stop, and then stops them in order.
//!
//! The cargo feature `worker`, which is on by default, brings in the SDK's core.

mod metrics;

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use futures::future::join_all;
use parking_lot::Mutex;
use temporalio_client::Client;
use temporalio_common::telemetry::{TelemetryOptions, metrics::CoreMeter};
use temporalio_sdk::{
    Runtime, RuntimeError, Worker, WorkerCreateError, WorkerOptions, WorkerRunError,
    runtime::RuntimeOptions,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use metrics::{MetricsError, SdkMetrics};

/// How workers run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// How long running activities and workflow tasks have after the signal to stop. The default is
    /// 10 s.
    pub shutdown_grace: Duration,
    /// What the SDK counts with: [`SdkMetrics::meter`], or nothing.
    pub meter: Option<Arc<dyn CoreMeter>>,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            shutdown_grace: Duration::from_secs(10),
            meter: None,
        }
    }
}

/// How long activities have to react to cancellation after the grace has run out.
const CANCELLATION_GRACE: Duration = Duration::from_secs(2);

/// Runs workers until `shutdown` is done and the work in hand is finished. Each polls the task queue
/// of its options in the namespace of its client; clients of one
/// [`Connection`](crate::Connection) share its connection. When one worker ends, the others are
/// stopped, too. Without any worker it returns at once.
///
/// # Errors
/// [`RunError`]: a worker could not start or had to give up, or the grace ran out.
pub async fn run(
    workers: impl IntoIterator<Item = (Client, WorkerOptions)>,
    options: RunOptions,
    shutdown: impl Future<Output = &'static str>,
) -> Result<(), RunError> {
    let grace = options.shutdown_grace;
    let runtime = runtime(options.meter)?;
    let (mut made, mut task_queues) = (Vec::new(), Vec::new());
    for (client, mut options) in workers {
        options.graceful_shutdown_period = Some(grace);
        task_queues.push(options.task_queue.clone());
        made.push(Worker::new(&runtime, client, options).map_err(RunError::Create)?);
    }
    let stops: Vec<_> = made.iter().map(Worker::shutdown_handle).collect();
    let one_ended = CancellationToken::new();
    let failure = Mutex::new(None);
    let mut running = pin!(join_all(made.iter_mut().map(async |worker| {
        if let Err(error) = worker.run().await {
            failure.lock().get_or_insert(error);
        }
        one_ended.cancel();
    })));
    let first_failure = || match failure.lock().take() {
        Some(error) => Err(RunError::Run(error)),
        None => Ok(()),
    };
    for task_queue in &task_queues {
        info!(task_queue, "worker started");
    }
    let reason = tokio::select! {
        _ = &mut running => return first_failure(),
        () = one_ended.cancelled() => "another worker has ended",
        reason = shutdown => reason,
    };

    info!(reason, grace = %humantime::format_duration(grace), "stopping: finishing the work in hand");
    for stop in &stops {
        stop();
    }
    let ended = tokio::time::timeout(grace.saturating_add(CANCELLATION_GRACE), running).await;
    let task_queue = task_queues.join(", ");
    // Why the first one failed is told even where another one has not stopped in time.
    first_failure()?;
    match ended {
        Ok(_) => {
            info!(task_queue, "worker stopped");
            Ok(())
        }
        Err(_) => {
            warn!(task_queue, "worker gave up waiting");
            Err(RunError::GraceRanOut { grace })
        }
    }
}

fn runtime(meter: Option<Arc<dyn CoreMeter>>) -> Result<Runtime, RunError> {
    let telemetry = TelemetryOptions::builder().maybe_metrics(meter).build();
    let options = RuntimeOptions::builder()
        .telemetry_options(telemetry)
        .build()
        .map_err(RunError::Options)?;
    Runtime::from_current_tokio(options).map_err(RunError::Runtime)
}

/// Why a worker ended otherwise than in order.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The SDK refused the runtime options.
    #[error("the Temporal SDK refuses its options: {0}")]
    Options(String),
    /// The SDK's runtime could not be created.
    #[error("failed to set up the Temporal SDK")]
    Runtime(#[source] RuntimeError),
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
        /// [`RunOptions::shutdown_grace`].
        grace: Duration,
    },
}
