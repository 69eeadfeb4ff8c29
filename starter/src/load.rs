//! One workflow, or many of them at a time.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use keyutil::{
    Connection, Diagnosis,
    diagnosis::{Class, Step},
    program,
};
use temporalio_client::{
    WorkflowGetResultOptions, WorkflowStartOptions, errors::WorkflowGetResultError,
};
use tracing::{debug, error};
use worker::canary::HelloWorkflow;

/// What to start.
pub struct Load<'a> {
    pub connection: &'a Connection,
    pub task_queue: String,
    pub name: String,
    pub workflow_id: String,
    pub workflow_timeout: Duration,
    /// When all must be done, if ever.
    pub deadline: Option<Deadline>,
}

/// `--timeout`, and when it is over.
#[derive(Clone, Copy)]
pub struct Deadline {
    pub at: Instant,
    pub limit: Duration,
}

impl Deadline {
    pub fn left(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }
}

/// What became of one workflow.
pub struct Outcome {
    pub workflow_id: String,
    /// Of one that was started.
    pub run_id: Option<String>,
    pub ended: Result<Done, FailedRun>,
}

/// A workflow that ended well.
pub struct Done {
    pub result: String,
    /// From the start call to the result in hand.
    pub latency: Duration,
}

/// Why there is no result of a workflow.
#[derive(Clone, Debug)]
pub struct FailedRun {
    /// The whole chain of the error.
    pub words: String,
    pub diagnosis: Diagnosis,
    pub lateness: Option<Lateness>,
}

/// What was not done in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lateness {
    /// It was not even started.
    NotStarted,
    /// There was no result.
    NotFinished,
}

impl FailedRun {
    pub fn of(error: &anyhow::Error) -> Self {
        Self {
            words: keyutil::chain(error.as_ref()),
            diagnosis: program::diagnosis(error),
            lateness: None,
        }
    }

    fn late(words: String, lateness: Lateness) -> Self {
        let diagnosis = Diagnosis {
            step: Step::TaskQueue,
            class: Class::Other,
            cause: words.clone(),
            hint: None,
        };
        Self {
            words,
            diagnosis,
            lateness: Some(lateness),
        }
    }
}

impl Load<'_> {
    /// Starts one workflow and waits for its result.
    pub async fn run_one(&self, workflow_id: String) -> Outcome {
        let started = Instant::now();
        let mut run_id = None;
        let ended = match self.deadline {
            Some(deadline) if deadline.left().is_zero() => {
                let limit = rfc3339(deadline.limit);
                let words = format!("workflow `{workflow_id}` was not started in {limit}");
                Err(FailedRun::late(words, Lateness::NotStarted))
            }
            Some(deadline) => {
                let result = self.result(&workflow_id, &mut run_id);
                let result = tokio::time::timeout(deadline.left(), result).await;
                result.unwrap_or_else(|_| Err(too_late(&workflow_id, deadline.limit)))
            }
            None => self.result(&workflow_id, &mut run_id).await,
        };
        Outcome {
            ended: ended.map(|result| Done {
                result,
                latency: started.elapsed(),
            }),
            workflow_id,
            run_id,
        }
    }

    async fn result(
        &self,
        workflow_id: &str,
        run_id: &mut Option<String>,
    ) -> Result<String, FailedRun> {
        let options = WorkflowStartOptions::new(self.task_queue.as_str(), workflow_id)
            .execution_timeout(self.workflow_timeout)
            .build();
        let client = self.connection.client();
        let handle = client
            .start_workflow(HelloWorkflow::run, self.name.clone(), options)
            .await
            .map_err(|error| {
                self.failed(error, format!("failed to start workflow `{workflow_id}`"))
            })?;
        debug!(workflow_id, run_id = handle.run_id(), "workflow started");
        *run_id = handle.run_id().map(str::to_owned);
        let result = handle.get_result(WorkflowGetResultOptions::default()).await;
        result.map_err(|error| {
            let context = format!("no result of workflow `{workflow_id}`");
            match error {
                WorkflowGetResultError::TimedOut => too_late(workflow_id, self.workflow_timeout),
                // The SDK does not hand the status on as a source, and the exit code depends on it.
                WorkflowGetResultError::Rpc(status) => self.failed(status, context),
                other => self.failed(other, context),
            }
        })
    }

    fn failed(&self, error: impl Into<anyhow::Error>, context: String) -> FailedRun {
        let mut failure = FailedRun::of(&self.connection.observer().diagnosed(error.into()));
        // The words of the SDK are those of the status; the diagnosis has the same in better ones.
        failure.words = format!("{context}: {}", failure.diagnosis.cause);
        failure
    }

    /// Runs `count` workflows, `concurrency` at a time, with a progress bar where standard error
    /// is a terminal.
    pub async fn run_many(&self, count: u32, concurrency: u32) -> Vec<Outcome> {
        if count == 1 {
            return vec![self.run_one(self.workflow_id.clone()).await];
        }
        let progress = progress_bar(count.into());
        let told = Cell::new(0);
        let outcomes = stream::iter(1..=count)
            .map(|number| self.run_one(format!("{}-{number}", self.workflow_id)))
            .buffer_unordered(concurrency as usize)
            .inspect(|outcome| {
                progress.inc(1);
                if let Err(failure) = &outcome.ended
                    && told.replace(told.get() + 1) < MOST_TOLD
                {
                    progress.suspend(|| error!(failure = failure.words, "workflow failed"));
                }
            })
            .collect()
            .await;
        progress.finish_and_clear();
        outcomes
    }
}

fn too_late(workflow_id: &str, limit: Duration) -> FailedRun {
    let limit = rfc3339(limit);
    let words = format!("workflow `{workflow_id}` was not finished within {limit}");
    FailedRun::late(words, Lateness::NotFinished)
}

fn rfc3339(limit: Duration) -> String {
    humantime::format_duration(limit).to_string()
}

/// Failures, each in the log: what they have in common is seen by then, and all are counted.
const MOST_TOLD: u32 = 10;

/// Hidden by indicatif itself where standard error is no terminal.
fn progress_bar(count: u64) -> ProgressBar {
    let bar = ProgressBar::new(count);
    if let Ok(style) =
        ProgressStyle::with_template("{bar:40} {pos}/{len} workflows, {per_sec}, {eta} left")
    {
        bar.set_style(style);
    }
    bar
}
