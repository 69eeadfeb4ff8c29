//! The canary: the smallest workflow that exercises a whole cluster.
//!
//! The starter without a subcommand starts it, as the smoke test of a deployment: its result comes
//! back only if the connection, the token, the task queue and a worker all work. It stays as it is
//! when the other workflows of this crate change.

use std::time::Duration;

use temporalio_macros::{activities, workflow, workflow_methods};
use temporalio_sdk::{
    ActivityOptions, WorkflowContext, WorkflowResult,
    activities::{ActivityContext, ActivityError},
};

/// Greets a person by name, through an activity.
#[workflow]
#[derive(Debug, Default)]
pub struct HelloWorkflow;

#[workflow_methods]
impl HelloWorkflow {
    /// Takes the name and returns the greeting.
    #[run]
    pub async fn run(context: &mut WorkflowContext<Self>, name: String) -> WorkflowResult<String> {
        let options = ActivityOptions::start_to_close_timeout(Duration::from_secs(10));
        Ok(context
            .execute_activity(Greetings::greet, name, options)
            .await?)
    }
}

/// The activity of the canary.
#[derive(Debug)]
pub struct Greetings;

#[activities]
impl Greetings {
    /// Returns `Hello <name>!`.
    #[activity]
    pub async fn greet(_context: ActivityContext, name: String) -> Result<String, ActivityError> {
        Ok(format!("Hello {name}!"))
    }
}
