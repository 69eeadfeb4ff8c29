//! What a failed call means: what the status says, what our side of the connection has noted, and
//! what the token says.

use std::{error::Error, time::SystemTime};

use tonic::Status;

use super::ConnectError;
use crate::{
    chain::causes,
    credentials::{Credential, Token, TokenSource},
    explain::{Refusal, Sent},
    jwt::Role,
    transport::{Bearer, DialError, RotatingChannel, Security, dial::Credentials},
};

/// Why there was no connection for a call, if that is why it failed.
pub(super) fn dial_error(channel: &RotatingChannel, status: &Status) -> Option<DialError> {
    let source = status.source()?;
    if let Some(error) = causes(source).find_map(|cause| cause.downcast_ref::<DialError>()) {
        return Some(error.clone());
    }
    // After the handshake our error is below HTTP/2, which keeps its text alone.
    causes(source).find(|cause| cause.is::<tonic::transport::Error>())?;
    match channel.dial().security() {
        Security::Plaintext { .. } => Some(DialError::PlaintextClosed),
        Security::Tls { .. } => channel.dial().journal().last_failure(),
    }
}

/// The same with what we presented, or what we trust, where that is the matter.
pub(super) fn connection_failed(channel: &RotatingChannel, source: DialError) -> ConnectError {
    failed_with(channel, &channel.credentials(), source)
}

/// The same for a connection that was made with these.
pub(super) fn failed_with(
    channel: &RotatingChannel,
    credentials: &Credentials,
    source: DialError,
) -> ConnectError {
    let target = channel.dial().target();
    if source.client_certificate_alert().is_some() {
        let identity = credentials.identity.as_ref();
        let presented = identity.map(|identity| identity.identify());
        let presented = presented.unwrap_or_else(|| "none".to_owned());
        return ConnectError::ClientCertificate {
            target,
            presented,
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

/// Why the server may have refused a call that takes `needed` in `namespace`.
pub(super) fn explain_refusal(bearer: &Bearer, namespace: &str, needed: Role) -> String {
    let token = bearer.source().and_then(TokenSource::current);
    let content = token.as_ref().map(Token::content);
    let refusal = Refusal {
        token: match content {
            None => Sent::Nothing,
            Some(None) => Sent::Opaque,
            Some(Some(content)) => Sent::Token(content, None),
        },
        namespace,
        needed,
        key_set: None,
        audience: None,
    };
    refusal.explain(SystemTime::now()).to_string()
}
