//! Who polls the task queue.

use std::time::{Duration, SystemTime};

use temporalio_common::protos::temporal::api::{
    enums::v1::{TaskQueueType, WorkerStatus},
    taskqueue::v1::{PollerInfo, TaskQueue},
    worker::v1::WorkerListInfo,
    workflowservice::v1::{DescribeTaskQueueRequest, ListWorkersRequest},
};
use tonic::Status;

use super::{Party, Report, server::Server, when};
use keyutil::{
    diagnosis::{Class, Diagnose, Diagnosis, Step},
    token::Role,
};

/// How the task queues begin that the server's own workers poll.
const OF_THE_SERVER: &str = "temporal-sys-";

/// A poll is answered after a minute at the latest (the server's
/// `matching.longPollExpirationInterval`), and the next one follows. As much again is for clocks that
/// differ, since the times are the server's.
const POLLS_AGAIN_WITHIN: Duration = Duration::from_secs(120);

impl Server {
    /// Who polls the task queue, and since when.
    pub(super) async fn is_polled(
        &self,
        report: &mut Report,
        role: Option<Party>,
        task_queue: &str,
    ) {
        let now = SystemTime::now();
        let workers = self.workers().await;
        let (mut here, mut gone) = (Vec::new(), Vec::new());
        for (type_, name) in [
            (TaskQueueType::Workflow, "workflows"),
            (TaskQueueType::Activity, "activities"),
        ] {
            let pollers = match self.pollers(task_queue, type_).await {
                Ok(pollers) => pollers,
                Err(status) => {
                    return report.fail(self.explain(status, Role::Read).diagnosis());
                }
            };
            for poller in pollers {
                let last = poller
                    .last_access_time
                    .and_then(|time| SystemTime::try_from(time).ok());
                let silent = last.is_some_and(|last| is_silent(last, now));
                let last = last.map(|last| when(last, now)).unwrap_or_default();
                let shown = format!("{name:<10} {}, last at {last}", poller.identity);
                if has_ended(&workers, &poller.identity, task_queue) {
                    gone.push(format!("{shown}, and has ended"));
                } else if silent {
                    gone.push(format!("{shown}, and not since: it is gone, or cut off"));
                } else {
                    here.push(shown);
                }
            }
        }
        if !here.is_empty() {
            report.ok(Step::TaskQueue, format!("somebody polls `{task_queue}`"));
            report.detail(here);
            return;
        }
        let others = other_queues(&workers, task_queue);
        let seen = format!("nobody polls the task queue `{task_queue}`{others}");
        let hint = format!(
            "start a worker with `--task-queue {task_queue}` and `--namespace {}`, or compare both \
             with those of the worker that runs; names are compared letter by letter",
            self.namespace
        );
        match role {
            Some(Party::Starter) => report.fail(Diagnosis {
                step: Step::TaskQueue,
                class: Class::TaskQueue,
                cause: seen,
                hint: Some(hint),
            }),
            Some(Party::Worker | Party::Admin) => {
                report.ok(Step::TaskQueue, seen);
            }
            None => report.warn(Step::TaskQueue, seen, hint),
        }
        report.detail(gone);
    }

    async fn pollers(
        &self,
        task_queue: &str,
        type_: TaskQueueType,
    ) -> Result<Vec<PollerInfo>, Status> {
        let request = DescribeTaskQueueRequest {
            namespace: self.namespace.clone(),
            task_queue: Some(TaskQueue {
                name: task_queue.to_owned(),
                ..Default::default()
            }),
            task_queue_type: type_.into(),
            ..Default::default()
        };
        let mut service = self.service();
        let answer = self.within(service.describe_task_queue(request)).await?;
        Ok(answer.into_inner().pollers)
    }

    /// Workers tell the server of themselves, and of the task queue that they poll; those of older
    /// SDKs do not.
    async fn workers(&self) -> Vec<WorkerListInfo> {
        let request = ListWorkersRequest {
            namespace: self.namespace.clone(),
            page_size: 100,
            ..Default::default()
        };
        let mut service = self.service();
        let answer = self.within(service.list_workers(request)).await;
        answer.map_or_else(|_| Vec::new(), |answer| answer.into_inner().workers)
    }
}

/// The server names a poller for some minutes after its last poll.
fn has_ended(workers: &[WorkerListInfo], identity: &str, task_queue: &str) -> bool {
    let mut of_it = workers
        .iter()
        .filter(|worker| worker.worker_identity == identity && worker.task_queue == task_queue)
        .peekable();
    of_it.peek().is_some() && of_it.all(is_ending)
}

/// A worker that was killed tells nobody.
fn is_silent(last: SystemTime, now: SystemTime) -> bool {
    now.duration_since(last)
        .is_ok_and(|since| since > POLLS_AGAIN_WITHIN)
}

/// `ShuttingDown` is the last that the Rust SDK says.
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
        format!("; in the last minutes workers of this namespace have polled `{queues}`")
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
