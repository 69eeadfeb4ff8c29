//! Authorized calls in one namespace, and the explanation of those that fail.
//!
//! The explanation combines the status of the call, the connection log and the content of the
//! token.

use std::{
    error::Error,
    future::Future,
    sync::Arc,
    time::{Duration, SystemTime},
};

use temporalio_common::protos::temporal::api::workflowservice::v1::{
    DescribeNamespaceRequest, GetSystemInfoRequest, GetSystemInfoResponse,
    workflow_service_client::WorkflowServiceClient,
};
use tokio_rustls::rustls::AlertDescription;
use tonic::{Code, Status, codec::CompressionEncoding, service::interceptor::InterceptedService};

use super::ConnectError;
use crate::{
    base::{causes, time::rfc3339},
    credentials::{Credential, Identity, Token, TokenSource},
    explain::{Explanation, KeySetCheck, Refusal, Sent, TokenVerdict},
    token::Role,
    transport::{
        AuthInterceptor, AuthorizedChannel, ConnectStage, Connector, ConnectorError, LocalCause,
        PeerInfo, RotatingChannel, Security, TlsCredentials, is_refusal,
    },
};

/// A channel, a token source and a namespace. Clones share the connection and the token.
#[derive(Clone, Debug)]
pub struct Session {
    channel: RotatingChannel,
    interceptor: AuthInterceptor,
    namespace: Arc<str>,
    compression: Option<CompressionEncoding>,
    limit: Option<Duration>,
}

impl Session {
    /// Makes a session. Without a token source, calls have no token.
    pub fn new(
        channel: RotatingChannel,
        token: Option<TokenSource>,
        namespace: &str,
        compression: Option<CompressionEncoding>,
    ) -> Self {
        Self {
            channel,
            interceptor: AuthInterceptor::new(token),
            namespace: namespace.into(),
            compression,
            limit: None,
        }
    }

    /// The same with tokens from another source, or without any.
    #[must_use]
    pub fn with_token(&self, token: Option<TokenSource>) -> Self {
        Self {
            interceptor: AuthInterceptor::new(token),
            ..self.clone()
        }
    }

    /// The same, with each call of [`Session::limited`] given up after `limit`.
    #[must_use]
    pub fn within(&self, limit: Duration) -> Self {
        Self {
            limit: Some(limit),
            ..self.clone()
        }
    }

    /// The channel below the interceptor: calls on it bear no token.
    pub fn channel(&self) -> &RotatingChannel {
        &self.channel
    }

    /// The channel that adds a token to each call.
    pub fn authorized_channel(&self) -> AuthorizedChannel {
        InterceptedService::new(self.channel.clone(), self.interceptor.clone())
    }

    /// The connector of the channel, with the log of its connections.
    pub fn connector(&self) -> &Connector {
        self.channel.connector()
    }

    /// `host:port` of the server.
    pub fn target(&self) -> String {
        self.connector().target()
    }

    /// The namespace of the calls.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The compression of messages.
    pub fn compression(&self) -> Option<CompressionEncoding> {
        self.compression
    }

    /// The source of the tokens, if tokens are sent.
    pub fn token_source(&self) -> Option<&TokenSource> {
        self.interceptor.source()
    }

    /// Temporal's workflow service.
    pub fn service(&self) -> WorkflowServiceClient<AuthorizedChannel> {
        let service = WorkflowServiceClient::new(self.authorized_channel());
        match self.compression {
            Some(method) => service.send_compressed(method).accept_compressed(method),
            None => service,
        }
    }

    /// Waits for the answer to a call, up to the limit of [`Session::within`].
    ///
    /// # Errors
    /// The status of the answer, or `DEADLINE_EXCEEDED`.
    pub async fn limited<T>(
        &self,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let Some(limit) = self.limit else {
            return call.await;
        };
        let late = || {
            let error = ConnectorError::TimedOut {
                stage: ConnectStage::Answer,
                after: limit,
            };
            let mut status = Status::deadline_exceeded(error.to_string());
            status.set_source(Arc::new(error));
            Err(status)
        };
        tokio::time::timeout(limit, call)
            .await
            .unwrap_or_else(|_| late())
    }

    /// `GetSystemInfo`, which requires no permission.
    ///
    /// # Errors
    /// The status of the answer. The server rejects an invalid token even for this call.
    pub async fn system_info(&self) -> Result<GetSystemInfoResponse, Status> {
        let mut service = self.service();
        let answer = self.limited(service.get_system_info(GetSystemInfoRequest {}));
        Ok(answer.await?.into_inner())
    }

