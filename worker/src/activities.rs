//! What the workflow does in the outside world.

use temporalio_macros::activities;
use temporalio_sdk::activities::{ActivityContext, ActivityError};

/// The activities of the hello workflow.
#[derive(Debug)]
pub struct Greetings;

#[activities]
impl Greetings {
    /// Greets somebody by name.
    #[activity]
    pub async fn greet(_context: ActivityContext, name: String) -> Result<String, ActivityError> {
        Ok(greeting(&name))
    }
}

/// The greeting itself, without anything of Temporal around it.
pub fn greeting(name: &str) -> String {
    format!("Hello {name}!")
}
