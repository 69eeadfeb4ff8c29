//! The errors of a connection attempt.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use tokio_rustls::rustls::{
    self, AlertDescription, CertificateError,
    pki_types::{ServerName, UnixTime},
};
use tonic::{Status, metadata::MetadataValue};

use super::peer::PeerInfo;
use crate::base::chain;

/// The reason why a connection attempt failed.
#[expect(missing_docs, reason = "the message says what a field is")]
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectorError {
    /// The host name was not resolved.
    #[error("failed to resolve the host name `{host}`")]
    Resolve {
        host: String,
        #[source]
        source: Arc<io::Error>,
    },
    /// The TCP connection was refused, or its packets were dropped.
    #[error("no TCP connection to {address}")]
    Connect {
        /// The last address that was tried.
        address: SocketAddr,
        #[source]
        source: Arc<io::Error>,
    },
    /// The connection attempt timed out.
    #[error("{stage} within {}", humantime::format_duration(Duration::from_millis(after.as_millis() as u64)))]
    TimedOut {
        stage: ConnectStage,
        after: Duration,
    },
    /// The server closed a plaintext connection.
    #[error("the server closed the connection, which does not use TLS, without an answer")]
    PlaintextClosed,
    /// The connector refused to send a token in plaintext to another machine.
    #[error("{address} is another machine, and a token must not be sent there in plaintext")]
    TokenInPlaintext { address: SocketAddr },
    /// The server's certificate could not be verified.
    #[error("{}", InWords { error, peer })]
    ServerCertificate {
        error: Box<CertificateError>,
        /// What the server had shown before the failure.
        peer: Arc<PeerInfo>,
    },
    /// The server's answer was not TLS.
    #[error("the server answered without TLS")]
    NoTls,
    /// The connection was closed during the handshake.
    #[error("the connection was closed during the TLS handshake")]
    HungUp,
    /// The TLS handshake failed for another reason.
    #[error("the TLS handshake with `{}` failed", Shown(server_name))]
    Handshake {
        server_name: ServerName<'static>,
        /// What the server had shown before the failure.
        peer: Arc<PeerInfo>,
        /// The error, which usually contains a [`rustls::Error`].
        #[source]
        source: Arc<io::Error>,
    },
    /// The server ended the connection with a TLS alert. With TLS 1.3 it rejects a client
    /// certificate in this way after the handshake.
    #[error("the server ended the connection with the TLS alert `{alert:?}`")]
    Alert {
        /// RFC 8446 section 6.2.
        alert: AlertDescription,
        /// What the server had shown, if the alert was its first message.
        peer: Option<Arc<PeerInfo>>,
    },
    /// The server supports TLS but not HTTP/2.
    #[error(
        "the server did not agree to HTTP/2 (ALPN `h2`): it may not be a gRPC server, or be a proxy that supports only HTTP/1.1"
    )]
    NoHttp2,
    /// All addresses of the name failed.
    #[error("{}", Each(.0))]
    Addresses(Arc<[(SocketAddr, ConnectorError)]>),
    /// The HTTP proxy was not reached, or made no connection to the server.
    #[error("failed to connect through the proxy `{proxy}`")]
    Proxy {
        /// `host:port`.
        proxy: String,
        #[source]
        source: Box<ConnectorError>,
    },
    /// The HTTP proxy refused the tunnel.
    #[error("the proxy answered `{status}`")]
    ProxyAnswer {
        /// The first line of the answer.
        status: String,
        code: u16,
    },
}

/// The stages of connecting, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectStage {
    /// Name resolution.
    Name,
    /// The TCP connection.
    Tcp,
    /// The tunnel of an HTTP proxy.
    Proxy,
    /// The TLS handshake.
    Handshake,
    /// The first data from the server.
    Answer,
}

impl fmt::Display for ConnectStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "the host name was not resolved",
            Self::Tcp => "no TCP connection",
            Self::Proxy => "no answer",
            Self::Handshake => "the TLS handshake did not finish",
            Self::Answer => "no answer",
        })
    }
}

