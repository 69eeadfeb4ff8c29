//! The smoke test: starts the canary workflow, once or many times, and waits for its results.

use std::{cell::Cell, time::Duration};

use clap::Parser;
use futures::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use keyutil::{Diagnosis, connect::check, settings};
use temporalio_client::{WorkflowGetResultOptions, WorkflowStartOptions};
use tracing::error;
use worker::canary::HelloWorkflow;

use crate::{
    Context, GRACE,
    outcome::{Failure, Lateness, Outcome, Summary},
    positive_duration,
};

/// The smoke test, which runs where no subcommand is given.
#[derive(Clone, Debug, Parser, PartialEq, Eq)]
#[command(next_help_heading = "Smoke test, without a subcommand")]
pub struct CanaryArgs {
    /// Name to greet
    #[arg(long, default_value = "Temporal")]
    name: String,

    /// Workflow id; with `--count`, `-1`, `-2`, … are appended [default: a new one]
    #[arg(long, value_name = "ID", value_parser = settings::id)]
    workflow_id: Option<String>,

    /// Number of workflows to run
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,

    /// Number of workflows to run at a time
    #[arg(long, default_value = "10", value_parser = clap::value_parser!(u32).range(1..))]
    concurrency: u32,

    /// Time after which the server ends a workflow
    #[arg(long, default_value = "60s", value_name = "DURATION", value_parser = positive_duration)]
    workflow_timeout: Duration,

    /// Start no workflow: check that the server can be reached, that the token permits a start, and
    /// that a worker polls the task queue
    #[arg(long, conflicts_with_all = ["count", "workflow_id"])]
    pub check: bool,
}

impl CanaryArgs {
    /// Whether no flag of the smoke test is given.
    pub fn is_default(&self) -> bool {
        CanaryArgs::try_parse_from([""]).is_ok_and(|default| default == *self)
    }

    /// Runs the workflows; the failure is the first one.
    pub async fn run(&self, context: &Context<'_>) -> (Vec<Outcome>, Option<Diagnosis>) {
        let canary = Canary {
            args: self,
            workflow_id: self
                .workflow_id
                .clone()
                .unwrap_or_else(|| format!("hello-{}", uuid::Uuid::new_v4())),
            announced: Cell::new(false),
            context,
        };
        let outcomes = tokio::select! {
            outcomes = canary.run_all() => outcomes,
            never = context.warn_if_unpolled(None) => match never {},
        };
        let failure = first_failure(&outcomes, context).await;
        (outcomes, failure)
    }
}

/// Checks what a start needs, without starting anything, and returns what was found.
pub async fn check(context: &Context<'_>) -> anyhow::Result<String> {
    let left = context.time_left();
    let ready = check::ready_to_start(context.connection, context.task_queue, left);
    // Each of several calls is given what is left, so their sum is limited here.
    let late = || anyhow::anyhow!("the check did not finish within `--timeout`");
    let ready = tokio::time::timeout(left.saturating_add(GRACE), ready).await;
    ready
        .map_err(|_| late())?
        .map_err(keyutil::diagnosis::Diagnosed::from)?;
    Ok(format!(
        "Check passed: the token is sufficient to start workflows in `{}`, and a worker polls `{}`",
        context.connection.client().options().namespace,
        context.task_queue
    ))
}

struct Canary<'a> {
    args: &'a CanaryArgs,
    workflow_id: String,
    announced: Cell<bool>,
    context: &'a Context<'a>,
}

impl Canary<'_> {
    /// With a progress bar where standard error is a terminal.
    async fn run_all(&self) -> Vec<Outcome> {
        let count = self.args.count;
        if count == 1 {
            return vec![self.run_one(self.workflow_id.clone()).await];
        }
        let progress = progress_bar(count.into());
        let logged = Cell::new(0);
        stream::iter(1..=count)
            .map(|number| self.run_one(format!("{}-{number}", self.workflow_id)))
            .buffer_unordered(self.args.concurrency as usize)
            .inspect(|outcome| {
                progress.inc(1);
                if let Err(failure) = &outcome.ended
                    && logged.replace(logged.get() + 1) < MOST_LOGGED
                {
                    progress.suspend(|| error!(failure = failure.message, "workflow failed"));
                }
            })
            .collect()
            .await
    }

    async fn run_one(&self, workflow_id: String) -> Outcome {
        let call = async |run_id: &mut _| {
            let greeting = self.result(&workflow_id, run_id).await?;
            Ok(("Workflow result", greeting.into()))
        };
        self.context.outcome(&workflow_id, call).await
    }

    async fn result(
        &self,
        workflow_id: &str,
        run_id: &mut Option<String>,
    ) -> Result<String, Failure> {
        let options = WorkflowStartOptions::new(self.context.task_queue, workflow_id)
            .execution_timeout(self.args.workflow_timeout)
            .build();
        let handle = self
            .context
            .connection
            .client()
            .start_workflow(HelloWorkflow::run, self.args.name.clone(), options)
            .await
            .map_err(|error| self.context.start_failed(error, workflow_id))?;
        *run_id = handle.run_id().map(str::to_owned);
        self.announce();
        let result = handle.get_result(WorkflowGetResultOptions::default()).await;
        let limit = Some(("--workflow-timeout", self.args.workflow_timeout));
        result.map_err(|error| self.context.no_result(error, workflow_id, limit))
    }

    /// Prints the workflow ids with the first start.
    fn announce(&self) {
        if self.announced.replace(true) {
            return;
        }
        let id = &self.workflow_id;
        match self.args.count {
            1 => self.context.announce(id),
            count => self.context.announce(&format!("{id}-1 to {id}-{count}")),
        }
    }
}

/// The first failure. The likeliest cause of a workflow that is late is that no worker polls its
/// task queue, so that is looked up.
async fn first_failure(outcomes: &[Outcome], context: &Context<'_>) -> Option<Diagnosis> {
    let failures = || outcomes.iter().filter_map(|one| one.ended.as_ref().err());
    let mut first = failures().next()?.clone();
    let is_late = |failure: &&Failure| failure.lateness == Some(Lateness::NotFinished);
    if let Some(late) = failures().find(is_late) {
        first = context.explain_late(late.clone(), None).await;
    }
    Some(Diagnosis {
        cause: Summary::of(outcomes).counted(&first.message),
        ..first.diagnosis
    })
}

/// Failures that are logged one by one: enough to see what they have in common. All are counted.
const MOST_LOGGED: u32 = 10;

/// indicatif hides it where standard error is no terminal.
fn progress_bar(count: u64) -> ProgressBar {
    let bar = ProgressBar::new(count);
    if let Ok(style) =
        ProgressStyle::with_template("{bar:40} {pos}/{len} workflows, {per_sec}, {eta} left")
    {
        bar.set_style(style);
    }
    bar
}
