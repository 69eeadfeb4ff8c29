//! The errors of connecting, and what to do about each.

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

/// The reason why a connection could not be made, or is not authorized.
#[expect(missing_docs, reason = "the message says what a field is")]
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The settings, or the files that they name, have errors.
    #[error(transparent)]
    Settings(#[from] SettingsErrors),
    /// Host and port do not form a URI.
    #[error("the address does not form a URI")]
    Address(#[source] http::Error),
    /// Host and port do not form a URL.
    #[error("the address does not form a URL")]
    Url(#[source] url::ParseError),
    /// No connection was made.
    #[error("failed to connect to `{target}`{}", Waited(*waited))]
    Unreachable {
        /// `host:port`.
        target: String,
        /// How long the attempts lasted.
        waited: Option<Duration>,
        #[source]
        source: ConnectorError,
    },
    /// The server's certificate could not be verified.
    #[error(
        "failed to verify the certificate of `{target}`{}, trusting {trusted}",
        Shown(source)
    )]
    ServerCertificate {
        /// `host:port`.
        target: String,
        /// The trusted CAs.
        trusted: String,
        #[source]
        source: ConnectorError,
    },
    /// The server rejected the client certificate, or its absence.
    #[error("`{target}` rejected the client certificate (presented: {presented})")]
    ClientCertificate {
        /// `host:port`.
        target: String,
        presented: String,
        /// What to do, judged by the CAs that the server asked for.
        advice: String,
        #[source]
        source: ConnectorError,
    },
    /// There is no valid token to send.
    #[error("{reason}")]
    NoToken { reason: String },
    /// The server refused the call: it rejects the token, or the token lacks the permission.
    #[error(
        "`{target}` refused a call in namespace `{namespace}` with `{:?}: {}`: {explanation}",
        status.code(),
        status.message()
    )]
    Refused {
        /// `host:port`.
        target: String,
        namespace: String,
        /// The cause, as far as the client can tell.
        explanation: Explanation,
        status: Status,
    },
    /// The server accepts the token, and the namespace does not exist.
    #[error("namespace `{namespace}` does not exist on `{target}`")]
    NoNamespace {
        /// `host:port`.
        target: String,
        namespace: String,
    },
    /// A proxy in front of the server limits the size of headers.
    #[error(
        "`{target}` answered that the headers are too large: the token has {size} bytes, more than a proxy in front of the server accepts"
    )]
    TokenTooLarge {
        /// `host:port`.
        target: String,
        /// The size of the `authorization` header in bytes.
        size: usize,
    },
    /// Any other answer.
    #[error("`{target}` answered with `{:?}: {}`", status.code(), status.message())]
    Call {
        /// `host:port`.
        target: String,
        status: Status,
    },
    /// The SDK failed to connect.
    #[error("the Temporal SDK failed to connect")]
    Sdk(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl ConnectError {
    /// Whether a later attempt may succeed. A missing namespace may appear while `fresh`.
    pub(super) fn may_pass(&self, fresh: bool) -> bool {
        match self {
            Self::Unreachable { source, .. } => source.may_pass(),
            Self::NoToken { .. } => true,
            Self::NoNamespace { .. } => fresh,
            Self::Refused { explanation, .. } => explanation.may_pass(),
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
                    "check what the reason names; calls continue as soon as there is a valid token"
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
                    "register it with `keyutil namespace register --namespace {namespace}`, or set \
                     another one with `--namespace` (TEMPORAL_NAMESPACE); names are case-sensitive"
                )),
            ),
            Self::TokenTooLarge { .. } => (
                Step::Token,
                Class::Token,
                Some(
                    "issue the token with fewer permissions, or raise the header limit of the proxy"
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
    let (step, class, hint) = match error.decisive() {
        ConnectorError::Proxy { source, .. } => {
            let (step, class, _) = unreachable(source);
            let hint = match **source {
                ConnectorError::ProxyAnswer { code: 407, .. } => {
                    "set user and password in the URL: `http://user:password@proxy:port`"
                }
                _ => {
                    "check the proxy of `HTTPS_PROXY`, and whether it permits this address; connect \
                     directly with `NO_PROXY` or `--no-proxy` (KEYUTIL_NO_PROXY)"
                }
            };
            return (step, class, Some(hint.to_owned()));
        }
        ConnectorError::Resolve { .. } => (
            Step::Name,
            Class::Unreachable,
            "check the host name in `--address` (TEMPORAL_ADDRESS), and that this machine or \
             container can resolve it: `getent hosts <name>`",
        ),
        ConnectorError::Connect { .. }
        | ConnectorError::ProxyAnswer { .. }
        | ConnectorError::Addresses(_) => (
            Step::Tcp,
            Class::Unreachable,
            "check that the server is running and that `--address` (TEMPORAL_ADDRESS) is correct",
        ),
        ConnectorError::TimedOut { stage, .. } => {
            let step = match stage {
                ConnectStage::Name => Step::Name,
                ConnectStage::Tcp | ConnectStage::Proxy => Step::Tcp,
                ConnectStage::Handshake => Step::ServerTls,
                ConnectStage::Answer => Step::Grpc,
            };
            let hint = match stage {
                ConnectStage::Name => {
                    "check the name servers of this machine: `getent hosts <name>`"
                }
                ConnectStage::Tcp => {
                    "a firewall may drop the packets: check the port and the firewalls in between"
                }
                ConnectStage::Proxy | ConnectStage::Handshake | ConnectStage::Answer => {
                    "the connection is accepted but not answered: check that the port is that of \
                     the server's frontend (default 7233), the proxies in between, and whether the \
                     server hangs"
                }
            };
            (step, Class::Unreachable, hint)
        }
        ConnectorError::TokenInPlaintext { .. } => (
            Step::Configuration,
            Class::Usage,
            "use TLS, or connect to this machine",
        ),
        ConnectorError::PlaintextClosed => (
            Step::ServerTls,
            Class::ServerTls,
            "if the server uses TLS, set `--tls`, and where needed `--tls-ca-path`, \
             `--tls-cert-path` and `--tls-key-path`; if it does not, check that the port is that of \
             the gRPC frontend (default 7233) and not of the Web UI",
        ),
        ConnectorError::NoHttp2 => (
            Step::ServerTls,
            Class::ServerTls,
            "check that the port is that of the server's gRPC frontend (default 7233) and not of \
             the Web UI or the HTTP API; a proxy in between must support HTTP/2 or pass TLS through",
        ),
        ConnectorError::NoTls => (
            Step::ServerTls,
            Class::ServerTls,
            "check that the port is that of the server's gRPC frontend; for a server without TLS on \
             this machine, set `--tls=false`",
        ),
        ConnectorError::HungUp => (
            Step::ServerTls,
            Class::Unreachable,
            "check that the server is running, that `--address` (TEMPORAL_ADDRESS) is correct, and \
             the log of the server or of the proxy in front of it",
        ),
        ConnectorError::Handshake { .. }
        | ConnectorError::Alert { .. }
        | ConnectorError::ServerCertificate { .. } => (
            Step::ServerTls,
            Class::ServerTls,
            "run `openssl s_client -connect <host:port> -alpn h2`, and check the log of the server",
        ),
    };
    (step, class, Some(hint.to_owned()))
}

fn call(status: &Status) -> (Step, Class, Option<String>) {
    let (class, hint) = match status.code() {
        Code::InvalidArgument => (
            Class::Usage,
            "the server rejected the arguments: correct them as its message says",
        ),
        Code::Unavailable if status.message().contains("not healthy yet") => (
            Class::Unreachable,
            "the server is still starting: wait, or raise `--connect-timeout`",
        ),
        Code::Unimplemented | Code::Unknown | Code::Internal => (
            Class::ServerTls,
            "check that the port is that of a Temporal frontend: a proxy or another gRPC server \
             answers like this",
        ),
        _ => (
            Class::Unreachable,
            "check the log of the server, or of the proxy in front of it",
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
                "set {example} (TEMPORAL_TLS_SERVER_NAME) to a name in the certificate, or connect \
                 by that name"
            );
        }
        Some(E::BadSignature) => {
            "the CA probably has a new key: copy the new CA certificate to the file of \
             `--tls-ca-path` (TEMPORAL_TLS_SERVER_CA_CERT_PATH)"
        }
        Some(E::Expired | E::ExpiredContext { .. }) => {
            "renew the server's certificate, or correct the clock of this machine"
        }
        Some(E::NotValidYet | E::NotValidYetContext { .. }) => {
            "correct the clock of this machine, or wait until the server's certificate is valid"
        }
        Some(E::Revoked) => {
            "if the server already has a new certificate, find out what answers in its place; \
             otherwise give it a new one. The lists are in the file of `--tls-crl-path` \
             (KEYUTIL_TLS_CRL_PATH)"
        }
        Some(E::InvalidPurpose | E::InvalidPurposeContext { .. }) => {
            "reissue the server's certificate with the extended key usage `serverAuth`"
        }
        _ => {
            let issuer = presented.map(|leaf| format!(", `{}`", leaf.issuer));
            return format!(
                "set `--tls-ca-path` (TEMPORAL_TLS_SERVER_CA_CERT_PATH) to the CA that issued the \
                 server's certificate{}; if that is an intermediate CA, the server must send its \
                 certificate too",
                issuer.unwrap_or_default()
            );
        }
    };
    hint.to_owned()
}
