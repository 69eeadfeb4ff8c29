//! Runs workers until shutdown, with limits from flags and with the SDK's metrics.
//!
//! The cargo feature `worker`, which is on by default, adds a dependency on the SDK's core.

use std::{
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBuilder};
use clap::Args;
use futures::future::join_all;
use parking_lot::Mutex;
use temporalio_client::{Client, Connection, NamespacedClient, grpc::WorkflowService};
use temporalio_common::{
    protos::temporal::api::workflowservice::v1::DescribeNamespaceRequest,
    telemetry::{
        PrometheusExporterOptions, TelemetryOptions,
        metrics::{CoreMeter, TemporalMeter},
        start_prometheus_metric_exporter, telemetry_init,
    },
};
use temporalio_sdk::{
    Runtime, RuntimeError, Worker, WorkerCreateError, WorkerOptions, WorkerRunError,
    error::WorkerValidationError,
    runtime::{
        AutoscalingOptions, PollerBehavior, RuntimeOptions,
        worker_tuner::{FixedSizeSlotSupplier, WorkerTuner},
    },
};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};
use tracing::{info, warn};

/// The limits of a worker, as flags and variables. A limit that is not set keeps the value in the
/// program's [`WorkerOptions`].
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Worker limits")]
pub struct WorkerArgs {
    /// Maximum number of concurrent workflow tasks, at least 2 [default: 100]
    #[arg(long, env = "WORKER_MAX_CONCURRENT_WORKFLOW_TASKS", value_name = "NUMBER", value_parser = tasks::<2>)]
    pub max_concurrent_workflow_tasks: Option<usize>,

    /// Maximum number of concurrent activities [default: 100]
    #[arg(long, env = "WORKER_MAX_CONCURRENT_ACTIVITIES", value_name = "NUMBER", value_parser = tasks::<1>)]
    pub max_concurrent_activities: Option<usize>,

    /// Maximum number of concurrent local activities [default: 100]
    #[arg(long, env = "WORKER_MAX_CONCURRENT_LOCAL_ACTIVITIES", value_name = "NUMBER", value_parser = tasks::<1>)]
    pub max_concurrent_local_activities: Option<usize>,

    /// Maximum number of workflows kept in memory; with 0 each task replays the whole history
    /// [default: 1000]
    #[arg(long, env = "WORKER_MAX_CACHED_WORKFLOWS", value_name = "NUMBER", value_parser = tasks::<0>)]
    pub max_cached_workflows: Option<usize>,

    /// Number of concurrent polls for workflow tasks, at least 2, or `auto` [default: 5, or `auto`
    /// if the namespace enables it]
    #[arg(long, env = "WORKER_WORKFLOW_TASK_POLLERS", value_name = "NUMBER|auto", value_parser = pollers::<2>)]
    pub workflow_task_pollers: Option<Pollers>,

    /// Number of concurrent polls for activity tasks, or `auto` [default: 5, or `auto` if the
    /// namespace enables it]
    #[arg(long, env = "WORKER_ACTIVITY_TASK_POLLERS", value_name = "NUMBER|auto", value_parser = pollers::<1>)]
    pub activity_task_pollers: Option<Pollers>,

    /// Maximum number of activities that this worker starts per second [default: unlimited]
    #[arg(long, env = "WORKER_MAX_ACTIVITIES_PER_SECOND", value_name = "RATE", value_parser = rate)]
    pub max_activities_per_second: Option<f64>,

    /// Maximum number of activities that the server dispatches per second to the task queue; the
    /// last worker to poll sets it [default: unlimited]
    #[arg(long, env = "WORKER_MAX_TASK_QUEUE_ACTIVITIES_PER_SECOND", value_name = "RATE", value_parser = rate)]
    pub max_task_queue_activities_per_second: Option<f64>,
}

/// The number of concurrent polls for tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pollers {
    /// A fixed maximum.
    Fixed(usize),
    /// Scaled by the SDK from the server's feedback.
    Auto,
}

