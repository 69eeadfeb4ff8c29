//! One workflow, or many of them at a time.

use std::time::{Duration, Instant};

use anyhow::Context;
use futures::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use temporalio_client::{
    Client, WorkflowGetResultOptions, WorkflowStartOptions, errors::WorkflowGetResultError,
};
use tracing::{debug, error};
use worker::workflows::HelloWorkflow;

/// What to start.
pub struct Load {
    pub client: Client,
    pub task_queue: String,
    pub name: String,
    pub workflow_id: String,
    pub workflow_timeout: Duration,
}

/// A workflow that ended well.
pub struct Done {
    pub result: String,
    /// From the start call to the result in hand.
    pub latency: Duration,
}

impl Load {
    /// Starts one workflow and waits for its result.
    pub async fn run_one(&self, workflow_id: &str) -> anyhow::Result<Done> {
        let started = Instant::now();
        let options = WorkflowStartOptions::new(self.task_queue.as_str(), workflow_id)
            .execution_timeout(self.workflow_timeout)
            .build();
        let handle = self
            .client
            .start_workflow(HelloWorkflow::run, self.name.clone(), options)
            .await
            .with_context(|| format!("failed to start workflow `{workflow_id}`"))?;
        debug!(workflow_id, run_id = handle.run_id(), "workflow started");
        let result = handle
            .get_result(WorkflowGetResultOptions::default())
            .await
            .map_err(|error| self.explain(error, workflow_id))?;
        Ok(Done {
            result,
            latency: started.elapsed(),
        })
    }

    fn explain(&self, error: WorkflowGetResultError, workflow_id: &str) -> anyhow::Error {
        let context = match &error {
            WorkflowGetResultError::TimedOut => format!(
                "workflow `{workflow_id}` was not finished within {}: see that a worker polls the \
                 task queue `{}` in this namespace",
                humantime::format_duration(self.workflow_timeout),
                self.task_queue
            ),
            _ => format!("no result of workflow `{workflow_id}`"),
        };
        match error {
            // The SDK does not hand the status on as a source, and the exit code depends on it.
            WorkflowGetResultError::Rpc(status) => anyhow::Error::new(status).context(context),
            other => anyhow::Error::new(other).context(context),
        }
    }

    /// Runs `count` workflows, `concurrency` at a time, with a progress bar where standard error
    /// is a terminal.
    pub async fn run_many(&self, count: u32, concurrency: u32) -> Vec<anyhow::Result<Done>> {
        let progress = progress_bar(count.into());
        let outcomes = stream::iter(1..=count)
            .map(|number| async move {
                self.run_one(&format!("{}-{number}", self.workflow_id))
                    .await
            })
            .buffer_unordered(concurrency as usize)
            .inspect(|outcome| {
                progress.inc(1);
                if let Err(failure) = outcome {
                    let failure = keyutil::chain(failure.as_ref());
                    progress.suspend(|| error!(failure, "workflow failed"));
                }
            })
            .collect()
            .await;
        progress.finish_and_clear();
        outcomes
    }
}

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
