//! The smallest worker whose credentials rotate: one workflow, one activity, one task queue.
//!
//! It accepts the connection and log flags of every program of the workspace. To run it, source the
//! environment file of `sandbox up`:
//!
//! ```text
//! cargo run -p keyutil --example smallest_worker
//! ```
//!
//! The workflow type has the same name as that of the worker, so the starter can start it.
//!
//! In another crate, `futures`, `temporalio-common` and `temporalio-workflow` are needed as direct
//! dependencies, because the SDK's macros generate code that names them. The lines for `Cargo.toml`
//! are in the documentation of `keyutil`, under "Dependencies of a worker".

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use keyutil::{
    ConnectArgs,
    program::{self, LogArgs},
    worker::RunOptions,
};
use temporalio_macros::{activities, workflow, workflow_methods};
use temporalio_sdk::{
    ActivityOptions, WorkerOptions, WorkflowContext, WorkflowResult,
    activities::{ActivityContext, ActivityError},
};

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    connect: ConnectArgs,

    /// Task queue to poll
    #[arg(short, long, env = "TEMPORAL_TASK_QUEUE", default_value = "hello")]
    task_queue: String,

    #[command(flatten)]
    log: LogArgs,
}

#[workflow]
#[derive(Default)]
struct HelloWorkflow;

#[workflow_methods]
impl HelloWorkflow {
    #[run]
    async fn run(context: &mut WorkflowContext<Self>, name: String) -> WorkflowResult<String> {
        let options = ActivityOptions::start_to_close_timeout(Duration::from_secs(10));
        Ok(context
            .execute_activity(Greetings::greet, name, options)
            .await?)
    }
}

struct Greetings;

#[activities]
impl Greetings {
    #[activity]
    async fn greet(_context: ActivityContext, name: String) -> Result<String, ActivityError> {
        Ok(format!("Hello {name}!"))
    }
}

fn main() -> ExitCode {
    program::main("smallest_worker", work)
}

async fn work(arguments: Arguments) -> anyhow::Result<()> {
    arguments.log.start()?;
    let connection = keyutil::connect(&arguments.connect, "smallest_worker").await?;
    let client = connection.client().clone();
    let options = WorkerOptions::new(arguments.task_queue)
        .register_workflow::<HelloWorkflow>()?
        .register_activities(Greetings)
        .build();
    let workers = [(client, options)];
    keyutil::worker::run(workers, RunOptions::default(), program::interrupted()).await?;
    Ok(())
}
