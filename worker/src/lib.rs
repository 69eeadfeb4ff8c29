//! The workflows and activities of this service, and the options of a worker that runs them.
//!
//! | what | file |
//! |---|---|
//! | the canary, which the smoke test starts | `canary.rs` |
//! | an example with signal, query, update, timer and heartbeat; replace it | `order.rs` |
//! | the process: connects, polls until it is told to stop, and shuts down gracefully | `main.rs` |

use temporalio_sdk::{WorkerOptions, WorkflowRegistrationError};

#[expect(missing_docs, reason = "the SDK's macros make constants without any")]
pub mod canary;
#[expect(missing_docs, reason = "the SDK's macros make constants without any")]
pub mod order;

/// The task queue of worker and starter, unless a flag or variable names another one.
pub const DEFAULT_TASK_QUEUE: &str = "hello";

/// The namespace of worker and starter, unless a flag or variable names another one.
pub const DEFAULT_NAMESPACE: &str = "default";

/// A worker of this task queue with every workflow and activity of the service.
///
/// # Errors
/// When a workflow type is registered twice.
pub fn options(task_queue: &str) -> Result<WorkerOptions, WorkflowRegistrationError> {
    Ok(WorkerOptions::new(task_queue)
        .register_workflow::<canary::HelloWorkflow>()?
        .register_activities(canary::Greetings)
        .register_workflow::<order::OrderWorkflow>()?
        .register_activities(order::Fulfilment {
            time_per_parcel: std::time::Duration::from_millis(200),
        })
        .build())
}
