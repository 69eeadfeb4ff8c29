//! What every command needs: the connection, the task queue, and the time that is left.

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use keyutil::{Connection, Diagnosis, connect::check, diagnosis::Diagnosed, program};
use serde_json::Value;
use temporalio_client::{
    UntypedWorkflow, WorkflowDescribeOptions,
    errors::{WorkflowGetResultError, WorkflowStartError},
};
use tonic::{Code, Status};
use tracing::warn;

use crate::outcome::{Done, Failure, Lateness, Outcome};

pub struct Context<'a> {
    pub connection: &'a Connection,
    pub task_queue: &'a str,
    pub deadline: Option<Deadline>,
    /// Whether ids are printed as soon as they are known.
    pub print_ids: bool,
}

/// `--timeout`, and when it ends.
#[derive(Clone, Copy)]
pub struct Deadline {
    pub at: Instant,
    pub limit: Duration,
}

/// For finding out why it took too long, after the time is up.
pub const GRACE: Duration = Duration::from_millis(500);

/// The time after which a missing result is unusual.
const PATIENCE: Duration = Duration::from_secs(5);

impl Context<'_> {
    pub fn time_left(&self) -> Duration {
        self.deadline.map_or(Duration::MAX, |deadline| {
            deadline.at.saturating_duration_since(Instant::now())
        })
    }

    /// Makes a call to one workflow within the time that is left. The call returns a label and a
    /// result, and sets the run id when it is known.
    pub async fn outcome(
        &self,
        workflow_id: &str,
        call: impl AsyncFnOnce(&mut Option<String>) -> Result<(&'static str, Value), Failure>,
    ) -> Outcome {
        let started = Instant::now();
        let mut run_id = None;
        let left = self.time_left();
        let ended = if left.is_zero() {
            Err(self.late(workflow_id, Lateness::NotStarted))
        } else {
            match tokio::time::timeout(left, call(&mut run_id)).await {
                Ok(Ok((label, result))) => Ok(Done {
                    label,
                    result,
                    latency: started.elapsed(),
                }),
                Ok(Err(failure)) => Err(failure),
                Err(_) => Err(self.late(workflow_id, Lateness::NotFinished)),
            }
        };
        Outcome {
            workflow_id: workflow_id.to_owned(),
            run_id,
            ended,
        }
    }

    /// Prints a workflow id as soon as the workflow is started, for a person who does not wait.
    pub fn announce(&self, workflow_id: &str) {
        if self.print_ids {
            // An output without a reader is reported at the end, with the result.
            let _ = program::print_line(format!("Workflow id: {workflow_id}"));
        }
    }

    /// Adds what is known about the connection to the error of a call.
    pub fn failed(&self, error: impl Into<anyhow::Error>, attempted: String) -> Failure {
        let error = self.connection.observer().diagnosed(error.into());
        let mut failure = Failure::of(&error);
        let status = error.chain().find_map(|cause| cause.downcast_ref());
        let cause = match status.map(Status::message) {
            // The server's answer to this call alone, such as "workflow not found for ID: …".
            Some(message) if !error.is::<Diagnosed>() => message,
            _ => &failure.diagnosis.cause,
        };
        failure.message = format!("{attempted}: {cause}");
        failure.diagnosis.cause.clone_from(&failure.message);
        match status.map(Status::code) {
            // A query or update that no worker answers.
            Some(Code::DeadlineExceeded) => failure.lateness = Some(Lateness::NotFinished),
            Some(Code::NotFound) => {
                failure.diagnosis.hint.get_or_insert_with(|| {
                    format!(
                        "check the id, and that the workflow runs in namespace `{}`",
                        self.connection.client().options().namespace
                    )
                });
            }
            _ => {}
        }
        failure
    }

    pub fn start_failed(&self, error: WorkflowStartError, workflow_id: &str) -> Failure {
        self.failed(error, format!("failed to start workflow `{workflow_id}`"))
    }

    /// `limit` is the execution timeout that the workflow was started with, and its flag.
    pub fn no_result(
        &self,
        error: WorkflowGetResultError,
        workflow_id: &str,
        limit: Option<(&str, Duration)>,
    ) -> Failure {
        let attempted = format!("workflow `{workflow_id}` returned no result");
        match (error, limit) {
            (WorkflowGetResultError::TimedOut, Some((flag, limit))) => Failure::late(
                format!(
                    "the server ended workflow `{workflow_id}` because it was not finished within \
                     {} (`{flag}`)",
                    humantime::format_duration(limit)
                ),
                Lateness::NotFinished,
            ),
            (other, _) => self.failed(other, attempted),
        }
    }

    fn late(&self, workflow_id: &str, lateness: Lateness) -> Failure {
        let limit = self
            .deadline
            .map_or(Duration::MAX, |deadline| deadline.limit);
        let limit = humantime::format_duration(limit);
        let message = match lateness {
            Lateness::NotStarted => {
                format!("workflow `{workflow_id}` was not started within {limit} (`--timeout`)")
            }
            Lateness::NotFinished => format!(
                "stopped waiting for workflow `{workflow_id}` after {limit} (`--timeout`); it may \
                 still be running"
            ),
        };
        Failure::late(message, lateness)
    }

    /// Looks up whether a worker polls the task queue, and says so in the failure.
    pub async fn explain_late(&self, mut late: Failure, workflow_id: Option<&str>) -> Failure {
        // The time is up, so what is not known at once stays unknown.
        late.diagnosis = match self.polled_task_queue(workflow_id, GRACE).await {
            Err(found) => {
                late.message = format!("{}: {}", late.message, found.cause);
                found
            }
            Ok(task_queue) => Diagnosis {
                hint: Some(format!(
                    "a worker polls `{task_queue}`: read its log, and raise the limit if the \
                     workflow needs more time"
                )),
                ..late.diagnosis
            },
        };
        late
    }

    /// Warns if no worker polls the task queue, for a person who waits. Goes on until it is dropped.
    pub async fn warn_if_unpolled(&self, workflow_id: Option<&str>) -> Infallible {
        tokio::time::sleep(PATIENCE).await;
        if let Err(diagnosis) = self.polled_task_queue(workflow_id, PATIENCE).await {
            warn!(
                reason = diagnosis.cause,
                hint = diagnosis.hint,
                "still waiting for a result"
            );
        }
        std::future::pending().await
    }

    /// The task queue of a running workflow, which can be another one than that of the flag, if a
    /// worker polls it.
    async fn polled_task_queue(
        &self,
        workflow_id: Option<&str>,
        limit: Duration,
    ) -> Result<String, Diagnosis> {
        let described = async {
            let client = self.connection.client();
            let handle = client.get_workflow_handle::<UntypedWorkflow>(workflow_id?);
            let described = handle.describe(WorkflowDescribeOptions::default()).await;
            Some(described.ok()?.task_queue().to_owned())
        };
        let described = tokio::time::timeout(limit, described).await;
        let task_queue = described.ok().flatten();
        let task_queue = task_queue.unwrap_or_else(|| self.task_queue.to_owned());
        check::polled(self.connection, &task_queue, limit).await?;
        Ok(task_queue)
    }
}
