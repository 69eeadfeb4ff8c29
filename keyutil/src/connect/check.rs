//! Checks of what a program needs beyond a connection: permission for its calls, and a worker that
//! polls the task queue. The checks start and change nothing.

use std::time::{Duration, SystemTime};

use temporalio_common::protos::temporal::api::{
    enums::v1::{TaskQueueType, WorkerStatus},
    taskqueue::v1::{PollerInfo, TaskQueue},
    worker::v1::WorkerListInfo,
    workflowservice::v1::{
        DescribeTaskQueueRequest, ListWorkersRequest, RegisterNamespaceRequest,
        RespondWorkflowTaskCompletedRequest, StartWorkflowExecutionRequest,
    },
};
use tonic::{Code, Status};

use super::{Connection, Session};
use crate::{
    base::{text::fit, time::when},
    diagnosis::{Class, Diagnose, Diagnosis, Step},
    explain::TokenVerdict,
    token::Role,
    transport::is_refusal,
};

/// The kind of program whose permissions are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// Starts workflows, and needs a worker that polls the task queue.
    Starter,
    /// Polls the task queue.
    Worker,
    /// Registers namespaces.
    Admin,
}

impl Program {
    /// What the program does, as in "the token is sufficient to …".
    pub fn purpose(self) -> &'static str {
        match self {
            Self::Starter => "start workflows",
            Self::Worker => "poll for tasks and complete them",
            Self::Admin => "register the namespace",
        }
    }

    /// The role that its calls require, by `common/api/metadata.go` of the server.
    pub fn needs(self) -> Role {
        match self {
            Self::Starter | Self::Worker => Role::Write,
            Self::Admin => Role::Admin,
        }
    }
}

/// The longest time that one call of a check takes.
pub const CALL_LIMIT: Duration = Duration::from_secs(5);

/// Checks that workflows may be started, and that a worker polls the task queue. Each call takes at
/// most `limit` and [`CALL_LIMIT`].
///
/// # Errors
/// The diagnosis of the first check that fails.
pub async fn ready_to_start(
    connection: &Connection,
    task_queue: &str,
    limit: Duration,
) -> Result<(), Diagnosis> {
    let session = connection.session().within(limit.min(CALL_LIMIT));
    let ready = async {
        session.permits(Program::Starter).await?;
        session.check_polled(task_queue).await
    };
    ready.await.map_err(printable)
}

/// Checks that a worker polls the task queue. Each call takes at most `limit` and [`CALL_LIMIT`].
///
/// # Errors
/// The diagnosis.
pub async fn polled(
    connection: &Connection,
    task_queue: &str,
    limit: Duration,
) -> Result<(), Diagnosis> {
    let session = connection.session().within(limit.min(CALL_LIMIT));
    session.check_polled(task_queue).await.map_err(printable)
}

/// The text may contain parts of a server's answer, of a token, or of a poller's identity.
fn printable(diagnosis: Diagnosis) -> Diagnosis {
    Diagnosis {
        cause: fit(&diagnosis.cause),
        hint: diagnosis.hint.as_deref().map(fit),
        ..diagnosis
    }
}

impl Session {
    /// Checks that the token permits the calls of this program. The test call omits required
    /// arguments and changes nothing: the server checks the permission before the arguments.
    ///
    /// # Errors
    /// The diagnosis of the refusal, or of another failure of the call.
    pub async fn permits(&self, program: Program) -> Result<(), Diagnosis> {
        match self.attempt_as(program).await {
            Err(status) if is_refusal(&status) => {
                let refused = self.explain_with(status, program.needs(), TokenVerdict::Accepted);
                let diagnosis = refused.diagnosis();
                Err(Diagnosis {
                    cause: format!(
                        "the token is not sufficient to {}: {}",
                        program.purpose(),
                        diagnosis.cause
                    ),
                    ..diagnosis
                })
            }
            // `InvalidArgument` means that the permission check has passed.
            Err(status) if status.code() != Code::InvalidArgument => {
                Err(self.explain(status, program.needs()).diagnosis())
            }
            _ => Ok(()),
        }
    }

    async fn attempt_as(&self, program: Program) -> Result<(), Status> {
        let mut service = self.service();
        let namespace = self.namespace().to_owned();
        match program {
            Program::Starter => {
                let request = StartWorkflowExecutionRequest {
                    namespace,
                    ..Default::default()
                };
                let answer = self.limited(service.start_workflow_execution(request));
                answer.await.map(drop)
            }
            Program::Worker => {
                let request = RespondWorkflowTaskCompletedRequest {
                    namespace,
                    ..Default::default()
                };
                let answer = self.limited(service.respond_workflow_task_completed(request));
                answer.await.map(drop)
            }
            Program::Admin => {
                // The missing retention is refused (`validateRetentionDuration`).
                let request = RegisterNamespaceRequest {
                    namespace,
                    ..Default::default()
                };
                let answer = self.limited(service.register_namespace(request));
                answer.await.map(drop)
            }
        }
    }

    async fn check_polled(&self, task_queue: &str) -> Result<(), Diagnosis> {
        let pollers = self.pollers(task_queue).await?;
        match pollers.unpolled {
            None => Ok(()),
            Some(unpolled) => Err(unpolled),
        }
    }

