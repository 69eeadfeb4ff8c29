//! Starts hello workflows, and prints their results.
//!
//! With nothing but the connection it is a smoke test: it exits with 0 only if a workflow was
//! started, run by some worker, and its result read back, all with the credentials at hand.
//! `--check` does all of that but start a workflow.

mod json;
mod load;
mod report;

use std::{
    convert::Infallible,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::{Parser, ValueEnum};
use keyutil::{
    ConnectArgs, Diagnosis,
    base::redact::without_user,
    connect::{self, Observer, check},
    diagnosis::{Diagnosed, ResultExt},
    program::{self, LogArgs},
    settings::Settings,
};
use tracing::warn;
use worker::DEFAULT_TASK_QUEUE;

use json::{About, Object};
use load::{Deadline, FailedRun, Lateness, Load, Outcome};
use report::Summary;

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

    /// How long all of it may take, connecting included [default: as long as it takes]
    #[arg(long, env = "STARTER_TIMEOUT", value_name = "DURATION", value_parser = time_span)]
    timeout: Option<Duration>,

    /// Start nothing: see that the server can be reached, that workflows may be started, and that
    /// somebody polls the task queue
    #[arg(long, conflicts_with_all = ["count", "workflow_id"])]
    check: bool,

    /// How to print what came of it
    #[arg(long, default_value = "text", value_name = "FORMAT")]
    output: Output,

    #[command(flatten)]
    log: LogArgs,
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// The results, in lines
    Text,
    /// One object, whether it went well or not; of arguments that cannot be read, standard error
    /// alone tells
    Json,
}

const EXAMPLES: &str = "\
Examples:
  starter --name Ada
  starter --count 1000 --concurrency 50 --quiet
  starter --check --timeout 30s
  starter --timeout 60s --output json
  starter --address temporal.example.com:7233 --namespace orders \\
      --tls-ca-path certs/starter/ca.crt --tls-cert-path certs/starter/tls.crt \\
      --tls-key-path certs/starter/tls.key --signing-key certs/signing/current.pem";

#[tokio::main]
async fn main() -> ExitCode {
    program::main("starter", start).await
}

async fn start(arguments: Arguments) -> anyhow::Result<()> {
    let begun = Instant::now();
    arguments.log.start()?;
    let mut run = Run::default();
    let ended = run.through(&arguments, begun).await;
    let printed = print(arguments, run, begun.elapsed(), ended.as_ref().err());
    // Whether somebody reads it does not change how it ended.
    ended.and(printed)
}

fn print(
    arguments: Arguments,
    run: Run,
    took: Duration,
    failure: Option<&anyhow::Error>,
) -> anyhow::Result<()> {
    match arguments.output {
        Output::Text => {
            let text = match run.checked {
                Some(checked) => checked,
                None if run.outcomes.is_empty() => String::new(),
                None => Summary::of(&run.outcomes).to_string(),
            };
            if !text.is_empty() {
                program::print_line(text)?;
            }
        }
        Output::Json => {
            let about = About {
                address: without_user(&arguments.connect.address),
                namespace: arguments.connect.namespace,
                task_queue: arguments.task_queue,
                check: arguments.check,
            };
            let status = run.observer.map(|observer| observer.status());
            let object = Object::new(about, took, status, &run.outcomes, failure);
            program::print_line(serde_json::to_string(&object)?)?;
        }
    }
    Ok(())
}

/// How far it came.
#[derive(Default)]
struct Run {
    observer: Option<Observer>,
    outcomes: Vec<Outcome>,
    /// What a check that went well says.
    checked: Option<String>,
}

