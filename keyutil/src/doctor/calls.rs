//! Calls that change nothing: those that need no permission, those that show what is permitted,
//! and those that show who polls.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, SystemTime},
};

use temporalio_common::protos::{
    grpc::health::v1::{
        HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
    },
    temporal::api::{
        enums::v1::{TaskQueueType, WorkerStatus},
        taskqueue::v1::{PollerInfo, TaskQueue},
        worker::v1::WorkerListInfo,
        workflowservice::v1::{
            DescribeNamespaceRequest, DescribeTaskQueueRequest, GetSystemInfoRequest,
            ListWorkersRequest, RegisterNamespaceRequest, RespondWorkflowTaskCompletedRequest,
            StartWorkflowExecutionRequest, workflow_service_client::WorkflowServiceClient,
        },
    },
};
use tonic::{Code, Status, codec::CompressionEncoding, service::interceptor::InterceptedService};

use super::{LIMIT, Party, Report, when};
use crate::{
    ConnectError,
    connect::{Connection, accepts, explain_call, is_refusal},
    credentials::{Token, TokenSource},
    diagnosis::{Class, Diagnosis, Step},
    explain::{Explanation, Refusal, Sent},
    jwt::Role,
    transport::{AuthorizedChannel, Bearer, DialError, Phase, RotatingChannel},
};

/// What the health service knows a frontend by (`service/frontend/service.go`).
const FRONTEND: &str = "temporal.api.workflowservice.v1.WorkflowService";

/// How the task queues begin that the server's own workers poll.
const OF_THE_SERVER: &str = "temporal-sys-";

/// A server that can be called.
pub(super) struct Server {
    pub(super) channel: RotatingChannel,
    bearer: Bearer,
    namespace: String,
    limit: Duration,
    compression: Option<CompressionEncoding>,
}

/// What came of a call that takes permission.
pub(super) enum Probe {
    Accepted,
    /// The token is, and the namespace is not there.
    NoNamespace(ConnectError),
    Refused(Status),
    /// It was not sent, or not answered.
    Failed(ConnectError),
}

impl Server {
    pub(super) fn new(
        channel: RotatingChannel,
        token: Option<&TokenSource>,
        namespace: &str,
        limit: Duration,
    ) -> Self {
        Self {
            channel,
            bearer: Bearer::new(token.cloned()),
            namespace: namespace.to_owned(),
            limit,
            compression: None,
        }
    }

    /// The one that is connected to already.
    pub(super) fn of(connection: &Connection) -> Self {
        let observer = connection.observer();
        Self {
            channel: observer.channel().clone(),
            bearer: observer.bearer().clone(),
            namespace: observer.namespace().to_owned(),
            limit: LIMIT,
            compression: None,
        }
    }

    /// Messages are compressed, as those of worker and starter would be.
    pub(super) fn compressing(mut self, compression: Option<CompressionEncoding>) -> Self {
        self.compression = compression;
        self
    }

    /// `Health/Check` and `GetSystemInfo`, both without a token.
    pub(super) async fn answers(&self, report: &mut Report) {
        let mut health = HealthClient::new(self.channel.clone());
        let request = HealthCheckRequest {
            service: FRONTEND.to_owned(),
        };
        match self.within(health.check(request)).await {
            Ok(answer) if answer.get_ref().status() == ServingStatus::Serving => {}
            Ok(answer) => {
                return report.fail(Diagnosis {
                    step: Step::Grpc,
                    class: Class::Unreachable,
                    cause: format!(
                        "the server says of its health: `{}`",
                        answer.get_ref().status().as_str_name()
                    ),
                    hint: Some(
                        "wait: it is starting or stopping; if it stays so, see its log".to_owned(),
                    ),
                });
            }
            // Another implementation of the server may have none.
            Err(status) if status.code() == Code::Unimplemented => {}
            Err(status) => return report.fail(self.explain(status, Role::Read).diagnosis()),
        }
        let mut service = self.service_without_token();
        match self
            .within(service.get_system_info(GetSystemInfoRequest {}))
            .await
        {
            Ok(answer) => {
                let version = &answer.get_ref().server_version;
                report.ok(
                    Step::Grpc,
                    format!(
                        "healthy, and `GetSystemInfo` is answered without a token: server {version}"
                    ),
                );
            }
            // A proxy, or Temporal Cloud, may ask for the token here too.
            Err(status) if is_refusal(&status) => {
                report.ok(
                    Step::Grpc,
                    "healthy, and answers nothing without a token".to_owned(),
                );
            }
            Err(status) => report.fail(self.explain(status, Role::Read).diagnosis()),
        }
    }

