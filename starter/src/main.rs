//! Starts workflows, talks to them, and prints their results.
//!
//! Without a subcommand it is a smoke test: it exits with 0 only if the canary workflow was started,
//! run by a worker, and its result read back, all with the credentials that it is given. `--check`
//! starts no workflow: it checks the connection, the permission to start, and that a worker polls.

mod canary;
mod context;
mod json;
mod order;
mod outcome;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use keyutil::{
    ConnectArgs, Diagnosis,
    base::redact::without_user,
    connect::{self, Observer},
    diagnosis::{Diagnosed, ResultExt},
    program::{self, LogArgs, UsageError},
    settings::{self, Settings},
};
use temporalio_client::{
    UntypedWorkflow, WorkflowExecutionInfo, WorkflowFetchHistoryOptions, WorkflowHandle,
};
use worker::{DEFAULT_NAMESPACE, DEFAULT_TASK_QUEUE};

use canary::CanaryArgs;
use context::{Context, Deadline, GRACE};
use json::{About, Object};
use order::OrderCommand;
use outcome::{Outcome, Summary};

/// Starts workflows and prints their results; without a subcommand, a smoke test of the cluster
#[derive(Parser)]
#[command(
    version,
    mut_arg("namespace", |argument| argument.default_value(DEFAULT_NAMESPACE)),
    after_help = program::examples_and_exit_codes(EXAMPLES)
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,

    /// Task queue that a worker polls
    #[arg(short, long, global = true, env = "TEMPORAL_TASK_QUEUE", default_value = DEFAULT_TASK_QUEUE, value_parser = settings::id)]
    task_queue: String,

    /// Time limit for the whole program, including connecting [default: unlimited]
    #[arg(long, global = true, env = "STARTER_TIMEOUT", value_name = "DURATION", value_parser = positive_duration)]
    timeout: Option<Duration>,

    /// Output format
    #[arg(long, global = true, default_value = "text", value_name = "FORMAT")]
    output: Output,

    #[command(flatten)]
    canary: CanaryArgs,

    #[command(flatten)]
    connect: ConnectArgs,

    #[command(flatten)]
    log: LogArgs,
}

#[derive(Clone, Subcommand)]
enum Command {
    /// Start, approve or change an order, or show its progress
    #[command(subcommand)]
    Order(OrderCommand),

    /// Print the history of a workflow as JSON, whatever `--output` says, in the format that the
    /// worker's replay tests read
    History {
        /// Workflow id
        #[arg(value_name = "WORKFLOW_ID", value_parser = settings::id)]
        id: String,

        /// Run id [default: that of the latest run]
        #[arg(long, value_name = "ID", value_parser = settings::id)]
        run_id: Option<String>,
    },
}

/// Output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Human-readable text
    Text,
    /// One JSON object, for success and failure alike; errors in the arguments go to standard error
    /// only
    Json,
}

/// Names the process in its messages, and is the subject of the tokens that it mints.
const PROGRAM: &str = env!("CARGO_BIN_NAME");

const EXAMPLES: &str = "\
Examples:
  starter --timeout 60s
  starter --count 1000 --concurrency 50 --quiet
  starter --check --timeout 30s --output json
  starter order start --order-id 17 --items 3
  starter order approve 17 --by Ada
  starter --address temporal.example.com:7233 --namespace orders \\
      --tls-ca-path certs/starter/ca.crt --tls-cert-path certs/starter/tls.crt \\
      --tls-key-path certs/starter/tls.key --signing-key certs/signing/active/current.pem";

fn main() -> ExitCode {
    program::main(PROGRAM, start)
}

async fn start(arguments: Arguments) -> anyhow::Result<()> {
    let begun = Instant::now();
    arguments.log.start()?;
    if arguments.command.is_some() && !arguments.canary.is_default() {
        let message = "the flags of the smoke test cannot be used with a subcommand";
        return Err(UsageError(message.to_owned()).into());
    }
    let mut run = Run::default();
    let ended = run.through(&arguments, begun).await;
    let printed = print(arguments, run, begun.elapsed(), ended.as_ref().err());
    // The exit code is that of the work, whether its output can be written or not.
    ended.and(printed)
}

