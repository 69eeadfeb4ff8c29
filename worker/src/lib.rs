//! The hello workflow, its activity, and the worker that runs them.
//!
//! | what | file |
//! |---|---|
//! | the workflow: deterministic, replayed from its history | `workflows.rs` |
//! | the activity: where the outside world may be touched | `activities.rs` |
//! | what the SDK counts, for the health endpoint | `metrics.rs` |
//! | the worker: polls until it is told to stop, and then stops in order | `run.rs` |

#[expect(missing_docs, reason = "the SDK's macros make constants without any")]
pub mod activities;
mod metrics;
mod run;
#[expect(missing_docs, reason = "the SDK's macros make constants without any")]
pub mod workflows;

pub use metrics::{MetricsError, SdkMetrics};
pub use run::{RunError, WorkerSettings, run};

/// The task queue that worker and starter meet at, unless told otherwise.
pub const DEFAULT_TASK_QUEUE: &str = "hello";
