//! The hello workflow and its activity, and what a worker that runs them is made of.
//!
//! | what | file |
//! |---|---|
//! | the workflow: deterministic, replayed from its history | `workflows.rs` |
//! | the activity: where the outside world may be touched | `activities.rs` |
//! | the process: connects, polls until it is told to stop, and stops in order | `main.rs` |

use temporalio_sdk::{WorkerOptions, WorkflowRegistrationError};

#[expect(missing_docs, reason = "the SDK's macros make constants without any")]
pub mod activities;
#[expect(missing_docs, reason = "the SDK's macros make constants without any")]
pub mod workflows;

/// The task queue that worker and starter meet at, unless told otherwise.
pub const DEFAULT_TASK_QUEUE: &str = "hello";

/// A worker of this task queue with the workflow and its activity.
///
/// # Errors
/// When a workflow type is registered twice.
pub fn options(task_queue: &str) -> Result<WorkerOptions, WorkflowRegistrationError> {
    Ok(WorkerOptions::new(task_queue)
        .register_workflow::<workflows::HelloWorkflow>()?
        .register_activities(activities::Greetings)
        .build())
}