    /// `DescribeNamespace` of the session's namespace: the smallest call that requires a
    /// permission, `<namespace>:read`.
    ///
    /// # Errors
    /// The status of the answer.
    pub async fn describe_namespace(&self) -> Result<(), Status> {
        let request = DescribeNamespaceRequest {
            namespace: self.namespace.to_string(),
            ..Default::default()
        };
        let mut service = self.service();
        self.limited(service.describe_namespace(request)).await?;
        Ok(())
    }

    /// Makes one authorized call in the namespace.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn probe(&self) -> Result<(), ConnectError> {
        let Err(status) = self.describe_namespace().await else {
            return Ok(());
        };
        let verdict = match is_refusal(&status) {
            true => self.token_verdict().await,
            false => TokenVerdict::Unknown,
        };
        Err(self.explain_with(status, Role::Read, verdict))
    }

    /// Asks the server whether it accepts the token. With a rejected token even a call that
    /// requires no permission fails, which distinguishes it from a token that grants too little.
    pub async fn token_verdict(&self) -> TokenVerdict {
        if self.token_source().is_none() {
            return TokenVerdict::Unknown;
        }
        match self.system_info().await {
            Ok(_) => TokenVerdict::Accepted,
            // Temporal Cloud or a proxy may require a permission for this call.
            Err(status)
                if is_refusal(&status) && self.with_token(None).system_info().await.is_ok() =>
            {
                TokenVerdict::Rejected
            }
            Err(_) => TokenVerdict::Unknown,
        }
    }

    /// Explains why a call that requires the role `needed` failed.
    pub fn explain(&self, status: Status, needed: Role) -> ConnectError {
        self.explain_with(status, needed, TokenVerdict::Unknown)
    }

    pub(super) fn explain_with(
        &self,
        status: Status,
        needed: Role,
        verdict: TokenVerdict,
    ) -> ConnectError {
        if let Some(known) = self.explain_shared(&status, &self.namespace, needed, verdict) {
            return known;
        }
        let target = self.target();
        match status.code() {
            Code::NotFound => ConnectError::NoNamespace {
                target,
                namespace: self.namespace.to_string(),
            },
            _ if LocalCause::of(&status) == Some(LocalCause::HeadersTooLarge) => {
                ConnectError::TokenTooLarge {
                    target,
                    size: self.header_size(),
                }
            }
            _ => ConnectError::Call { target, status },
        }
    }

    /// Explains a failure that concerns more than one call: the call was refused or not sent, or
    /// there was no connection. `needed` is the role that the call requires in `namespace`.
    pub(super) fn explain_shared(
        &self,
        status: &Status,
        namespace: &str,
        needed: Role,
        verdict: TokenVerdict,
    ) -> Option<ConnectError> {
        if is_refusal(status) {
            return Some(ConnectError::Refused {
                target: self.target(),
                namespace: namespace.to_owned(),
                explanation: self.explain_refusal(namespace, needed, verdict),
                status: status.clone(),
            });
        }
        if LocalCause::of(status) == Some(LocalCause::NotSent) {
            return Some(ConnectError::NoToken {
                reason: status.message().to_owned(),
            });
        }
        let source = self.connector_error(status)?;
        Some(self.connection_failed(source))
    }

    fn explain_refusal(&self, namespace: &str, needed: Role, verdict: TokenVerdict) -> Explanation {
        let token = self.token_source().and_then(TokenSource::current);
        let refusal = Refusal {
            token: Sent::of(token.as_ref().map(Token::content)),
            namespace,
            needed,
            key_set: KeySetCheck::Unknown,
            key_is_new: false,
            audience: None,
            verdict,
        };
        refusal.explain(SystemTime::now())
    }

    /// The size of the `authorization` header in bytes; 0 if there is no valid token.
    fn header_size(&self) -> usize {
        let token = self
            .token_source()
            .map(|source| source.token(SystemTime::now()));
        token
            .and_then(Result::ok)
            .map_or(0, |token| token.header().len())
    }

    /// The connection error that caused the status, if there is one.
    fn connector_error(&self, status: &Status) -> Option<ConnectorError> {
        let source = status.source()?;
        if let Some(error) = causes(source).find_map(|cause| cause.downcast_ref::<ConnectorError>())
        {
            return Some(error.clone());
        }
        // After the handshake, HTTP/2 wraps the error and keeps only its text.
        causes(source).find(|cause| cause.is::<tonic::transport::Error>())?;
        match self.connector().security() {
            Security::Plaintext { .. } => Some(ConnectorError::PlaintextClosed),
            Security::Tls { .. } => self.connector().log().last_failure(),
        }
    }

    /// Explains why a connection could not be made with the credentials that calls use now.
    pub(super) fn connection_failed(&self, source: ConnectorError) -> ConnectError {
        explain_connection(self.connector(), &self.channel.credentials(), source)
    }
}

