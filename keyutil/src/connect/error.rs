//! Why there is no authorized connection, and what to do about it.

use std::{fmt, time::Duration};

use tokio_rustls::rustls::CertificateError;
use tonic::{Code, Status};

use crate::{
    base::chain,
    diagnosis::{Class, Diagnose, Diagnosis, Step},
    explain::Explanation,
    settings::SettingsErrors,
    transport::{ConnectStage, ConnectorError, PeerInfo},
    x509::certificate::CertificateSummary,
};

/// Why there is no authorized connection.
#[expect(missing_docs, reason = "the message says what a field is")]
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
        #[source]
        source: ConnectorError,
    },
    /// Ours is not.
    #[error("`{target}` refused the client certificate (presented: {presented})")]
    ClientCertificate {
        /// `host:port`.
        target: String,
        presented: String,
        /// What to do, as far as can be told from what the server asked for.
        advice: String,
        #[source]
        source: ConnectorError,
    },
    /// There is no token to send.
    #[error("{reason}")]
    NoToken { reason: String },
    /// The token does not do.
    #[error(
        "`{target}` refused a call in namespace `{namespace}` with `{:?}: {}`: {explanation}",
        status.code(),
        status.message()
    )]
    Refused {
        /// `host:port`.
        target: String,
        namespace: String,
        /// What can be seen from this side.
        explanation: Explanation,
        status: Status,
    },
    /// The token does, and the namespace is not there.
    #[error("namespace `{namespace}` does not exist on `{target}`")]
    NoNamespace {
        /// `host:port`.
        target: String,
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

fn unreachable(error: &ConnectorError) -> (Step, Class, Option<String>) {
    let (step, class, hint) = match error {
        ConnectorError::Resolve { .. } => (
            Step::Name,
            Class::Unreachable,
            "check the host name in `--address` (TEMPORAL_ADDRESS), and that this machine, or \
             container, can resolve it: `getent hosts <name>`",
        ),
        ConnectorError::Connect { .. } => (
            Step::Tcp,
            Class::Unreachable,
            "check that the server is running and that `--address` (TEMPORAL_ADDRESS) is right",
        ),
        ConnectorError::TimedOut { stage, .. } => {
            let step = match stage {
                ConnectStage::Name => Step::Name,
                ConnectStage::Tcp => Step::Tcp,
                ConnectStage::Handshake => Step::ServerTls,
                ConnectStage::Answer => Step::Grpc,
            };
            let hint = match stage {
                ConnectStage::Name => {
                    "check the name servers of this machine: `getent hosts <name>`"
                }
                ConnectStage::Tcp => {
                    "something drops the packets: check the port, and the firewalls on the way"
                }
                ConnectStage::Handshake | ConnectStage::Answer => {
                    "something accepts the connection and says nothing: check that the port is the \
                     server's frontend (7233, if nobody changed it), and the proxies on the way; a \
                     server that hangs looks the same"
                }
            };
            (step, Class::Unreachable, hint)
        }
        ConnectorError::TokenInPlaintext { .. } => (
            Step::Configuration,
            Class::Usage,
            "take away what switches TLS off, or connect to this machine",
        ),
        ConnectorError::PlaintextClosed => (
            Step::ServerTls,
            Class::ServerTls,
            "for a server with TLS give `--tls`, and a CA and a client certificate where it needs \
             them: `--tls-ca-path`, `--tls-cert-path`, `--tls-key-path`; without TLS something that \
             speaks no HTTP/2, as the Web UI, looks the same: check the port",
        ),
        ConnectorError::NoHttp2 => (
            Step::ServerTls,
            Class::ServerTls,
            "check that the port is that of the server's gRPC frontend (7233, if nobody changed \
             it), not of the Web UI or the HTTP API; let a proxy in between speak HTTP/2, or pass \
             TLS through",
        ),
        ConnectorError::NoTls => (
            Step::ServerTls,
            Class::ServerTls,
            "leave out the TLS options and the token, or use `--tls=false` for a server on this \
             machine; or check that the port is that of the server's gRPC frontend",
        ),
        ConnectorError::HungUp => (
            Step::ServerTls,
            Class::Unreachable,
            "check that the server is running and that `--address` (TEMPORAL_ADDRESS) is right, \
             and look at the log of the server, or of the proxy before it",
        ),
        ConnectorError::Handshake { .. }
        | ConnectorError::Alert { .. }
        | ConnectorError::ServerCertificate { .. } => (
            Step::ServerTls,
            Class::ServerTls,
            "see what the server says to `openssl s_client -connect <host:port> -alpn h2`, and \
             what it logs",
        ),
    };
    (step, class, Some(hint.to_owned()))
}

fn call(status: &Status) -> (Step, Class, Option<String>) {
    let (class, hint) = match status.code() {
        Code::InvalidArgument => (
            Class::Usage,
            "the server does not take the arguments: see what it says of them",
        ),
        Code::Unavailable if status.message().contains("not healthy yet") => (
            Class::Unreachable,
            "the server is still starting: wait, or give it longer with `--connect-timeout`",
        ),
        Code::Unimplemented | Code::Unknown | Code::Internal => (
            Class::ServerTls,
            "check that the port is that of a Temporal frontend; a proxy or another gRPC server \
             answers like this",
        ),
        _ => (
            Class::Unreachable,
            "the server, or a proxy before it, answers, and is not well: see its log",
        ),
    };
    (Step::Grpc, class, Some(hint.to_owned()))
}

fn server_certificate_hint(source: &ConnectorError) -> String {
    use CertificateError as E;
    let presented = source.peer().and_then(PeerInfo::presented);
    let hint = match source.server_certificate_error() {
        Some(E::NotValidForName | E::NotValidForNameContext { .. }) => {
            let names = presented.map(CertificateSummary::names).unwrap_or_default();
            let example = match names.first() {
                Some(name) => format!("`--tls-server-name {name}`"),
                None => "`--tls-server-name`".to_owned(),
            };
            return format!(
                "give a name that the certificate is for with {example} \
                 (TEMPORAL_TLS_SERVER_NAME), or connect by that name"
            );
        }
        Some(E::BadSignature) => {
            "its CA was made anew, it seems: copy the new CA certificate to the file of \
             `--tls-ca-path` (TEMPORAL_TLS_SERVER_CA_CERT_PATH)"
        }
        Some(E::Expired | E::ExpiredContext { .. }) => {
            "have the server's certificate renewed, or set the clock of this machine"
        }
        Some(E::NotValidYet | E::NotValidYetContext { .. }) => {
            "set the clock of this machine, or wait: the server's certificate is not valid yet"
        }
        Some(E::InvalidPurpose | E::InvalidPurposeContext { .. }) => {
            "have the server's certificate issued with the extended key usage `serverAuth`"
        }
        _ => {
            let issuer = presented.map(|leaf| format!(", `{}`,", leaf.issuer));
            return format!(
                "name the CA that issued the server's certificate{} with `--tls-ca-path` \
                 (TEMPORAL_TLS_SERVER_CA_CERT_PATH); if that is an intermediate CA, have the server \
                 send its certificate, too",
                issuer.unwrap_or_default()
            );
        }
    };
    hint.to_owned()
}