impl WorkerArgs {
    /// Applies the limits to `options`. A limit on concurrent tasks replaces a resource-based tuner
    /// with the SDK's default of fixed slots.
    #[must_use]
    pub fn apply(&self, mut options: WorkerOptions) -> WorkerOptions {
        let limits = [
            self.max_concurrent_workflow_tasks,
            self.max_concurrent_activities,
            self.max_concurrent_local_activities,
        ];
        let holds_slots = matches!(options.tuner, WorkerTuner::TunerHolder(_));
        if !holds_slots && limits.iter().any(Option::is_some) {
            options.tuner = WorkerTuner::default();
        }
        if let WorkerTuner::TunerHolder(slots) = &mut options.tuner {
            let suppliers = [
                &mut slots.workflow_task_slot_supplier,
                &mut slots.activity_task_slot_supplier,
                &mut slots.local_activity_task_slot_supplier,
            ];
            for (supplier, limit) in suppliers.into_iter().zip(limits) {
                if let Some(limit) = limit {
                    *supplier = FixedSizeSlotSupplier::new(limit).into();
                }
            }
        }
        if let Some(limit) = self.max_cached_workflows {
            options.max_cached_workflows = limit;
        }
        if let Some(pollers) = self.workflow_task_pollers {
            options.workflow_task_poller_behavior = Some(pollers.into());
        }
        if let Some(pollers) = self.activity_task_pollers {
            options.activity_task_poller_behavior = Some(pollers.into());
        }
        if let Some(rate) = self.max_activities_per_second {
            options.max_worker_activities_per_second = Some(rate);
        }
        if let Some(rate) = self.max_task_queue_activities_per_second {
            options.max_task_queue_activities_per_second = Some(rate);
        }
        options
    }
}

impl From<Pollers> for PollerBehavior {
    fn from(pollers: Pollers) -> Self {
        match pollers {
            Pollers::Fixed(number) => Self::SimpleMaximum(number),
            // The numbers with which the SDK scales if the namespace enables it:
            // `resolve_effective_behavior` in `worker/mod.rs` of temporalio-sdk-core 0.10.
            Pollers::Auto => Self::Autoscaling(
                AutoscalingOptions::builder()
                    .minimum(1)
                    .maximum(100)
                    .initial(5)
                    .build(),
            ),
        }
    }
}

// While it caches workflows, the SDK refuses a single workflow task slot or poller: the sticky and
// the normal task queue need one each (`WorkerConfig::build` in temporalio-sdk-core 0.10).
fn tasks<const MINIMUM: usize>(text: &str) -> Result<usize, String> {
    // With much larger numbers the SDK panics, or allocates all memory.
    within(text, MINIMUM, 100_000)
}

fn within(text: &str, minimum: usize, maximum: usize) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (minimum..=maximum).contains(&number) => Ok(number),
        _ => Err(format!(
            "it must be a whole number from {minimum} to {maximum}"
        )),
    }
}

fn pollers<const MINIMUM: usize>(text: &str) -> Result<Pollers, String> {
    match text {
        "auto" => Ok(Pollers::Auto),
        // The server permits 1,200 polls of a namespace (`frontend.namespaceCount`).
        number => within(number, MINIMUM, 500)
            .map(Pollers::Fixed)
            .map_err(|error| format!("{error}, or `auto`")),
    }
}

/// The server treats zero as "no limit". The SDK panics with rates below 1e-9.
fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (1e-6..=1e9).contains(&rate) => Ok(rate),
        _ => Err("it must be a number from 0.000001 to 1000000000".to_owned()),
    }
}

/// Options of [`run`].
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The time that running activities and workflow tasks have to finish after the shutdown
    /// signal. The default is 10 s.
    pub shutdown_grace: Duration,
    /// The meter of the SDK, for example [`SdkMetrics::meter`].
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

/// The time that activities have to react to cancellation after the grace period.
const CANCELLATION_GRACE: Duration = Duration::from_secs(2);

