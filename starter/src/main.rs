//! Starts hello workflows, and prints their results.
//!
//! With nothing but the connection it is a smoke test: it exits with 0 only if a workflow was
//! started, run by some worker, and its result read back, all with the credentials at hand.

mod load;
mod report;

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use keyutil::{
    ConnectArgs,
    program::{self, LogArgs},
};
use worker::DEFAULT_TASK_QUEUE;

use load::Load;
use report::Report;

/// Starts hello workflows and prints their results
#[derive(Parser)]
#[command(version, after_help = program::examples_and_exit_codes(EXAMPLES))]
struct Arguments {
    #[command(flatten)]
    connect: ConnectArgs,

    /// Task queue that a worker polls
    #[arg(short, long, env = "TEMPORAL_TASK_QUEUE", default_value = DEFAULT_TASK_QUEUE, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    task_queue: String,

    /// Whom to greet
    #[arg(long, default_value = "Temporal")]
    name: String,

    /// Workflow id; with more than one workflow, `-1`, `-2`, … are put behind it [default: a new
    /// one]
    #[arg(long, value_name = "ID")]
    workflow_id: Option<String>,

    /// How many workflows to run
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,

    /// How many of them at a time
    #[arg(long, default_value = "10", value_parser = clap::value_parser!(u32).range(1..))]
    concurrency: u32,

    /// How long a workflow may take before the server ends it
    #[arg(long, default_value = "60s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    workflow_timeout: Duration,

    #[command(flatten)]
    log: LogArgs,
}

const EXAMPLES: &str = "\
Examples:
  starter --name Ada
  starter --count 1000 --concurrency 50 --quiet
  starter --address temporal.example.com:7233 --namespace orders \\
      --tls-ca-path certs/starter/ca.crt --tls-cert-path certs/starter/tls.crt \\
      --tls-key-path certs/starter/tls.key --signing-key certs/signing/current.pem";

#[tokio::main]
async fn main() -> ExitCode {
    program::main("starter", start).await
}

async fn start(arguments: Arguments) -> anyhow::Result<()> {
    arguments.log.start()?;
    let connection = keyutil::connect(&arguments.connect, "starter").await?;
    let load = Load {
        client: connection.client().clone(),
        task_queue: arguments.task_queue,
        name: arguments.name,
        workflow_id: arguments
            .workflow_id
            .unwrap_or_else(|| format!("hello-{}", uuid::Uuid::new_v4())),
        workflow_timeout: arguments.workflow_timeout,
    };
    if arguments.count == 1 {
        program::print_line(format_args!(
            "Workflow result: {}",
            load.run_one(&load.workflow_id).await?.result
        ))?;
        return Ok(());
    }
    let report = Report::of(load.run_many(arguments.count, arguments.concurrency).await);
    program::print_line(report.to_string().trim_end())?;
    report.into_result()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn clap_takes_the_examples_of_the_help() {
        let command = Arguments::command();
        assert_eq!(program::mistaken_examples(&command), [""; 0]);
    }
}
