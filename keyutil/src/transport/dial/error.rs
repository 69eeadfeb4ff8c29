//! Why there is no connection.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use tokio_rustls::rustls::{self, AlertDescription, CertificateError, pki_types::ServerName};

use super::Peer;
use crate::transport::stream::alert_in;

/// Why there is no connection.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DialError {
    /// The name is not known.
    #[error("failed to resolve the host name `{host}`")]
    Resolve {
        /// The name.
        host: String,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// Nobody listens, or nothing comes through.
    #[error("no TCP connection to {address}")]
    Connect {
        /// The last address that was tried.
        address: SocketAddr,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// Somebody listens, or not even that, and says nothing.
    #[error("{phase} within {}", humantime::format_duration(Duration::from_millis(after.as_millis() as u64)))]
    TimedOut {
        /// What was waited for.
        phase: Phase,
        /// The limit.
        after: Duration,
    },
    /// Somebody listens, and hangs up on plaintext.
    #[error("the server closed the connection without an answer, and the connection has no TLS")]
    PlaintextClosed,
    /// Kept back.
    #[error("{address} is another machine, and a token must not travel there in plaintext")]
    TokenInPlaintext {
        /// What the name resolved to.
        address: SocketAddr,
    },
    /// TLS failed before any data.
    #[error("the TLS handshake with `{}` failed", Shown(server_name))]
    Handshake {
        /// The name that was expected.
        server_name: ServerName<'static>,
        /// What the server had shown until then.
        peer: Arc<Peer>,
        /// Why: mostly a [`rustls::Error`] inside.
        #[source]
        source: Arc<io::Error>,
    },
    /// The server ended TLS with an alert after the handshake: with TLS 1.3 that is how it refuses
    /// a client certificate.
    #[error("the server ended the connection with the TLS alert `{alert:?}`")]
    Alert {
        /// RFC 8446 section 6.2.
        alert: AlertDescription,
        /// What the server had shown until then, where it was the first thing that it said.
        peer: Option<Arc<Peer>>,
    },
    /// TLS, but something else than gRPC behind it.
    #[error(
        "the server did not agree to HTTP/2 (ALPN `h2`): it may be no gRPC server, or a proxy that speaks HTTP/1.1 alone"
    )]
    NoHttp2,
}

/// What a connection waits for, in the order in which it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The addresses of a name.
    Name,
    /// A TCP connection.
    Tcp,
    /// The end of the TLS handshake.
    Handshake,
    /// Whatever the server says first.
    Answer,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "the host name was not resolved",
            Self::Tcp => "no TCP connection",
            Self::Handshake => "a TCP connection, and no end of the TLS handshake",
            Self::Answer => "no answer",
        })
    }
}

impl DialError {
    /// What the server had shown of itself until then.
    pub fn peer(&self) -> Option<&Peer> {
        match self {
            Self::Handshake { peer, .. } => Some(peer),
            Self::Alert { peer, .. } => peer.as_deref(),
            _ => None,
        }
    }

    pub(in crate::transport) fn handshake(
        server_name: &ServerName<'static>,
        peer: &Arc<Peer>,
        source: io::Error,
    ) -> Self {
        match alert_in(&source) {
            // From a server that knows ALPN, and has other protocols only.
            Some(AlertDescription::NoApplicationProtocol) => Self::NoHttp2,
            Some(alert) => Self::Alert {
                alert,
                peer: Some(peer.clone()),
            },
            None => Self::Handshake {
                server_name: server_name.clone(),
                peer: peer.clone(),
                source: Arc::new(source),
            },
        }
    }

    /// The alert with which the server refused our certificate, or the lack of one.
    pub fn client_certificate_alert(&self) -> Option<AlertDescription> {
        let Self::Alert { alert, .. } = self else {
            return None;
        };
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
                // Go could not read what we presented.
                | A::DecodeError
        )
        .then_some(*alert)
    }

    /// What is wrong with the server's certificate, if that is why.
    pub fn server_certificate_error(&self) -> Option<&CertificateError> {
        match self.tls_error()? {
            rustls::Error::InvalidCertificate(error) => Some(error),
            _ => None,
        }
    }

    /// Whether the other side answered TLS with something that is no TLS.
    pub fn is_plaintext_server(&self) -> bool {
        matches!(self.tls_error(), Some(rustls::Error::InvalidMessage(_)))
    }

    fn tls_error(&self) -> Option<&rustls::Error> {
        let Self::Handshake { source, .. } = self else {
            return None;
        };
        source.get_ref()?.downcast_ref()
    }

    /// Whether the same attempt may succeed later without anybody changing the configuration.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Resolve { .. } | Self::Connect { .. } | Self::TimedOut { .. } => true,
            // Port forwarding accepts for a server that is not up yet, and hangs up.
            Self::PlaintextClosed => true,
            // Something in between that cut the line, not something that said no.
            Self::Handshake { .. } => self.tls_error().is_none(),
            Self::Alert { .. } | Self::TokenInPlaintext { .. } | Self::NoHttp2 => false,
        }
    }
}

struct Shown<'a>(&'a ServerName<'static>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_str())
    }
}
