//! Name, TCP and TLS: one connection.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    rustls::{
        self, ClientConfig, client::Resumption, crypto::aws_lc_rs, pki_types::ServerName,
        sign::SingleCertAndKey,
    },
};
use tracing::debug;

mod credentials;
mod error;
mod handshake;
mod journal;

pub use credentials::Credentials;
pub use error::DialError;
pub(super) use handshake::report;
pub(super) use journal::Attempt;
pub use journal::{Journal, Standing};

use super::stream::{Pending, Protection, Stream, Verdict};
use crate::{
    chain,
    credentials::{Identity, Reloading, Trust},
    status::Handshake,
};

/// For name, TCP and TLS together.
const TIMEOUT: Duration = Duration::from_secs(10);

/// For each address of a name, so that one which swallows packets leaves time for the next.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(4);

/// Where the server is, and how to speak to it.
#[derive(Debug)]
pub struct Dial {
    host: String,
    port: u16,
    security: Security,
    journal: Arc<Journal>,
}

/// What protects the connection.
#[derive(Clone, Debug)]
pub enum Security {
    /// Nothing. With `loopback_only` the connection is made to this machine alone, because tokens
    /// travel on it.
    Plaintext {
        /// Whether tokens travel on it.
        loopback_only: bool,
    },
    /// TLS, and mutual TLS where there is an identity.
    Tls {
        /// The name that the server's certificate must be for.
        server_name: ServerName<'static>,
        /// What we present.
        identity: Option<Reloading<Identity>>,
        /// What we verify the server with.
        trust: TrustSource,
    },
}

/// A bundle that is followed, or the machine's own CAs.
#[derive(Clone, Debug)]
pub enum TrustSource {
    /// A file of the user's.
    File(Reloading<Trust>),
    /// The machine's.
    System(Arc<Trust>),
}

impl TrustSource {
    /// What is trusted now.
    pub fn current(&self) -> Arc<Trust> {
        match self {
            Self::File(trust) => trust.current(),
            Self::System(trust) => trust.clone(),
        }
    }
}

impl Dial {
    /// Will connect to this host, a name or an address without brackets.
    pub fn new(host: impl Into<String>, port: u16, security: Security) -> Self {
        Self {
            host: host.into(),
            port,
            security,
            journal: Arc::default(),
        }
    }

    /// `host:port`, with brackets around an IPv6 address.
    pub fn target(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// What protects the connection.
    pub fn security(&self) -> &Security {
        &self.security
    }

    /// What happened to the last connection.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// With a `verdict` it is a trial: whatever comes of it is said there, and a failure is not
    /// one of the connection that calls are on.
    pub(super) async fn connect(
        &self,
        credentials: &Credentials,
        verdict: Option<Verdict>,
    ) -> Result<Stream, DialError> {
        let attempt = self.journal.attempt();
        let dialled = tokio::time::timeout(TIMEOUT, self.establish(credentials)).await;
        let result = dialled.unwrap_or(Err(DialError::TimedOut { after: TIMEOUT }));
        match result {
            Ok((protection, handshake)) => {
                let pending = Pending {
                    target: self.target(),
                    handshake,
                    verdict,
                };
                let journal = self.journal.clone();
                Ok(Stream::new(protection, journal, attempt, pending))
            }
            Err(error) => {
                debug!(
                    target = self.target(),
                    error = chain(&error),
                    "connecting failed"
                );
                match verdict {
                    Some(verdict) => verdict.refused(error.clone()),
                    None => self.journal.failed(attempt, error.clone()),
                }
                Err(error)
            }
        }
    }

    async fn establish(
        &self,
        credentials: &Credentials,
    ) -> Result<(Protection, Option<Handshake>), DialError> {
        let tcp = self.tcp().await?;
        let Security::Tls {
            server_name,
            trust: trust_source,
            ..
        } = &self.security
        else {
            return Ok((Protection::Plain(tcp), None));
        };
        let identity = credentials.identity.as_deref();
        // They are of this same `Security`, and so have it.
        let trust = credentials.trust.clone();
        let trust = trust.unwrap_or_else(|| trust_source.current());
        let config = client_config(identity, &trust);
        let tls = TlsConnector::from(Arc::new(config))
            .connect(server_name.clone(), tcp)
            .await
            .map_err(|source| DialError::handshake(server_name, source))?;
        let (_, session) = tls.get_ref();
        if session.alpn_protocol() != Some(HTTP2) {
            return Err(DialError::NoHttp2);
        }
        let done = handshake::done(session, identity);
        Ok((Protection::tls(tls), Some(done)))
    }

    async fn tcp(&self) -> Result<TcpStream, DialError> {
        let resolved = tokio::net::lookup_host((self.host.as_str(), self.port)).await;
        let addresses: Vec<SocketAddr> = resolved
            .map_err(|source| DialError::Resolve {
                host: self.host.clone(),
                source: Arc::new(source),
            })?
            .collect();
        let mut last = DialError::Resolve {
            host: self.host.clone(),
            source: Arc::new(io::Error::other("the name has no address")),
        };
        for address in addresses {
            if let Security::Plaintext {
                loopback_only: true,
            } = self.security
                && !address.ip().is_loopback()
            {
                last = DialError::TokenInPlaintext { address };
                continue;
            }
            let connecting = tokio::time::timeout(ADDRESS_TIMEOUT, TcpStream::connect(address));
            let connected = connecting
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            match connected {
                Ok(tcp) => {
                    // Small frames, and a person who waits for each.
                    tcp.set_nodelay(true).map_err(|source| DialError::Connect {
                        address,
                        source: Arc::new(source),
                    })?;
                    return Ok(tcp);
                }
                Err(source) => {
                    last = DialError::Connect {
                        address,
                        source: Arc::new(source),
                    };
                }
            }
        }
        Err(last)
    }
}

/// The config of one connection. Resumption is off: a resumed session would show the server the
/// client certificate of the session before, and hide that it was replaced.
fn client_config(identity: Option<&Identity>, trust: &Trust) -> ClientConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    #[expect(clippy::expect_used, reason = "the provider has both versions")]
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("aws-lc-rs knows TLS 1.2 and 1.3")
        .with_root_certificates(trust.roots());
    let mut config = match identity {
        Some(identity) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(
            rustls::sign::CertifiedKey::clone(&identity.certified()),
        ))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![HTTP2.to_vec()];
    config.resumption = Resumption::disabled();
    config
}

const HTTP2: &[u8] = b"h2";
