//! Polls a task queue with credentials that rotate.

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use keyutil::{ConnectArgs, program};
use worker::{DEFAULT_TASK_QUEUE, WorkerSettings};

/// Runs the hello workflow for whoever starts it
#[derive(Parser)]
#[command(version, after_help = program::EXIT_CODES)]
struct Arguments {
    #[command(flatten)]
    connect: ConnectArgs,

    /// Task queue to poll
    #[arg(short, long, env = "TEMPORAL_TASK_QUEUE", default_value = DEFAULT_TASK_QUEUE, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    task_queue: String,

    /// How long running work has to finish after SIGINT or SIGTERM
    #[arg(long, env = "WORKER_SHUTDOWN_GRACE", default_value = "10s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    shutdown_grace: Duration,
}

#[tokio::main]
async fn main() -> ExitCode {
    program::main("worker", work).await
}

async fn work(arguments: Arguments) -> anyhow::Result<()> {
    // From here on, so that a signal while connecting ends the process too.
    let mut interrupted = std::pin::pin!(program::interrupted());
    let connection = tokio::select! {
        connected = keyutil::connect(&arguments.connect, "worker") => connected?,
        signal = &mut interrupted => {
            tracing::info!(reason = signal?, "stopped before the connection was made");
            return Ok(());
        }
    };
    let settings = WorkerSettings {
        task_queue: arguments.task_queue,
        shutdown_grace: arguments.shutdown_grace,
    };
    let shutdown = async { interrupted.await.unwrap_or("no signals can be received") };
    worker::run(connection.client().clone(), settings, shutdown).await?;
    Ok(())
}