impl ConnectorError {
    /// Combines the errors of these addresses.
    pub(super) fn of_addresses(mut failed: Vec<(SocketAddr, Self)>) -> Self {
        if failed.len() == 1
            && let Some((_, error)) = failed.pop()
        {
            return error;
        }
        failed.sort_by_key(|(address, _)| *address);
        Self::Addresses(failed.into())
    }

    /// The error on which the diagnosis and the next step depend. Of several it is the first that
    /// another attempt would repeat, such as a rejected certificate, or else the first one.
    pub fn decisive(&self) -> &Self {
        let Self::Addresses(failed) = self else {
            return self;
        };
        let lasting = failed.iter().find(|(_, error)| !error.may_pass());
        lasting.or(failed.first()).map_or(self, |(_, error)| error)
    }

    /// What the server had shown before the failure.
    pub fn peer(&self) -> Option<&PeerInfo> {
        match self.decisive() {
            Self::Handshake { peer, .. } | Self::ServerCertificate { peer, .. } => Some(peer),
            Self::Alert { peer, .. } => peer.as_deref(),
            _ => None,
        }
    }

    pub(super) fn handshake(
        server_name: &ServerName<'static>,
        peer: &Arc<PeerInfo>,
        source: io::Error,
    ) -> Self {
        match alert_in(&source) {
            // The server knows ALPN, and offers only other protocols.
            Some(AlertDescription::NoApplicationProtocol) => Self::NoHttp2,
            Some(alert) => Self::Alert {
                alert,
                peer: Some(peer.clone()),
            },
            None => match tls_error(&source) {
                Some(rustls::Error::InvalidCertificate(error)) => Self::ServerCertificate {
                    error: Box::new(error.clone()),
                    peer: peer.clone(),
                },
                Some(rustls::Error::InvalidMessage(_)) => Self::NoTls,
                None if is_end(&source) => Self::HungUp,
                _ => Self::Handshake {
                    server_name: server_name.clone(),
                    peer: peer.clone(),
                    source: Arc::new(source),
                },
            },
        }
    }

    /// The alert with which the server rejected the client certificate or its absence.
    pub fn client_certificate_alert(&self) -> Option<AlertDescription> {
        let Self::Alert { alert, peer } = self.decisive() else {
            return None;
        };
        // A server that has not asked for a certificate cannot have rejected one.
        if peer.as_ref().is_some_and(|peer| peer.asked_for().is_none()) {
            return None;
        }
        use AlertDescription as A;
        matches!(
            alert,
            A::CertificateRequired
                | A::BadCertificate
                | A::UnsupportedCertificate
                | A::CertificateRevoked
                | A::CertificateExpired
                | A::CertificateUnknown
                | A::UnknownCA
                | A::AccessDenied
                | A::HandshakeFailure
                // Go could not parse the certificate.
                | A::DecodeError
        )
        .then_some(*alert)
    }

    /// The error in the server's certificate, if that is the cause.
    pub fn server_certificate_error(&self) -> Option<&CertificateError> {
        match self.decisive() {
            Self::ServerCertificate { error, .. } => Some(error),
            _ => None,
        }
    }

    /// Whether the server's certificate, or one of its issuers, is revoked.
    pub fn is_revoked(&self) -> bool {
        self.server_certificate_error() == Some(&CertificateError::Revoked)
    }

    /// Whether the same attempt may succeed later with the same configuration.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Addresses(failed) => failed.iter().all(|(_, error)| error.may_pass()),
            Self::Proxy { source, .. } => source.may_pass(),
            // The proxy, or the server behind it, may be starting.
            Self::ProxyAnswer { code, .. } => *code >= 500,
            Self::Resolve { .. } | Self::Connect { .. } | Self::TimedOut { .. } => true,
            // Port forwarding accepts connections for a server that is not running yet, and closes
            // them.
            Self::PlaintextClosed => true,
            // The connection was cut, not refused.
            Self::HungUp => true,
            Self::Handshake { source, .. } => tls_error(source).is_none(),
            Self::ServerCertificate { .. }
            | Self::Alert { .. }
            | Self::NoTls
            | Self::TokenInPlaintext { .. }
            | Self::NoHttp2 => false,
        }
    }
}

