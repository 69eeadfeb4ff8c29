//! What the token permits.

use std::time::SystemTime;

use temporalio_common::protos::temporal::api::workflowservice::v1::{
    DescribeNamespaceRequest, RegisterNamespaceRequest, RespondWorkflowTaskCompletedRequest,
    StartWorkflowExecutionRequest,
};
use tonic::{Code, Status};

use super::{
    Party, Report,
    server::{Probe, Server},
};
use keyutil::{
    connect::ConnectError,
    credentials::{Token, TokenSource},
    diagnosis::{Diagnose, Step},
    explain::{Explanation, KeySetCheck, Refusal, Sent, TokenVerdict},
    token::Role,
    transport::is_refusal,
};

impl Server {
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
        let how = match self.interceptor.source() {
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
        if self.interceptor.source().is_some() && self.lets_everybody_in().await {
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
                let token = self.interceptor.source().and_then(TokenSource::current);
                let refusal = Refusal {
                    token: match token.as_ref().and_then(Token::content) {
                        Some(content) => Sent::Token(content),
                        None => Sent::Opaque,
                    },
                    namespace: &self.namespace,
                    needed,
                    key_set: KeySetCheck::Unknown,
                    key_is_new: false,
                    audience: None,
                    verdict: TokenVerdict::Accepted,
                };
                let explanation = refusal.explain(SystemTime::now());
                let mut diagnosis = self.refusal(status, explanation).diagnosis();
                diagnosis.cause =
                    format!("the token does not suffice to {what}: {}", diagnosis.cause);
                report.fail(diagnosis);
                false
            }
            // Permission was found, and then what the call lacks.
            Err(status) if status.code() != Code::InvalidArgument => {
                report.fail(self.explain(status, needed).diagnosis());
                false
            }
            _ => {
                report.ok(Step::Permission, format!("the token suffices to {what}"));
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
            Explanation::Possible(suspects) => {
                // What is the matter with the key set is told there; it may not be the cause.
                let others = if report.has_failed_at(&[Step::Jwks]) {
                    suspects
                        .iter()
                        .filter(|other| other.step != Step::Jwks)
                        .map(|other| format!("perhaps, too: {}", other.cause))
                        .collect()
                } else {
                    report.fail(diagnosis);
                    Vec::new()
                };
                report.skip(Step::Permission, "not known: the token is not accepted");
                report.detail(others);
            }
            Explanation::Certain(causes) => {
                // Those of the token and of the key set are told there.
                let here = [Step::Clock, Step::Permission];
                for cause in causes.iter().filter(|cause| here.contains(&cause.step)) {
                    report.fail(cause.clone());
                }
                if !report.has_failed_at(&[Step::Permission]) {
                    report.skip(Step::Permission, "not known: the token is not accepted");
                }
            }
        }
    }

    fn refusal(&self, status: Status, explanation: Explanation) -> ConnectError {
        ConnectError::Refused {
            target: self.channel.connector().target(),
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
}
