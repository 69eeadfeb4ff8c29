//! Calls that need no permission.

use temporalio_common::protos::{
    grpc::health::v1::{
        HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
    },
    temporal::api::workflowservice::v1::GetSystemInfoRequest,
};
use tonic::Code;

use super::{Report, server::Server};
use keyutil::{
    diagnosis::{Class, Diagnose, Diagnosis, Step},
    token::Role,
    transport::is_refusal,
};

/// What the health service knows a frontend by (`service/frontend/service.go`).
const FRONTEND: &str = "temporal.api.workflowservice.v1.WorkflowService";

impl Server {
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
}