    /// The pollers of the task queue, with the time of their last poll.
    ///
    /// # Errors
    /// The diagnosis of a call that failed.
    pub async fn pollers(&self, task_queue: &str) -> Result<Pollers, Diagnosis> {
        let now = SystemTime::now();
        let workers = self.workers().await;
        let (mut polling, mut gone) = (Vec::new(), Vec::new());
        for (type_, name) in [
            (TaskQueueType::Workflow, "workflows"),
            (TaskQueueType::Activity, "activities"),
        ] {
            let pollers = self.pollers_of(task_queue, type_).await;
            let pollers = pollers.map_err(|status| self.explain(status, Role::Read).diagnosis())?;
            for poller in pollers {
                let last = poller
                    .last_access_time
                    .and_then(|time| SystemTime::try_from(time).ok());
                let silent = last.is_some_and(|last| is_silent(last, now));
                let last = last.map(|last| when(last, now)).unwrap_or_default();
                let shown = format!("{name:<10} {}, last at {last}", poller.identity);
                if has_ended(&workers, &poller.identity, task_queue) {
                    gone.push(format!("{shown} (the worker has shut down)"));
                } else if silent {
                    gone.push(format!(
                        "{shown} (no poll since: the worker is gone or disconnected)"
                    ));
                } else {
                    polling.push(shown);
                }
            }
        }
        let unpolled = polling.is_empty().then(|| Diagnosis {
            step: Step::TaskQueue,
            class: Class::TaskQueue,
            cause: format!(
                "no worker polls the task queue `{task_queue}`{}",
                other_queues(&workers, task_queue)
            ),
            hint: Some(format!(
                "start a worker with `--task-queue {task_queue}` and `--namespace {}`, or compare \
                 both with those of the running worker; names are case-sensitive",
                self.namespace()
            )),
        });
        Ok(Pollers {
            polling,
            gone,
            unpolled,
        })
    }

    async fn pollers_of(
        &self,
        task_queue: &str,
        type_: TaskQueueType,
    ) -> Result<Vec<PollerInfo>, Status> {
        let request = DescribeTaskQueueRequest {
            namespace: self.namespace().to_owned(),
            task_queue: Some(TaskQueue {
                name: task_queue.to_owned(),
                ..Default::default()
            }),
            task_queue_type: type_.into(),
            ..Default::default()
        };
        let mut service = self.service();
        let answer = self.limited(service.describe_task_queue(request)).await?;
        Ok(answer.into_inner().pollers)
    }

    /// The workers that report themselves to the server. Older SDKs do not.
    async fn workers(&self) -> Vec<WorkerListInfo> {
        let request = ListWorkersRequest {
            namespace: self.namespace().to_owned(),
            page_size: 100,
            ..Default::default()
        };
        let mut service = self.service();
        let answer = self.limited(service.list_workers(request)).await;
        answer.map_or_else(|_| Vec::new(), |answer| answer.into_inner().workers)
    }
}

/// The pollers of a task queue, one line for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pollers {
    /// The active pollers.
    pub polling: Vec<String>,
    /// The pollers that the server still lists, but that have shut down or not polled for two
    /// minutes.
    pub gone: Vec<String>,
    /// The diagnosis, if no worker polls.
    pub unpolled: Option<Diagnosis>,
}

/// Prefix of the task queues that the server's own workers poll.
const OF_THE_SERVER: &str = "temporal-sys-";

/// A poll is answered after at most a minute (the server's `matching.longPollExpirationInterval`),
/// and the next one follows. Another minute allows for a difference of the clocks, because the times
/// are the server's.
const POLLS_AGAIN_WITHIN: Duration = Duration::from_secs(120);

/// The server lists a poller for some minutes after its last poll.
fn has_ended(workers: &[WorkerListInfo], identity: &str, task_queue: &str) -> bool {
    let mut matching = workers
        .iter()
        .filter(|worker| worker.worker_identity == identity && worker.task_queue == task_queue)
        .peekable();
    matching.peek().is_some() && matching.all(is_ending)
}

/// A worker that was killed does not report its end to the server.
fn is_silent(last: SystemTime, now: SystemTime) -> bool {
    now.duration_since(last)
        .is_ok_and(|since| since > POLLS_AGAIN_WITHIN)
}

/// `ShuttingDown` is the last status that the Rust SDK reports.
fn is_ending(worker: &WorkerListInfo) -> bool {
    matches!(
        worker.status(),
        WorkerStatus::ShuttingDown | WorkerStatus::Shutdown
    )
}

fn other_queues(workers: &[WorkerListInfo], than: &str) -> String {
    let mut queues: Vec<_> = workers
        .iter()
        .filter(|worker| !is_ending(worker))
        .map(|worker| &worker.task_queue[..])
        .filter(|queue| *queue != than && !queue.starts_with(OF_THE_SERVER))
        .collect();
    queues.sort_unstable();
    queues.dedup();
    if queues.is_empty() {
        String::new()
    } else {
        let queues = queues.join("`, `");
        format!("; workers of this namespace recently polled `{queues}`")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_has_not_polled_for_longer_than_a_poll_takes_is_silent() {
        let last = SystemTime::now();
        let after = |seconds| is_silent(last, last + Duration::from_secs(seconds));
        assert!(!after(61) && !after(120));
        assert!(after(121));
        assert!(!is_silent(last + Duration::from_secs(300), last), "a clock");
    }
}
