//! Calls that need no permission, and the smallest call that needs one.

use std::time::SystemTime;

use keyutil::{
    connect::{ConnectError, Session},
    credentials::{Token, TokenSource},
    diagnosis::{Class, Diagnose, Diagnosis, Step},
    explain::{Explanation, KeySetCheck, Refusal, Sent, TokenVerdict},
    probe::is_refusal,
    token::Role,
};
use temporalio_common::protos::grpc::health::v1::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic::{Code, Status};

use super::Report;
use crate::keys::verify::verify;

/// What the health service knows a frontend by (`service/frontend/service.go`).
const FRONTEND: &str = "temporal.api.workflowservice.v1.WorkflowService";

/// `Health/Check` and `GetSystemInfo`, both without a token.
pub(super) async fn answers(session: &Session, report: &mut Report) {
    let mut health = HealthClient::new(session.channel().clone());
    let request = HealthCheckRequest {
        service: FRONTEND.to_owned(),
    };
    match session.limited(health.check(request)).await {
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
        Err(status) => return report.fail(session.explain(status, Role::Read).diagnosis()),
    }
    match session.with_token(None).system_info().await {
        Ok(info) => {
            let version = &info.server_version;
            report.ok(
                Step::Grpc,
                format!(
                    "healthy, and `GetSystemInfo` is answered without a token: server {version}"
                ),
            );
        }
        // A proxy, or Temporal Cloud, may ask for the token here too.
        Err(status) if is_refusal(&status) => {
            report.ok(Step::Grpc, "healthy, and answers nothing without a token");
        }
        Err(status) => report.fail(session.explain(status, Role::Read).diagnosis()),
    }
}

/// What came of a call that takes permission.
pub(super) enum Probe {
    Accepted,
    /// The token is accepted, and the namespace does not exist.
    NoNamespace(ConnectError),
    Refused(Status),
    /// The call was not sent, or not answered.
    Failed(ConnectError),
}

impl Probe {
    /// Asks for the namespace, which takes `read`.
    pub(super) async fn of(session: &Session) -> Self {
        match session.describe_namespace().await {
            Ok(()) => Self::Accepted,
            Err(status) if is_refusal(&status) => Self::Refused(status),
            Err(status) => match session.explain(status, Role::Read) {
                error @ ConnectError::NoNamespace { .. } => Self::NoNamespace(error),
                other => Self::Failed(other),
            },
        }
    }

    /// Whether the server accepts the token, which may permit too little all the same.
    pub(super) async fn verdict(&self, session: &Session) -> TokenVerdict {
        match self {
            Self::Accepted | Self::NoNamespace(_) => TokenVerdict::Accepted,
            Self::Failed(_) => TokenVerdict::Unknown,
            Self::Refused(_) => session.token_verdict().await,
        }
    }
}

/// Whether a call that takes no permission is answered with this token: a bad one spoils it.
/// `None`, where that cannot be learnt.
pub(super) async fn takes(session: &Session, token: &Token) -> Option<bool> {
    let session = session.with_token(Some(TokenSource::Fixed(token.clone())));
    match session.system_info().await {
        Ok(_) => Some(true),
        Err(status) => is_refusal(&status).then_some(false),
    }
}

/// What is known of the server beside its answers.
pub(super) struct Facts<'a> {
    pub(super) key_set: Option<&'a [u8]>,
    pub(super) key_is_new: bool,
    pub(super) audience: Option<&'a str>,
    pub(super) verdict: TokenVerdict,
}

/// Why a call that takes `read` was refused, as far as can be told from this side.
pub(super) fn why(session: &Session, facts: &Facts<'_>) -> Explanation {
    let token = session.token_source().and_then(TokenSource::current);
    let refused_by_the_key_set = match (&token, facts.key_set) {
        // Times and audience are told by the other checks, in more words.
        (Some(token), Some(key_set)) => verify(token.text(), key_set, None)
            .err()
            .and_then(|error| error.of_the_key_set()),
        _ => None,
    };
    let refusal = Refusal {
        token: Sent::of(token.as_ref().map(Token::content)),
        namespace: session.namespace(),
        needed: Role::Read,
        key_set: match (&refused_by_the_key_set, facts.key_set) {
            (Some(refused), _) => KeySetCheck::Refuses(refused),
            (None, Some(_)) => KeySetCheck::Verifies,
            (None, None) => KeySetCheck::Unknown,
        },
        key_is_new: facts.key_is_new,
        audience: facts.audience,
        verdict: facts.verdict,
    };
    refusal.explain(SystemTime::now())
}
