//! Why there is no authorized connection, and what to do about it.

mod advice;

use std::{fmt, time::Duration};

use tonic::{Code, Status};

use self::advice::{call, server_certificate_hint, unreachable};
use crate::{
    base::chain,
    diagnosis::{Class, Diagnose, Diagnosis, Step},
    explain::Explanation,
    settings::SettingsErrors,
    transport::{ConnectorError, PeerInfo},
};

/// Why there is no authorized connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The arguments, or the files that they name.
    #[error(transparent)]
    Settings(#[from] SettingsErrors),
    /// Host and port make no URI.
    #[error("the address makes no URI")]
    Address(#[source] http::Error),
    /// Host and port make no URL.
    #[error("the address makes no URL")]
    Url(#[source] url::ParseError),
    /// No connection.
    #[error("failed to connect to `{target}`{}", Waited(*waited))]
    Unreachable {
        /// `host:port`.
        target: String,
        /// For how long it was tried.
        waited: Option<Duration>,
        /// Why the last attempt failed.
        #[source]
        source: ConnectorError,
    },
    /// The server's certificate is not what it must be.
    #[error(
        "failed to verify the certificate of `{target}`{}, trusting {trusted}",
        Shown(source)
    )]
    ServerCertificate {
        /// `host:port`.
        target: String,
        /// The CAs that it was verified with.
        trusted: String,
        /// What is wrong with it.
        #[source]
        source: ConnectorError,
    },
    /// Ours is not.
    #[error("`{target}` refused the client certificate (presented: {presented})")]
    ClientCertificate {
        /// `host:port`.
        target: String,
        /// Serial and issuer, or none.
        presented: String,
        /// What to do, as far as can be told from what the server asked for.
        advice: String,
        /// The alert.
        #[source]
        source: ConnectorError,
    },
    /// There is no token to send.
    #[error("{reason}")]
    NoToken {
        /// From the token source.
        reason: String,
    },
    /// The token does not do.
    #[error(
        "`{target}` refused a call in namespace `{namespace}` with `{:?}: {}`: {explanation}",
        status.code(),
        status.message()
    )]
    Refused {
        /// `host:port`.
        target: String,
        /// Of the call.
        namespace: String,
        /// What can be seen from this side.
        explanation: Explanation,
        /// The answer.
        status: Status,
    },
    /// The token does, and the namespace is not there.
    #[error("namespace `{namespace}` does not exist on `{target}`")]
    NoNamespace {
        /// `host:port`.
        target: String,
        /// Of the call.
        namespace: String,
    },
    /// Whoever stands before the server takes no header that large.
    #[error(
        "`{target}` answered that the headers are too large: the token, which has {size} bytes, is too large for a proxy before the server"
    )]
    TokenTooLarge {
        /// `host:port`.
        target: String,
        /// Of the `authorization` header.
        size: usize,
    },
    /// Some other answer.
    #[error("`{target}` answered with `{:?}: {}`", status.code(), status.message())]
    Call {
        /// `host:port`.
        target: String,
        /// The answer.
        status: Status,
    },
    /// The SDK's own part of connecting failed.
    #[error("the Temporal SDK failed to connect")]
    Sdk(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl ConnectError {
    /// Whether waiting may cure it. A namespace that is missing may appear while `fresh`.
    pub(super) fn may_pass(&self, fresh: bool) -> bool {
        match self {
            Self::Unreachable { source, .. } => source.may_pass(),
            Self::NoToken { .. } => true,
            Self::NoNamespace { .. } => fresh,
            Self::Call { status, .. } => matches!(
                status.code(),
                Code::Unavailable
                    | Code::Unknown
                    | Code::DeadlineExceeded
                    | Code::ResourceExhausted
            ),
            _ => false,
        }
    }

    pub(super) fn after(mut self, elapsed: Duration) -> Self {
        if let Self::Unreachable { waited, .. } = &mut self {
            *waited = Some(elapsed);
        }
        self
    }
}

impl Diagnose for ConnectError {
    fn diagnosis(&self) -> Diagnosis {
        let (step, class, hint) = match self {
            Self::Settings(problems) => return problems.diagnosis(),
            Self::Address(_) | Self::Url(_) => (
                Step::Configuration,
                Class::Usage,
                Some("check `--address` (TEMPORAL_ADDRESS)".to_owned()),
            ),
            Self::Unreachable { source, .. } => unreachable(source),
            Self::ServerCertificate { source, .. } => (
                Step::ServerTls,
                Class::ServerTls,
                Some(server_certificate_hint(source)),
            ),
            Self::ClientCertificate { advice, .. } => (
                Step::ClientTls,
                Class::ClientCertificate,
                Some(advice.clone()),
            ),
            Self::NoToken { .. } => (
                Step::Token,
                Class::Token,
                Some(
                    "see to whoever renews the token, or the signing key; calls go on by \
                     themselves when there is a valid one again"
                        .to_owned(),
                ),
            ),
            Self::Refused { explanation, .. } => {
                (explanation.step(), explanation.class(), explanation.hint())
            }
            Self::NoNamespace { namespace, .. } => (
                Step::Permission,
                Class::Namespace,
                Some(format!(
                    "register it with `keyutil namespace register --namespace {namespace}`, or \
                     name the one that is meant with `--namespace` (TEMPORAL_NAMESPACE); upper \
                     and lower case matter"
                )),
            ),
            Self::TokenTooLarge { .. } => (
                Step::Token,
                Class::Token,
                Some(
                    "have the token made with the permissions that are needed, and no more; or \
                     have the proxy take larger headers"
                        .to_owned(),
                ),
            ),
            Self::Call { status, .. } => call(status),
            Self::Sdk(_) => (Step::Grpc, Class::Other, None),
        };
        Diagnosis {
            step,
            class,
            cause: chain(self),
            hint,
        }
    }
}

/// The certificate that the server presented.
struct Shown<'a>(&'a ConnectorError);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.peer().and_then(PeerInfo::presented) {
            Some(leaf) => write!(
                f,
                " (presented: serial {}, issued by `{}`)",
                leaf.serial, leaf.issuer
            ),
            None => Ok(()),
        }
    }
}

struct Waited(Option<Duration>);

impl fmt::Display for Waited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(waited) if waited >= Duration::from_secs(1) => {
                write!(f, " within {}s", waited.as_secs())
            }
            _ => Ok(()),
        }
    }
}
