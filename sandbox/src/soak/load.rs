//! Workflows, a fixed number of them in flight at a time.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use keyutil::{ConnectArgs, ConnectError, Connection};
use temporalio_client::{Client, WorkflowGetResultOptions, WorkflowStartOptions};
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use worker::canary::HelloWorkflow;

use super::record::Sample;
use crate::stack::TASK_QUEUE;

/// What a workflow may take before the server ends it, and it counts as failed.
const WORKFLOW_LIMIT: Duration = Duration::from_secs(60);

/// The least pause after a workflow that failed.
const AFTER_FAILURE: Duration = Duration::from_millis(200);

/// A starter within this process, with workflows in flight until it is stopped.
pub struct InFlight {
    /// The connection of the starter.
    pub connection: Connection,
    /// The workflows so far.
    pub load: Load,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl InFlight {
    /// Connects, and runs [`Load::run`].
    ///
    /// # Errors
    /// When it cannot connect.
    pub async fn start(
        args: &ConnectArgs,
        concurrency: u32,
        pause: Duration,
    ) -> Result<Self, ConnectError> {
        let connection = keyutil::connect(args, "starter").await?;
        let load = Load::new(connection.client().clone(), Instant::now());
        let stop = CancellationToken::new();
        let task = tokio::spawn({
            let (load, stop) = (load.clone(), stop.clone());
            async move { load.run(concurrency, pause, stop).await }
        });
        Ok(Self {
            connection,
            load,
            stop,
            task,
        })
    }

    /// Starts no more workflows, and waits for the last of them.
    ///
    /// # Errors
    /// When the task of the workflows has panicked.
    pub async fn stop(self) -> Result<(Connection, Load), JoinError> {
        self.stop.cancel();
        self.task.await?;
        Ok((self.connection, self.load))
    }
}

/// Starts workflows, and remembers how each of them ended. Clones share what they remember.
#[derive(Clone)]
pub struct Load {
    client: Client,
    begun: Instant,
    samples: Arc<Mutex<Vec<Sample>>>,
}

impl Load {
    /// Over this client; times are counted from `begun`.
    pub fn new(client: Client, begun: Instant) -> Self {
        Self {
            client,
            begun,
            samples: Arc::default(),
        }
    }

    /// Keeps this many workflows in flight until `stop`, and then waits for the last of them. Each
    /// of them is followed by the next after `pause`.
    pub async fn run(&self, concurrency: u32, pause: Duration, stop: CancellationToken) {
        let mut tasks = JoinSet::new();
        for number in 0..concurrency {
            let (load, stop) = (self.clone(), stop.clone());
            tasks.spawn(async move {
                // Evenly over the pause, so that at any moment one of them makes a call.
                let mut pause_before = pause * number / concurrency;
                loop {
                    let paused = stop.run_until_cancelled(tokio::time::sleep(pause_before));
                    if paused.await.is_none() {
                        return;
                    }
                    let failed = load.run_one().await;
                    // A server that is gone must not be asked a thousand times a second.
                    pause_before = if failed {
                        pause.max(AFTER_FAILURE)
                    } else {
                        pause
                    };
                }
            });
        }
        while tasks.join_next().await.is_some() {}
    }

    /// The moment from which times are counted.
    pub fn begun(&self) -> Instant {
        self.begun
    }

    async fn run_one(&self) -> bool {
        let started = Instant::now();
        let outcome = self.greet().await;
        let failure = outcome.err().map(|error| keyutil::chain(error.as_ref()));
        let failed = failure.is_some();
        self.locked().push(Sample {
            ended: self.begun.elapsed(),
            latency: started.elapsed(),
            failure,
        });
        failed
    }

    async fn greet(&self) -> anyhow::Result<()> {
        let id = format!("soak-{}", uuid::Uuid::new_v4());
        let options = WorkflowStartOptions::new(TASK_QUEUE, id.as_str())
            .execution_timeout(WORKFLOW_LIMIT)
            .build();
        let started = self
            .client
            .start_workflow(HelloWorkflow::run, "soak".to_owned(), options)
            .await
            .context("failed to start a workflow")?;
        let greeting = started
            .get_result(WorkflowGetResultOptions::default())
            .await
            .context("no result of a workflow")?;
        ensure!(
            greeting == "Hello soak!",
            "a workflow answered `{greeting}`"
        );
        Ok(())
    }

    /// All that have ended so far.
    pub fn samples(&self) -> Vec<Sample> {
        self.locked().clone()
    }

    /// How many have ended well, and how many have not.
    pub fn counts(&self) -> (usize, usize) {
        let samples = self.locked();
        let failed = samples
            .iter()
            .filter(|sample| sample.failure.is_some())
            .count();
        (samples.len() - failed, failed)
    }

    fn locked(&self) -> MutexGuard<'_, Vec<Sample>> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