fn print(
    arguments: Arguments,
    run: Run,
    took: Duration,
    failure: Option<&anyhow::Error>,
) -> anyhow::Result<()> {
    let text = match (run.history, run.checked, arguments.output) {
        (Some(history), ..) => history,
        (_, Some(checked), Output::Text) => checked,
        (.., Output::Text) if run.outcomes.is_empty() => String::new(),
        (.., Output::Text) => Summary::of(&run.outcomes).to_string(),
        (.., Output::Json) => {
            let about = About {
                address: without_user(&arguments.connect.address),
                namespace: arguments.connect.namespace,
                task_queue: arguments.task_queue,
                check: arguments.canary.check,
            };
            let status = run.observer.map(|observer| observer.status());
            let object = Object::new(about, took, status, &run.outcomes, failure);
            serde_json::to_string(&object)?
        }
    };
    if !text.is_empty() {
        program::print_line(text)?;
    }
    Ok(())
}

/// What has been done so far.
#[derive(Default)]
struct Run {
    observer: Option<Observer>,
    outcomes: Vec<Outcome>,
    /// The message of a check that passed.
    checked: Option<String>,
    history: Option<String>,
}

impl Run {
    async fn through(&mut self, arguments: &Arguments, begun: Instant) -> anyhow::Result<()> {
        let mut connect = arguments.connect.clone();
        if let Some(limit) = arguments.timeout {
            connect.connect_timeout = connect.connect_timeout.min(limit);
        }
        let settings = Settings::new(&connect, PROGRAM).diagnosed()?;
        let opened = connect::open(settings).diagnosed()?;
        self.observer = Some(opened.observer().clone());
        let connection = opened.connect().await.diagnosed()?;
        let context = Context {
            connection: &connection,
            task_queue: &arguments.task_queue,
            // A limit that is beyond the clock's range is no limit.
            deadline: arguments.timeout.and_then(|limit| {
                let at = begun.checked_add(limit)?;
                Some(Deadline { at, limit })
            }),
            print_ids: arguments.output == Output::Text,
        };
        let failure: Option<Diagnosis> = match &arguments.command {
            Some(Command::Order(order)) => {
                let outcome = order.run(&context).await;
                let failure = outcome.ended.as_ref().err();
                let failure = failure.cloned().map(|failure| Diagnosis {
                    cause: failure.message,
                    ..failure.diagnosis
                });
                self.outcomes = vec![outcome];
                failure
            }
            Some(Command::History { id, run_id }) => {
                self.history = Some(history(&context, id, run_id.clone()).await?);
                None
            }
            None if arguments.canary.check => {
                self.checked = Some(canary::check(&context).await?);
                None
            }
            None => {
                let failure;
                (self.outcomes, failure) = arguments.canary.run(&context).await;
                failure
            }
        };
        match failure {
            Some(failure) => Err(Diagnosed::from(failure).into()),
            None => Ok(()),
        }
    }
}

/// One member per line, so that a change in a recorded history can be reviewed.
async fn history(
    context: &Context<'_>,
    workflow_id: &str,
    run_id: Option<String>,
) -> anyhow::Result<String> {
    let client = context.connection.client();
    let execution = WorkflowExecutionInfo::builder()
        .namespace(&client.options().namespace)
        .workflow_id(workflow_id)
        .maybe_run_id(run_id)
        .build();
    let handle = WorkflowHandle::<_, UntypedWorkflow>::new(client.clone(), execution);
    let history = handle.fetch_history(WorkflowFetchHistoryOptions::default());
    let limited = tokio::time::timeout(context.time_left(), history.to_json()).await;
    let json = limited
        .context("the history was not read within `--timeout`")?
        .map_err(|error| {
            let attempted = format!("failed to read the history of workflow `{workflow_id}`");
            Diagnosed::from(context.failed(error, attempted).diagnosis)
        })?;
    let value: serde_json::Value = serde_json::from_slice(&json)?;
    Ok(serde_json::to_string_pretty(&value)?)
}

fn positive_duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("it must be longer than zero, as in `30s`".to_owned()),
        Ok(span) => Ok(span),
        Err(error) => Err(format!("{error}: write it as in `30s`")),
    }
}
