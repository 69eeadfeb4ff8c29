//! What is to be done, in an order that a replay repeats.

use std::time::Duration;

use temporalio_macros::{workflow, workflow_methods};
use temporalio_sdk::{ActivityOptions, WorkflowContext, WorkflowResult};

use crate::activities::Greetings;

/// Greets somebody by name, through an activity.
#[workflow]
#[derive(Debug, Default)]
pub struct HelloWorkflow;

#[workflow_methods]
impl HelloWorkflow {
    /// Takes the name, and returns the greeting.
    #[run]
    pub async fn run(context: &mut WorkflowContext<Self>, name: String) -> WorkflowResult<String> {
        let options = ActivityOptions::start_to_close_timeout(Duration::from_secs(10));
        Ok(context
            .execute_activity(Greetings::greet, name, options)
            .await?)
    }
}