/// Runs workers until `shutdown` completes, then shuts them down gracefully.
///
/// Each worker polls the task queue of its options in the namespace of its client. Clients of one
/// [`Connection`](crate::Connection) share its connection. A worker starts once the server has
/// described the namespace, and waits as long as the server does not answer. When one worker ends,
/// the others are stopped too. With no workers it returns at once.
///
/// # Errors
/// [`RunError`], if a worker cannot start or gives up, or if the grace period ends before the
/// worker has stopped.
pub async fn run(
    workers: impl IntoIterator<Item = (Client, WorkerOptions)>,
    options: RunOptions,
    shutdown: impl Future<Output = &'static str>,
) -> Result<(), RunError> {
    let grace = options.shutdown_grace;
    let runtime = runtime(options.meter)?;
    let (stopping, one_ended) = (CancellationToken::new(), CancellationToken::new());
    let failure = Mutex::new(None);
    let (mut started, mut task_queues) = (Vec::new(), Vec::new());
    for (client, mut options) in workers {
        options.graceful_shutdown_period = Some(grace);
        task_queues.push(options.task_queue.clone());
        let worker = run_one(&runtime, client, options, &stopping);
        started.push(async {
            if let Err(error) = worker.await {
                failure.lock().get_or_insert(error);
            }
            one_ended.cancel();
        });
    }
    let mut running = pin!(join_all(started));
    let first_failure = || failure.lock().take().map_or(Ok(()), Err);
    let reason = tokio::select! {
        _ = &mut running => return first_failure(),
        () = one_ended.cancelled() => "another worker ended",
        reason = shutdown => reason,
    };

    info!(reason, grace = %humantime::format_duration(grace), "stopping: finishing running work");
    stopping.cancel();
    let ended = tokio::time::timeout(grace.saturating_add(CANCELLATION_GRACE), running).await;
    let task_queue = task_queues.join(", ");
    // The failure of the first worker is more important than a second one that has not stopped.
    first_failure()?;
    match ended {
        Ok(_) => {
            info!(task_queue, "worker stopped");
            Ok(())
        }
        Err(_) => {
            warn!(task_queue, "worker did not stop within the grace period");
            Err(RunError::GracePeriodExpired { grace })
        }
    }
}

/// Runs one worker until `stopping`.
///
/// The first call of the SDK's worker is `DescribeNamespace`. If it gets no answer within a minute,
/// the worker ends; until then it cannot be stopped. The worker is therefore created only after the
/// server has answered the same call here.
async fn run_one(
    runtime: &Runtime,
    client: Client,
    options: WorkerOptions,
    stopping: &CancellationToken,
) -> Result<(), RunError> {
    let task_queue = options.task_queue.clone();
    let (connection, namespace) = (client.connection().clone(), client.namespace());
    let mut worker = None;
    let mut pauses = ExponentialBuilder::new()
        .with_min_delay(Duration::from_secs(1))
        .with_max_delay(LONGEST_PAUSE)
        .without_max_times()
        .with_jitter()
        .build();
    loop {
        let described = tokio::select! {
            described = describe(connection.clone(), namespace.clone()) => described,
            () = stopping.cancelled() => return Ok(()),
        };
        let failed = match described {
            Err(status) if may_pass(&status) => status,
            // With any other error the SDK's worker ends by itself.
            _ => {
                let worker = match &mut worker {
                    Some(worker) => worker,
                    None => {
                        let made = Worker::new(runtime, client.clone(), options.clone())
                            .map_err(RunError::Create)?;
                        info!(task_queue, "worker started");
                        worker.insert(made)
                    }
                };
                match run_until(worker, stopping).await {
                    Err(WorkerRunError::Validation(
                        WorkerValidationError::NamespaceDescribeError { source, .. },
                    )) if may_pass(&source) => source,
                    ended => return ended.map_err(RunError::Run),
                }
            }
        };
        warn!(
            task_queue,
            reason = failed.message(),
            "the worker waits for the server: the namespace could not be described"
        );
        tokio::select! {
            () = tokio::time::sleep(pauses.next().unwrap_or(LONGEST_PAUSE)) => {}
            () = stopping.cancelled() => return Ok(()),
        }
    }
}

/// The longest pause between two calls of `describe`, each of which the SDK retries for a minute.
/// The jitter can double it.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