impl Run {
    async fn through(&mut self, arguments: &Arguments, begun: Instant) -> anyhow::Result<()> {
        let mut connect = arguments.connect.clone();
        if let Some(limit) = arguments.timeout {
            connect.connect_timeout = connect.connect_timeout.min(limit);
        }
        let settings = Settings::new(&connect, "starter").diagnosed()?;
        let opened = connect::open(settings).diagnosed()?;
        self.observer = Some(opened.observer().clone());
        let connection = opened.connect().await.diagnosed()?;
        // What is too far away to be told is never.
        let deadline = arguments.timeout.and_then(|limit| {
            let at = begun.checked_add(limit)?;
            Some(Deadline { at, limit })
        });
        if arguments.check {
            let ready = {
                let left = deadline.map_or(Duration::MAX, Deadline::left);
                let ready = check::ready_to_start(&connection, &arguments.task_queue, left);
                // Of several calls each is given what is left.
                let late = || anyhow::anyhow!("the check was not done in time (`--timeout`)");
                tokio::time::timeout(left.saturating_add(GRACE), ready)
                    .await
                    .map_err(|_| late())?
            };
            ready.map_err(Diagnosed::from)?;
            self.checked = Some(format!(
                "Check passed: workflows may be started in `{}`, and somebody polls `{}`",
                arguments.connect.namespace, arguments.task_queue
            ));
            return Ok(());
        }
        let load = Load {
            connection: &connection,
            task_queue: arguments.task_queue.clone(),
            name: arguments.name.clone(),
            workflow_id: arguments
                .workflow_id
                .clone()
                .unwrap_or_else(|| format!("hello-{}", uuid::Uuid::new_v4())),
            workflow_timeout: arguments.workflow_timeout,
            deadline,
        };
        self.outcomes = tokio::select! {
            outcomes = load.run_many(arguments.count, arguments.concurrency) => outcomes,
            never = warn_if_nobody_polls(&load) => match never {},
        };
        match self.failure(&load).await {
            Some(failure) => Err(Diagnosed::from(failure).into()),
            None => Ok(()),
        }
    }

    /// The first failure. Where a workflow was not finished in time, the likeliest cause is that
    /// nobody polls its task queue, so that is looked for.
    async fn failure(&self, load: &Load<'_>) -> Option<Diagnosis> {
        let failures = || {
            self.outcomes
                .iter()
                .filter_map(|one| one.ended.as_ref().err())
        };
        let mut first = failures().next()?.clone();
        let is_late = |failure: &&FailedRun| failure.lateness == Some(Lateness::NotFinished);
        if let Some(late) = failures().find(is_late) {
            first = late.clone();
            // The time is up, so what is not known at once stays unknown.
            let polled = check::polled(load.connection, &load.task_queue, GRACE).await;
            first.diagnosis = match polled.err() {
                Some(found) => {
                    first.words = format!("{}: {}", late.words, found.cause);
                    found
                }
                None => Diagnosis {
                    hint: Some(format!(
                        "somebody polls `{}`: see the log of that worker, and give the workflow \
                         longer (`--workflow-timeout`, `--timeout`) if it takes longer",
                        load.task_queue
                    )),
                    ..first.diagnosis
                },
            };
        }
        Some(Diagnosis {
            cause: Summary::of(&self.outcomes).counted(&first.words),
            ..first.diagnosis
        })
    }
}

/// A person who waits wants to know before all the time is up. Goes on until it is dropped.
async fn warn_if_nobody_polls(load: &Load<'_>) -> Infallible {
    tokio::time::sleep(PATIENCE).await;
    let polled = check::polled(load.connection, &load.task_queue, PATIENCE).await;
    if let Err(diagnosis) = polled {
        warn!(
            reason = diagnosis.cause,
            hint = diagnosis.hint,
            "still waiting for a result"
        );
    }
    std::future::pending().await
}

/// For finding out why it took too long, when the time is up.
const GRACE: Duration = Duration::from_millis(500);

/// Far longer than a hello takes.
const PATIENCE: Duration = Duration::from_secs(5);

/// A span of time that is not nothing.
fn time_span(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("it must be longer than nothing, as in `30s`".to_owned()),
        Ok(span) => Ok(span),
        Err(error) => Err(format!("{error}: write it as in `30s`")),
    }
}