    /// Asks for the namespace, which takes `read`.
    pub(super) async fn probe(&self) -> Probe {
        let mut service = self.service();
        let request = DescribeNamespaceRequest {
            namespace: self.namespace.clone(),
            ..Default::default()
        };
        match self.within(service.describe_namespace(request)).await {
            Ok(_) => Probe::Accepted,
            Err(status) if is_refusal(&status) => Probe::Refused(status),
            Err(status) => match self.explain(status, Role::Read) {
                error @ ConnectError::NoNamespace { .. } => Probe::NoNamespace(error),
                other => Probe::Failed(other),
            },
        }
    }

    /// Whether the server finds the token good, which one that it refuses may be all the same.
    pub(super) async fn accepts(&self, probe: &Probe) -> Option<bool> {
        match probe {
            Probe::Accepted | Probe::NoNamespace(_) => Some(true),
            Probe::Failed(_) => None,
            Probe::Refused(_) => {
                let asked = accepts(&self.channel, &self.bearer);
                tokio::time::timeout(self.limit, asked).await.ok().flatten()
            }
        }
    }

    /// Whether a call that everybody may make is answered with this token: a bad one spoils it.
    pub(super) async fn takes(&self, token: &Token) -> bool {
        let source = TokenSource::Fixed(token.clone());
        let mut service = self.service_with(Bearer::new(Some(source)));
        let answer = self.within(service.get_system_info(GetSystemInfoRequest {}));
        answer.await.is_ok()
    }

    /// Why a refusal that takes `read` came about, as far as can be told from this side.
    pub(super) fn why(&self, facts: &Facts<'_>) -> Explanation {
        let token = self.bearer.source().and_then(TokenSource::current);
        let refusal = Refusal {
            token: match token.as_ref().map(|token| (token, token.content())) {
                None => Sent::Nothing,
                Some((_, None)) => Sent::Opaque,
                Some((token, Some(content))) => Sent::Token(content, Some(token.text())),
            },
            namespace: &self.namespace,
            needed: Role::Read,
            key_set: facts.key_set,
            audience: facts.audience,
            accepted: facts.accepted,
        };
        refusal.explain(SystemTime::now())
    }

    /// What the token permits.
    pub(super) async fn permits(
        &self,
        report: &mut Report,
        role: Option<Party>,
        probe: Probe,
        why: Option<&Explanation>,
    ) -> bool {
        match probe {
            Probe::Accepted => {}
            Probe::NoNamespace(error) => {
                report.fail(error.diagnosis());
                return false;
            }
            Probe::Failed(error) => {
                let diagnosis = error.diagnosis();
                // What is said already need not be said again.
                if report.has_failed_at(&[diagnosis.step]) {
                    report.skip(Step::Permission, "the call was not answered: see above");
                } else {
                    report.fail(diagnosis);
                }
                return false;
            }
            Probe::Refused(status) => {
                self.refused(report, status, why);
                return false;
            }
        }
        let how = match self.bearer.source() {
            Some(_) => "",
            None => ", and no token was sent",
        };
        report.ok(
            Step::Permission,
            format!(
                "`DescribeNamespace` of `{}` is answered{how}",
                self.namespace
            ),
        );
        if self.bearer.source().is_some() && self.lets_everybody_in().await {
            report.warn(
                Step::Permission,
                "it is answered without a token, too: this server asks nobody for permission",
                "if that is not meant, set `authorizer: default` and `claimMapper: default` in \
                 `global.authorization` of the server",
            );
        }
        let Some(role) = role else {
            return true;
        };
        let (what, needed, answer) = self.try_as(role).await;
        match answer {
            Err(status) if is_refusal(&status) => {
                let token = self.bearer.source().and_then(TokenSource::current);
                let refusal = Refusal {
                    token: match token.as_ref().and_then(Token::content) {
                        Some(content) => Sent::Token(content, None),
                        None => Sent::Opaque,
                    },
                    namespace: &self.namespace,
                    needed,
                    key_set: None,
                    audience: None,
                    accepted: Some(true),
                };
                let explanation = refusal.explain(SystemTime::now());
                let mut diagnosis = self.refusal(status, explanation).diagnosis();
                diagnosis.cause = format!("the token does not do to {what}: {}", diagnosis.cause);
                report.fail(diagnosis);
                false
            }
            _ => {
                report.ok(Step::Permission, format!("the token does to {what}"));
                true
            }
        }
    }

