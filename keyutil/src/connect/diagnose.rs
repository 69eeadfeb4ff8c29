//! What a failed call means: what the status says, what our side of the connection has noted, and
//! what the token says.

use std::{error::Error, time::SystemTime};

use temporalio_common::protos::temporal::api::workflowservice::v1::{
    DescribeNamespaceRequest, GetSystemInfoRequest, workflow_service_client::WorkflowServiceClient,
};
use tokio_rustls::rustls::AlertDescription;
use tonic::{
    Code, Status,
    service::{Interceptor, interceptor::InterceptedService},
};

use super::ConnectError;
use crate::{
    base::{causes, time::in_words},
    credentials::{Credential, Identity, Token, TokenSource},
    explain::{Explanation, KeySetCheck, Refusal, Sent, TokenVerdict},
    token::Role,
    transport::{
        AuthInterceptor, Connector, ConnectorError, LocalCause, PeerInfo, RotatingChannel,
        Security, TlsCredentials, is_refusal,
    },
};

/// What a failed call in `namespace` that takes `needed` means, if it is one of those that many
/// calls share: it was refused, or not sent, or there was no connection. `verdict` is what
/// [`verdict`] says.
pub(super) fn explain(
    channel: &RotatingChannel,
    interceptor: &AuthInterceptor,
    status: &Status,
    namespace: &str,
    needed: Role,
    verdict: TokenVerdict,
) -> Option<ConnectError> {
    match status.code() {
        _ if is_refusal(status) => Some(ConnectError::Refused {
            target: channel.connector().target(),
            namespace: namespace.to_owned(),
            explanation: explain_refusal(interceptor, namespace, needed, verdict),
            status: status.clone(),
        }),
        _ if LocalCause::of(status) == Some(LocalCause::NotSent) => Some(ConnectError::NoToken {
            reason: status.message().to_owned(),
        }),
        _ => dial_error(channel, status).map(|source| connection_failed(channel, source)),
    }
}

/// What a failed call in `namespace` that takes `needed` means.
pub fn explain_call(
    channel: &RotatingChannel,
    interceptor: &AuthInterceptor,
    status: Status,
    namespace: &str,
    needed: Role,
    verdict: TokenVerdict,
) -> ConnectError {
    if let Some(known) = explain(channel, interceptor, &status, namespace, needed, verdict) {
        return known;
    }
    let target = channel.connector().target();
    match status.code() {
        Code::NotFound => ConnectError::NoNamespace {
            target,
            namespace: namespace.to_owned(),
        },
        _ if LocalCause::of(&status) == Some(LocalCause::HeadersTooLarge) => {
            ConnectError::TokenTooLarge {
                target,
                size: size(interceptor),
            }
        }
        _ => ConnectError::Call { target, status },
    }
}

fn size(interceptor: &AuthInterceptor) -> usize {
    let token = interceptor
        .source()
        .map(|source| source.token(SystemTime::now()));
    token
        .and_then(Result::ok)
        .map_or(0, |token| token.header().len())
}

/// Asks for the namespace: the smallest call that takes permission in it, `<namespace>:read`.
///
/// # Errors
/// The status, as it came.
pub async fn describe<I: Interceptor>(
    channel: InterceptedService<RotatingChannel, I>,
    namespace: &str,
) -> Result<(), Status> {
    let request = DescribeNamespaceRequest {
        namespace: namespace.to_owned(),
        ..Default::default()
    };
    WorkflowServiceClient::new(channel)
        .describe_namespace(request)
        .await?;
    Ok(())
}

/// Asks the server whether it accepts the token: a call that takes no permission is refused with a
/// token that is not accepted. Tells such a token from one that permits too little.
pub async fn verdict(channel: &RotatingChannel, interceptor: &AuthInterceptor) -> TokenVerdict {
    if interceptor.source().is_none() {
        return TokenVerdict::Unknown;
    }
    let answered = async |interceptor: AuthInterceptor| {
        let channel = InterceptedService::new(channel.clone(), interceptor);
        let mut service = WorkflowServiceClient::new(channel);
        service.get_system_info(GetSystemInfoRequest {}).await
    };
    match answered(interceptor.clone()).await {
        Ok(_) => TokenVerdict::Accepted,
        // Temporal Cloud, or a proxy, may ask for permission here too.
        Err(status)
            if is_refusal(&status) && answered(AuthInterceptor::new(None)).await.is_ok() =>
        {
            TokenVerdict::Rejected
        }
        Err(_) => TokenVerdict::Unknown,
    }
}