fn tls_error(source: &io::Error) -> Option<&rustls::Error> {
    source.get_ref()?.downcast_ref()
}

fn is_end(source: &io::Error) -> bool {
    matches!(
        source.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}

/// Displays the errors of several addresses.
struct Each<'a>(&'a [(SocketAddr, ConnectorError)]);

impl fmt::Display for Each<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} addresses failed", self.0.len())?;
        for (index, (address, error)) in self.0.iter().enumerate() {
            f.write_str(if index == 0 { ": " } else { "; " })?;
            match error {
                ConnectorError::Connect { .. } | ConnectorError::TokenInPlaintext { .. } => {}
                _ => write!(f, "{address}: ")?,
            }
            f.write_str(&chain(error))?;
        }
        Ok(())
    }
}

struct Shown<'a>(&'a ServerName<'static>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_str())
    }
}

/// The alert in an error of rustls, if the peer sent one.
pub fn alert_in(error: &io::Error) -> Option<AlertDescription> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

/// Displays the error in the certificate that this peer presented.
struct InWords<'a> {
    error: &'a CertificateError,
    peer: &'a PeerInfo,
}

impl fmt::Display for InWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use CertificateError as E;
        match self.error {
            E::UnknownIssuer => f.write_str("none of these CAs issued it (`UnknownIssuer`)"),
            E::BadSignature => f.write_str(
                "its issuer has the name of one of these CAs, but another key (`BadSignature`)",
            ),
            E::ExpiredContext { time, not_after } => write!(
                f,
                "it expired at {} (the clock of this machine: {})",
                shown(*not_after),
                shown(*time)
            ),
            E::NotValidYetContext { time, not_before } => write!(
                f,
                "it is not valid before {} (the clock of this machine: {})",
                shown(*not_before),
                shown(*time)
            ),
            E::NotValidForNameContext { expected, .. } => {
                write!(f, "it is not valid for the name `{}`", expected.to_str())?;
                let presented = self.peer.presented();
                match presented.map(|leaf| leaf.names()).unwrap_or_default() {
                    names if names.is_empty() => f.write_str(", and it contains no names"),
                    names => write!(f, ", only for `{}`", names.join("`, `")),
                }
            }
            E::Revoked => f.write_str(
                "it, or one of its issuers, is revoked by a list in the file of `--tls-crl-path`",
            ),
            E::InvalidPurpose | E::InvalidPurposeContext { .. } => {
                f.write_str("it lacks the extended key usage `serverAuth`")
            }
            other => write!(f, "{other}"),
        }
    }
}

fn shown(time: UnixTime) -> humantime::Rfc3339Timestamp {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(time.as_secs()))
}

/// The reason why the client, and not the server, ended a call. It is stored in the metadata of the
/// status, because tonic drops the source of a status that an interceptor returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalCause {
    /// There was no valid token, so the call was not sent.
    NotSent,
    /// The answer had HTTP status 431 (RFC 6585 section 5): a proxy limits the size of headers.
    HeadersTooLarge,
    /// The server refused a token that expired after the call was sent.
    TokenExpiredOnTheWay,
}

impl LocalCause {
    /// Marks the status with this cause.
    pub(super) fn mark(self, mut status: Status) -> Status {
        let value = MetadataValue::from_static(self.name());
        status.metadata_mut().insert(KEY, value);
        status
    }

    /// The cause with which a status is marked.
    pub fn of(status: &Status) -> Option<Self> {
        let value = status.metadata().get(KEY)?;
        [
            Self::NotSent,
            Self::HeadersTooLarge,
            Self::TokenExpiredOnTheWay,
        ]
        .into_iter()
        .find(|cause| value == cause.name())
    }

    const fn name(self) -> &'static str {
        match self {
            Self::NotSent => "not-sent",
            Self::HeadersTooLarge => "headers-too-large",
            Self::TokenExpiredOnTheWay => "token-expired-on-the-way",
        }
    }
}

const KEY: &str = "keyutil-local-cause";