    fn refused(&self, report: &mut Report, status: Status, why: Option<&Explanation>) {
        let Some(explanation) = why else {
            return;
        };
        let diagnosis = self.refusal(status, explanation.clone()).diagnosis();
        match explanation {
            Explanation::Perhaps(suspects) => {
                // What is the matter with the key set is told there; it may not be the cause.
                let others = if report.has_failed_at(&[Step::Jwks]) {
                    suspects
                        .iter()
                        .filter(|other| other.step != Step::Jwks)
                        .map(|other| format!("perhaps, too: {}", other.words))
                        .collect()
                } else {
                    report.fail(diagnosis);
                    Vec::new()
                };
                report.skip(Step::Permission, "not known: the token is not accepted");
                report.detail(others);
            }
            Explanation::Because(causes) => {
                // Those of the token and of the key set are told there.
                let here = [Step::Clock, Step::Permission];
                for cause in causes.iter().filter(|cause| here.contains(&cause.step)) {
                    report.fail(Diagnosis {
                        step: cause.step,
                        class: explanation.class(),
                        cause: cause.words.clone(),
                        hint: cause.hint.clone(),
                    });
                }
                if !report.has_failed_at(&[Step::Permission]) {
                    report.skip(Step::Permission, "not known: the token is not accepted");
                }
            }
        }
    }

    fn refusal(&self, status: Status, explanation: Explanation) -> ConnectError {
        ConnectError::Refused {
            target: self.channel.dial().target(),
            namespace: self.namespace.clone(),
            explanation,
            status,
        }
    }

    async fn lets_everybody_in(&self) -> bool {
        let mut service = self.service_without_token();
        let request = DescribeNamespaceRequest {
            namespace: self.namespace.clone(),
            ..Default::default()
        };
        self.within(service.describe_namespace(request))
            .await
            .is_ok()
    }

    /// A call of this program that lacks what it needs to have an effect: permission is looked for
    /// before the arguments are.
    async fn try_as(&self, role: Party) -> (&'static str, Role, Result<(), Status>) {
        let mut service = self.service();
        let namespace = self.namespace.clone();
        match role {
            Party::Starter => {
                let request = StartWorkflowExecutionRequest {
                    namespace,
                    ..Default::default()
                };
                let answer = self.within(service.start_workflow_execution(request)).await;
                ("start workflows", Role::Write, answer.map(drop))
            }
            Party::Worker => {
                let request = RespondWorkflowTaskCompletedRequest {
                    namespace,
                    ..Default::default()
                };
                let answer = service.respond_workflow_task_completed(request);
                let answer = self.within(answer).await;
                (
                    "poll for tasks and complete them",
                    Role::Write,
                    answer.map(drop),
                )
            }
            Party::Admin => {
                // Without a retention (`validateRetentionDuration`).
                let request = RegisterNamespaceRequest {
                    namespace,
                    ..Default::default()
                };
                let answer = self.within(service.register_namespace(request)).await;
                ("register the namespace", Role::Admin, answer.map(drop))
            }
        }
    }

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
                let last = last.map(|last| when(last, now)).unwrap_or_default();
                let shown = format!("{name:<10} {}, last at {last}", poller.identity);
                if has_ended(&workers, &poller.identity, task_queue) {
                    gone.push(format!("{shown}, and has ended"));
                } else {
                    here.push(shown);
                }
            }
        }
        if !here.is_empty() {
            report
                .ok(Step::TaskQueue, format!("somebody polls `{task_queue}`"))
                .details = here;
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

    fn service(&self) -> WorkflowServiceClient<AuthorizedChannel> {
        self.service_with(self.bearer.clone())
    }

    fn service_without_token(&self) -> WorkflowServiceClient<AuthorizedChannel> {
        self.service_with(Bearer::new(None))
    }

    fn service_with(&self, bearer: Bearer) -> WorkflowServiceClient<AuthorizedChannel> {
        let channel = InterceptedService::new(self.channel.clone(), bearer);
        let service = WorkflowServiceClient::new(channel);
        match self.compression {
            Some(method) => service.send_compressed(method).accept_compressed(method),
            None => service,
        }
    }

    fn explain(&self, status: Status, needed: Role) -> ConnectError {
        explain_call(
            &self.channel,
            &self.bearer,
            status,
            &self.namespace,
            needed,
            None,
        )
    }

    async fn within<T>(&self, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        let late = || {
            let error = DialError::TimedOut {
                phase: Phase::Answer,
                after: self.limit,
            };
            let mut status = Status::deadline_exceeded(error.to_string());
            status.set_source(Arc::new(error));
            Err(status)
        };
        tokio::time::timeout(self.limit, call)
            .await
            .unwrap_or_else(|_| late())
    }
}

/// What is known of the server beside its answers.
pub(super) struct Facts<'a> {
    pub(super) key_set: Option<&'a [u8]>,
    pub(super) audience: Option<&'a str>,
    pub(super) accepted: Option<bool>,
}

/// The server names a poller for some minutes after its last poll.
fn has_ended(workers: &[WorkerListInfo], identity: &str, task_queue: &str) -> bool {
    let mut of_it = workers
        .iter()
        .filter(|worker| worker.worker_identity == identity && worker.task_queue == task_queue)
        .peekable();
    of_it.peek().is_some() && of_it.all(is_ending)
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