/// Why there was no connection for a call, if that is why it failed.
fn dial_error(channel: &RotatingChannel, status: &Status) -> Option<ConnectorError> {
    let source = status.source()?;
    if let Some(error) = causes(source).find_map(|cause| cause.downcast_ref::<ConnectorError>()) {
        return Some(error.clone());
    }
    // After the handshake our error is below HTTP/2, which keeps its text alone.
    causes(source).find(|cause| cause.is::<tonic::transport::Error>())?;
    match channel.connector().security() {
        Security::Plaintext { .. } => Some(ConnectorError::PlaintextClosed),
        Security::Tls { .. } => channel.connector().log().last_failure(),
    }
}

/// The same with what we presented, or what we trust, where that is the matter.
pub(super) fn connection_failed(channel: &RotatingChannel, source: ConnectorError) -> ConnectError {
    failed_with(channel.connector(), &channel.credentials(), source)
}

/// The same for a connection that was made with these.
pub fn failed_with(
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
        let trusted = trust.map(|trust| trust.in_words()).unwrap_or_default();
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

/// What to do about a client certificate that was refused. Go, in which the server is written,
/// sends one alert for several causes (`crypto/tls/handshake_server.go`).
fn client_certificate_advice(identity: Option<&Identity>, error: &ConnectorError) -> String {
    let asked_for = error
        .peer()
        .and_then(PeerInfo::asked_for)
        .unwrap_or_default();
    let of_which = if asked_for.is_empty() {
        String::new()
    } else {
        format!(", issued by `{}`", asked_for.join("` or `"))
    };
    let Some(identity) = identity else {
        return format!(
            "this server wants a client certificate{of_which}: give `--tls-cert-path` and \
             `--tls-key-path`"
        );
    };
    if !asked_for.is_empty() && !identity.issuers().any(|issuer| asked_for.contains(&issuer)) {
        return format!(
            "the server takes client certificates{of_which}, and this one is issued by `{}`: \
             present another, or have that CA added to the server's `clientCaFiles`; if it is an \
             intermediate CA, put its certificate behind this one in the file",
            identity.leaf().issuer
        );
    }
    if !identity.leaf().permits_client() {
        return "have the certificate issued with the extended key usage `clientAuth`: it is for \
                servers alone"
            .to_owned();
    }
    if error.client_certificate_alert() == Some(AlertDescription::CertificateExpired) {
        return format!(
            "by the clock of this machine the certificate is valid from {} to {}: set this clock or \
             the server's, or have the certificate, or its CA's, renewed",
            in_words(identity.leaf().not_before),
            in_words(identity.leaf().not_after),
        );
    }
    "have the certificate issued by a CA that the server trusts for clients (`clientCaFiles`; a new \
     CA can have the name of the old one), with its intermediates behind it in the file, with the \
     extended key usage `clientAuth`, and valid by the server's clock"
        .to_owned()
}

/// Why the server may have refused a call that takes `needed` in `namespace`.
fn explain_refusal(
    interceptor: &AuthInterceptor,
    namespace: &str,
    needed: Role,
    verdict: TokenVerdict,
) -> Explanation {
    let token = interceptor.source().and_then(TokenSource::current);
    let content = token.as_ref().map(Token::content);
    let refusal = Refusal {
        token: match content {
            None => Sent::Nothing,
            Some(None) => Sent::Opaque,
            Some(Some(content)) => Sent::Token(content),
        },
        namespace,
        needed,
        key_set: KeySetCheck::Unknown,
        key_is_new: false,
        audience: None,
        verdict,
    };
    refusal.explain(SystemTime::now())
}
