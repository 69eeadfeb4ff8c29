//! Why there is no authorized connection, and what to do about it.

use std::{
    fmt,
    time::{Duration, UNIX_EPOCH},
};

use tokio_rustls::rustls::CertificateError;
use tonic::{Code, Status};

use crate::{settings::Problems, transport::DialError};

/// Why there is no authorized connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The arguments, or the files that they name.
    #[error(transparent)]
    Settings(#[from] Problems),
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
        source: DialError,
    },
    /// The server's certificate is not what it must be.
    #[error(
        "failed to verify the certificate of `{target}`, trusting {trusted}{}",
        Clock(source)
    )]
    ServerCertificate {
        /// `host:port`.
        target: String,
        /// The CAs that it was verified with.
        trusted: String,
        /// What is wrong with it.
        #[source]
        source: DialError,
    },
    /// Ours is not.
    #[error("`{target}` refused the client certificate (presented: {presented})")]
    ClientCertificate {
        /// `host:port`.
        target: String,
        /// Serial and issuer, or none.
        presented: String,
        /// The alert.
        #[source]
        source: DialError,
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
        /// Whether there was a token to be refused.
        bore_token: bool,
        /// What can be seen from this side.
        explanation: String,
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

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Unreachable { source, .. } if source.is_plaintext_server() => {
                "the server answered without TLS: leave out the TLS options and the token, or use \
                 `--tls=false` for a server on this machine"
                    .to_owned()
            }
            Self::Unreachable {
                source: DialError::PlaintextClosed,
                ..
            } => "for a server with TLS give `--tls`, and a CA and a client certificate where it \
                  needs them: `--tls-ca-path`, `--tls-cert-path`, `--tls-key-path`"
                .to_owned(),
            Self::Unreachable {
                source: DialError::Resolve { .. },
                ..
            } => "check the host name in `--address` (TEMPORAL_ADDRESS)".to_owned(),
            Self::Unreachable {
                source: DialError::TimedOut { .. },
                ..
            } => "something accepts the connection or drops it, and says nothing: check the port, \
                 and the firewalls and proxies on the way"
                .to_owned(),
            Self::Unreachable { .. } => {
                "check that the server is running and that `--address` (TEMPORAL_ADDRESS) is right"
                    .to_owned()
            }
            Self::ServerCertificate { source, .. } => server_certificate_hint(source),
            Self::ClientCertificate { presented, .. } if presented == "none" => {
                "this server wants a client certificate: give `--tls-cert-path` and \
                 `--tls-key-path`"
                    .to_owned()
            }
            Self::ClientCertificate { .. } => {
                "have the certificate issued by a CA that the server trusts for clients \
                 (`clientCaFiles`), with the extended key usage `clientAuth`, and valid by the \
                 server's clock"
                    .to_owned()
            }
            Self::Refused {
                bore_token: false, ..
            } => "give `--signing-key` to mint tokens with, or `--token-file`, or an API key in \
                 TEMPORAL_API_KEY"
                .to_owned(),
            Self::Refused { .. } => {
                "look at the token with `keyutil token inspect`, and give it `--jwks` with what \
                 the server reads to have it verified"
                    .to_owned()
            }
            Self::NoNamespace { namespace, .. } => format!(
                "register it with `keyutil namespace register --namespace {namespace}`; names are case-sensitive"
            ),
            _ => return None,
        };
        Some(hint)
    }
}

fn server_certificate_hint(source: &DialError) -> String {
    use CertificateError as E;
    match source.server_certificate_error() {
        Some(E::NotValidForName | E::NotValidForNameContext { .. }) => {
            "give the name that the certificate is for with `--tls-server-name` \
             (TEMPORAL_TLS_SERVER_NAME), or connect by that name"
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
            "name the CA that issued the server's certificate with `--tls-ca-path` \
             (TEMPORAL_TLS_SERVER_CA_CERT_PATH)"
        }
    }
    .to_owned()
}

/// Where time is the matter: what time it is taken to be. rustls tells it in seconds since 1970.
struct Clock<'a>(&'a DialError);

impl fmt::Display for Clock<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, limit, now) = match self.0.server_certificate_error() {
            Some(CertificateError::ExpiredContext { time, not_after }) => {
                ("expired at", not_after, time)
            }
            Some(CertificateError::NotValidYetContext { time, not_before }) => {
                ("is not valid before", not_before, time)
            }
            _ => return Ok(()),
        };
        let [limit, now] = [limit, now].map(|time| {
            let time = UNIX_EPOCH + Duration::from_secs(time.as_secs());
            humantime::format_rfc3339_seconds(time)
        });
        write!(
            f,
            ": it {word} {limit}, and by the clock of this machine it is {now}"
        )
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