/// Explains why a connection could not be made with these credentials.
pub fn explain_connection(
    connector: &Connector,
    credentials: &TlsCredentials,
    source: ConnectorError,
) -> ConnectError {
    let target = connector.target();
    if source.client_certificate_alert().is_some() {
        let identity = credentials.identity.as_deref();
        let presented = identity.map(|identity| identity.identify());
        return ConnectError::ClientCertificate {
            target,
            presented: presented.unwrap_or_else(|| "none".to_owned()),
            advice: client_certificate_advice(identity, &source),
            source,
        };
    }
    if source.server_certificate_error().is_some() {
        let trust = credentials.trust.as_ref();
        let trusted = trust.map(ToString::to_string).unwrap_or_default();
        return ConnectError::ServerCertificate {
            target,
            trusted,
            source,
        };
    }
    ConnectError::Unreachable {
        target,
        waited: None,
        source,
    }
}

/// What to do about a client certificate that was rejected. Go, in which the server is written,
/// sends one alert for several causes (`crypto/tls/handshake_server.go`).
fn client_certificate_advice(identity: Option<&Identity>, error: &ConnectorError) -> String {
    let asked_for = error
        .peer()
        .and_then(PeerInfo::asked_for)
        .unwrap_or_default();
    let of_which = if asked_for.is_empty() {
        String::new()
    } else {
        format!(" issued by `{}`", asked_for.join("` or `"))
    };
    let Some(identity) = identity else {
        return format!(
            "this server requires a client certificate{of_which}: set `--tls-cert-path` and \
             `--tls-key-path`"
        );
    };
    if !asked_for.is_empty() && !identity.issuers().any(|issuer| asked_for.contains(&issuer)) {
        return format!(
            "the server accepts only client certificates{of_which}, and this one is issued by \
             `{}`: use another certificate, or add that CA to the server's `clientCaFiles`; if it \
             is an intermediate CA, append its certificate to the file",
            identity.leaf().issuer
        );
    }
    if !identity.leaf().permits_client() {
        return "reissue the certificate with the extended key usage `clientAuth`: it is valid for \
                servers only"
            .to_owned();
    }
    if error.client_certificate_alert() == Some(AlertDescription::CertificateExpired) {
        return format!(
            "the certificate is valid from {} to {}: check the clocks of this machine and of the \
             server, and whether the CA's certificate has expired",
            rfc3339(identity.leaf().not_before),
            rfc3339(identity.leaf().not_after),
        );
    }
    if error.client_certificate_alert() == Some(AlertDescription::BadCertificate) {
        // Every `x509.CertificateInvalidError` of Go but an expired certificate.
        return "the certificate or one of its issuers breaks a rule: an intermediate or CA certificate \
                lacks the extended key usage `clientAuth` or `CA:TRUE`, its constraint on names or on \
                the length of the chain is violated, or it has a critical extension that the server \
                does not know; `openssl verify -purpose sslclient -CAfile <clientCaFiles> -untrusted <chain> \
                <certificate>` says which"
            .to_owned();
    }
    "check that a CA in the server's `clientCaFiles` issued the certificate (a new CA can have the \
     name of the old one), that the file contains the intermediate certificates, that the extended \
     key usage includes `clientAuth`, and that the certificate is valid by the server's clock"
        .to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn a_bad_certificate_has_more_causes_than_its_own_usage() {
        let client = crate::samples::client();
        let (certificate, key) = (client.leaf_pem.as_bytes(), client.key_pem.as_bytes());
        let identity = Identity::parse(certificate, key, SystemTime::now()).unwrap();
        let advice = |alert| {
            let error = ConnectorError::Alert { alert, peer: None };
            client_certificate_advice(Some(&identity), &error)
        };
        let told = advice(AlertDescription::BadCertificate);
        for words in ["one of its issuers", "`CA:TRUE`", "names", "critical"] {
            assert!(told.contains(words), "{words}: {told}");
        }
        assert!(advice(AlertDescription::UnknownCA).contains("`clientCaFiles`"));
    }
}
