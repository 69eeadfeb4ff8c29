//! Polls a task queue with credentials that rotate.

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::Context;
use clap::Parser;
use keyutil::{
    ConnectArgs, connect,
    diagnosis::ResultExt,
    health::Health,
    program::{self, LogArgs},
    settings::{self, Settings},
    worker::{RunError, RunOptions, SdkMetrics, WorkerArgs, run},
};
use worker::{DEFAULT_NAMESPACE, DEFAULT_TASK_QUEUE};

/// Runs the workflows and activities of this service
#[derive(Parser)]
#[command(
    version,
    mut_arg("namespace", |argument| argument.default_value(DEFAULT_NAMESPACE)),
    // A restart by an orchestrator loses more time than waiting here.
    mut_arg("connect_timeout", |argument| argument.default_value("5m")),
    after_help = program::examples_and_exit_codes(EXAMPLES)
)]
struct Arguments {
    #[command(flatten)]
    connect: ConnectArgs,

    /// Task queue to poll
    #[arg(short, long, env = "TEMPORAL_TASK_QUEUE", default_value = DEFAULT_TASK_QUEUE, value_parser = settings::id)]
    task_queue: String,

    /// Time that running work has to finish after SIGINT or SIGTERM
    #[arg(long, env = "WORKER_SHUTDOWN_GRACE", default_value = "10s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    shutdown_grace: Duration,

    /// Address that serves `/healthz`, `/readyz`, `/metrics` and `/status`; port 0 picks a free
    /// port, which the log names [default: disabled]
    #[arg(long, env = "WORKER_HEALTH_LISTEN", value_name = "ADDRESS:PORT")]
    health_listen: Option<SocketAddr>,

    #[command(flatten)]
    limits: WorkerArgs,

    #[command(flatten)]
    log: LogArgs,
}

/// Names the process in its messages, and is the subject of the tokens that it mints.
const PROGRAM: &str = env!("CARGO_BIN_NAME");

const EXAMPLES: &str = "\
Examples:
  worker --task-queue invoices
  worker --health-listen 127.0.0.1:9090 --shutdown-grace 30s -v
  worker --address temporal.example.com:7233 --namespace orders \\
      --tls-ca-path certs/worker/ca.crt --tls-cert-path certs/worker/tls.crt \\
      --tls-key-path certs/worker/tls.key --token-file /run/token/temporal.jwt";

fn main() -> ExitCode {
    program::main(PROGRAM, work)
}

async fn work(arguments: Arguments) -> anyhow::Result<()> {
    arguments.log.start()?;
    // Installed before connecting, so that a signal while connecting also ends the process.
    let mut interrupted = std::pin::pin!(program::interrupted());
    let settings = Settings::new(&arguments.connect, PROGRAM).diagnosed()?;
    let mut opened = connect::open(settings).diagnosed()?;
    let observer = opened.observer().clone();
    let health = match arguments.health_listen {
        Some(address) => {
            let metrics = SdkMetrics::start()?;
            let exporter = Some(metrics.address());
            opened = opened.metrics_meter(metrics.client_meter());
            let health = Health::listen(address, observer.clone(), exporter).await?;
            Some((health, metrics))
        }
        None => None,
    };
    let connection = tokio::select! {
        connected = opened.connect() => connected.diagnosed()?,
        signal = &mut interrupted => {
            tracing::info!(reason = signal, "stopped before the connection was made");
            return Ok(());
        }
    };
    let client = connection.client().clone();
    let options =
        worker::options(&arguments.task_queue).context("failed to register the workflows")?;
    let options = arguments.limits.apply(options);
    let run_options = RunOptions {
        shutdown_grace: arguments.shutdown_grace,
        meter: health.as_ref().map(|(_, metrics)| metrics.meter()),
    };
    let shutdown = async {
        let reason = interrupted.await;
        observer.stopping();
        reason
    };
    let ended = run([(client, options)], run_options, shutdown).await;
    ended.map_err(|error| match error {
        error @ RunError::Run(_) => observer.diagnosed(error.into()),
        other => other.into(),
    })?;
    if let Some((health, _)) = health {
        health.stop().await;
    }
    Ok(())
}
