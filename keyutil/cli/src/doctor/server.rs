//! A server that can be called, and the smallest call that takes permission.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, SystemTime},
};

use temporalio_common::protos::temporal::api::workflowservice::v1::{
    DescribeNamespaceRequest, GetSystemInfoRequest, workflow_service_client::WorkflowServiceClient,
};
use tonic::{Status, codec::CompressionEncoding, service::interceptor::InterceptedService};

use keyutil::{
    connect::{ConnectError, Connection, explain_call, verdict},
    credentials::{Token, TokenSource},
    explain::{Explanation, KeySetCheck, Refusal, Sent, TokenVerdict},
    token::Role,
    transport::{
        AuthInterceptor, AuthorizedChannel, ConnectorError, Phase, RotatingChannel, is_refusal,
    },
};

use crate::keys::verify::verify;

/// A server that can be called.
pub(super) struct Server {
    pub(super) channel: RotatingChannel,
    pub(super) interceptor: AuthInterceptor,
    pub(super) namespace: String,
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
            interceptor: AuthInterceptor::new(token.cloned()),
            namespace: namespace.to_owned(),
            limit,
            compression: None,
        }
    }

    /// The one that is connected to already.
    pub(super) fn of(connection: &Connection, limit: Duration) -> Self {
        let observer = connection.observer();
        Self {
            channel: observer.channel().clone(),
            interceptor: observer.interceptor().clone(),
            namespace: observer.namespace().to_owned(),
            limit,
            compression: None,
        }
    }

    /// Messages are compressed, as those of worker and starter would be.
    pub(super) fn compressing(mut self, compression: Option<CompressionEncoding>) -> Self {
        self.compression = compression;
        self
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
    pub(super) async fn verdict(&self, probe: &Probe) -> TokenVerdict {
        match probe {
            Probe::Accepted | Probe::NoNamespace(_) => TokenVerdict::Accepted,
            Probe::Failed(_) => TokenVerdict::Unknown,
            Probe::Refused(_) => {
                let asked = verdict(&self.channel, &self.interceptor);
                tokio::time::timeout(self.limit, asked)
                    .await
                    .unwrap_or_default()
            }
        }
    }

    /// Whether a call that everybody may make is answered with this token: a bad one spoils it.
    /// Nothing, where that cannot be learnt.
    pub(super) async fn takes(&self, token: &Token) -> Option<bool> {
        let source = TokenSource::Fixed(token.clone());
        let mut service = self.service_with(AuthInterceptor::new(Some(source)));
        let answer = self.within(service.get_system_info(GetSystemInfoRequest {}));
        match answer.await {
            Ok(_) => Some(true),
            Err(status) => is_refusal(&status).then_some(false),
        }
    }

    /// Why a refusal that takes `read` came about, as far as can be told from this side.
    pub(super) fn why(&self, facts: &Facts<'_>) -> Explanation {
        let token = self.interceptor.source().and_then(TokenSource::current);
        let refused_by_the_key_set = match (&token, facts.key_set) {
            // Times and audience are told by the other checks, in more words.
            (Some(token), Some(key_set)) => verify(token.text(), key_set, None)
                .err()
                .and_then(|error| error.of_the_key_set()),
            _ => None,
        };
        let refusal = Refusal {
            token: match token.as_ref().map(Token::content) {
                None => Sent::Nothing,
                Some(None) => Sent::Opaque,
                Some(Some(content)) => Sent::Token(content),
            },
            namespace: &self.namespace,
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

    pub(super) fn service(&self) -> WorkflowServiceClient<AuthorizedChannel> {
        self.service_with(self.interceptor.clone())
    }

    pub(super) fn service_without_token(&self) -> WorkflowServiceClient<AuthorizedChannel> {
        self.service_with(AuthInterceptor::new(None))
    }

    pub(super) fn service_with(
        &self,
        interceptor: AuthInterceptor,
    ) -> WorkflowServiceClient<AuthorizedChannel> {
        let channel = InterceptedService::new(self.channel.clone(), interceptor);
        let service = WorkflowServiceClient::new(channel);
        match self.compression {
            Some(method) => service.send_compressed(method).accept_compressed(method),
            None => service,
        }
    }

    pub(super) fn explain(&self, status: Status, needed: Role) -> ConnectError {
        explain_call(
            &self.channel,
            &self.interceptor,
            status,
            &self.namespace,
            needed,
            TokenVerdict::Unknown,
        )
    }

    pub(super) async fn within<T>(
        &self,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let late = || {
            let error = ConnectorError::TimedOut {
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
    pub(super) key_is_new: bool,
    pub(super) audience: Option<&'a str>,
    pub(super) verdict: TokenVerdict,
}