async fn describe(mut connection: Connection, namespace: String) -> Result<(), Status> {
    let request = Request::new(DescribeNamespaceRequest {
        namespace,
        ..Default::default()
    });
    connection.describe_namespace(request).await.map(drop)
}

/// Whether the server did not answer the call, or may answer the same call differently later.
fn may_pass(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Cancelled
            | Code::Aborted
            | Code::Internal
            | Code::DataLoss
            | Code::Unknown
    )
}

async fn run_until(
    worker: &mut Worker,
    stopping: &CancellationToken,
) -> Result<(), WorkerRunError> {
    let stop = worker.shutdown_handle();
    let mut running = pin!(worker.run());
    tokio::select! {
        ended = &mut running => return ended,
        () = stopping.cancelled() => stop(),
    }
    running.await
}

fn runtime(meter: Option<Arc<dyn CoreMeter>>) -> Result<Runtime, RunError> {
    let telemetry = TelemetryOptions::builder().maybe_metrics(meter).build();
    let options = RuntimeOptions::builder()
        .telemetry_options(telemetry)
        .build()
        .map_err(RunError::Options)?;
    Runtime::from_current_tokio(options).map_err(RunError::Runtime)
}

/// The reason why a worker did not start or did not stop cleanly.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The SDK rejected the runtime options.
    #[error("the Temporal SDK rejected its options: {0}")]
    Options(String),
    /// The SDK's runtime could not be created.
    #[error("failed to set up the Temporal SDK")]
    Runtime(#[source] RuntimeError),
    /// The SDK rejected the worker options.
    #[error("failed to create the worker")]
    Create(#[source] WorkerCreateError),
    /// Polls were refused for too long, or the SDK failed.
    #[error("the worker failed")]
    Run(#[source] WorkerRunError),
    /// Tasks were still running at the end of the grace period.
    #[error(
        "the worker did not stop within the grace period of {}: tasks were still running, or the server did not answer; the server dispatches the tasks again when they time out",
        humantime::format_duration(*grace)
    )]
    GracePeriodExpired {
        /// [`RunOptions::shutdown_grace`].
        grace: Duration,
    },
}

/// The SDK's metrics. The SDK exports them only at a listener, which is bound to the loopback
/// address for the health endpoint to read. Dropping this value closes the listener.
#[derive(Debug)]
pub struct SdkMetrics {
    meter: Arc<dyn CoreMeter>,
    client_meter: Option<TemporalMeter>,
    address: SocketAddr,
    listening: AbortHandle,
}

/// The listener for the SDK's metrics could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("failed to set up the metrics of the Temporal SDK")]
pub struct MetricsError(#[source] Box<dyn std::error::Error + Send + Sync>);

impl SdkMetrics {
    /// Starts the exporter. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`MetricsError`], if there is no free port.
    pub fn start() -> Result<Self, MetricsError> {
        let options = PrometheusExporterOptions::builder()
            .socket_addr(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
            // Names and units are the SDK's defaults: the dashboards of temporalio/dashboards use
            // them.
            .build();
        let failed = |error: anyhow::Error| MetricsError(error.into_boxed_dyn_error());
        let started = start_prometheus_metric_exporter(options).map_err(failed)?;
        let meter: Arc<dyn CoreMeter> = started.meter;
        let telemetry = TelemetryOptions::builder().metrics(meter.clone()).build();
        Ok(Self {
            client_meter: telemetry_init(telemetry)
                .map_err(failed)?
                .get_temporal_metric_meter(),
            meter,
            address: started.bound_addr,
            listening: started.abort_handle,
        })
    }

    /// The meter for the SDK's workers.
    pub fn meter(&self) -> Arc<dyn CoreMeter> {
        self.meter.clone()
    }

    /// The meter for the SDK's client. Its metrics have the names that the SDK gives them.
    pub fn client_meter(&self) -> Option<TemporalMeter> {
        self.client_meter.clone()
    }

    /// The address of the exporter's `/metrics`.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for SdkMetrics {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

#[cfg(test)]
mod tests;
