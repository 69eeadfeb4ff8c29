//! Makes one connection: name resolution, TCP, the tunnel of a proxy, and TLS.

use std::{
    future::{self, Future},
    io,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use tokio::{io::AsyncBufReadExt, net::TcpStream, time::Instant};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{self, ClientConfig, client::Resumption, crypto::aws_lc_rs, pki_types::ServerName},
};
use tracing::debug;

use super::{
    addresses::{AddressAttempt, AddressOrder, race},
    error::{ConnectStage, ConnectorError},
    peer::{PeerInfo, RecordingCertResolver, RecordingVerifier},
    proxy::Proxy,
    stream::{ConnectionLog, Pending, Protection, Stream, TrialResult},
};
use crate::{
    base::chain,
    credentials::{Credential, Identity, Reloading, RevocationLists, TrustBundle, revocation},
    status::RemovedCa,
    transport::peer::{Secured, handshake},
};

/// Limit for name resolution, TCP, proxy and TLS together.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The same limit for a trial connection. It is shorter than the limit of the whole trial: if one
/// address hangs, the error still names the addresses that rejected the credentials.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(4);

/// Limit for the TCP connection to one address.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(4);

/// The address of the server, and how connections to it are secured.
#[derive(Debug)]
pub struct Connector {
    host: String,
    port: u16,
    security: Security,
    proxy: Option<Proxy>,
    addresses: Option<Vec<SocketAddr>>,
    order: Arc<AddressOrder>,
    limit: Duration,
    log: Arc<ConnectionLog>,
}

impl Connector {
    /// Makes a connector to this host: a name, or an IP address without brackets.
    pub fn new(host: impl Into<String>, port: u16, security: Security) -> Self {
        Self {
            host: host.into(),
            port,
            security,
            proxy: None,
            addresses: None,
            order: Arc::default(),
            limit: TIMEOUT,
            log: Arc::default(),
        }
    }

    /// Limits a connection attempt to `limit`, if that is shorter than 10 s.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = self.limit.min(limit);
        self
    }

    /// Connects to these addresses instead of those to which the name resolves.
    #[must_use]
    pub fn resolved_to(mut self, addresses: Vec<SocketAddr>) -> Self {
        self.addresses = Some(addresses);
        self
    }

    /// Connects through this proxy. The proxy resolves the name of the server.
    #[must_use]
    pub fn through(mut self, proxy: Option<Proxy>) -> Self {
        self.proxy = proxy;
        self
    }

    /// The proxy, if connections go through one.
    pub fn proxy(&self) -> Option<&Proxy> {
        self.proxy.as_ref()
    }

    /// `host:port`, with brackets around an IPv6 address.
    pub fn target(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The host, without the port.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// How connections are secured.
    pub fn security(&self) -> &Security {
        &self.security
    }

    /// The CA that verified the server in the last handshake, if it was removed from the file.
    pub(super) fn removed_ca(&self) -> Option<RemovedCa> {
        let Security::Tls {
            trust: TrustSource::File(trust),
            ..
        } = &self.security
        else {
            return None;
        };
        let peer = self.log.last_peer()?;
        let removed = trust.peek().removed_among(peer.issuers())?;
        let file = trust.files().first();
        Some(RemovedCa {
            file: file.map_or_else(String::new, |file| file.display().to_string()),
            ..removed
        })
    }

    /// The log of the connections.
    pub fn log(&self) -> &ConnectionLog {
        &self.log
    }

    /// Connects. With a `result` the attempt is a trial: `result` reports its outcome, and a
    /// failure is not recorded as one of the connection in use.
    pub(super) async fn connect(
        &self,
        credentials: &TlsCredentials,
        result: Option<TrialResult>,
    ) -> Result<Stream, ConnectorError> {
        let attempt = self.log.attempt();
        let limit = match &result {
            Some(_) => self.limit.min(TRIAL_TIMEOUT),
            None => self.limit,
        };
        let deadline = Deadline::after(limit);
        match self.establish(credentials, deadline).await {
            Ok((protection, secured, address)) => {
                let pending = Pending {
                    target: self.target(),
                    secured,
                    result,
                    address,
                };
                let log = self.log.clone();
                Ok(Stream::new(protection, log, attempt, pending))
            }
            Err(error) => {
                debug!(
                    target = self.target(),
                    error = chain(&error),
                    "connection attempt failed"
                );
                match result {
                    Some(result) => result.refused(error.clone()),
                    None => self.log.failed(attempt, error.clone()),
                }
                Err(error)
            }
        }
    }

    async fn establish(
        &self,
        credentials: &TlsCredentials,
        deadline: Deadline,
    ) -> Result<(Protection, Option<Secured>, AddressAttempt), ConnectorError> {
        let addresses = self.resolve(deadline).await?;
        let several = addresses.len() > 1;
        race(addresses, async |address| {
            let attempt = AddressAttempt::new(&self.order, address);
            let tcp = self.tcp(address, deadline).await?;
            let Security::Tls { server_name, .. } = &self.security else {
                return Ok((Protection::Plain(tcp), None, attempt));
            };
            let (mut tls, secured) = self.tls(tcp, credentials, deadline).await?;
            if several {
                first_data(&mut tls).await.map_err(|source| {
                    ConnectorError::handshake(server_name, &secured.peer, source)
                })?;
            }
            Ok((Protection::tls(tls), Some(secured), attempt))
        })
        .await
    }

    /// The deadline of an attempt that starts now.
    pub fn deadline(&self) -> Deadline {
        Deadline::after(self.limit)
    }

    /// Resolves the host, or that of the proxy, and returns the addresses in the order in which
    /// they are tried.
    pub async fn resolve(&self, deadline: Deadline) -> Result<Vec<SocketAddr>, ConnectorError> {
        let (host, port) = match &self.proxy {
            Some(proxy) => (proxy.host(), proxy.port()),
            None => (self.host.as_str(), self.port),
        };
        let failed = |source| {
            self.to_proxy(ConnectorError::Resolve {
                host: host.to_owned(),
                source: Arc::new(source),
            })
        };
        let addresses = match &self.addresses {
            Some(addresses) => addresses.clone(),
            None => {
                let resolving = tokio::net::lookup_host((host, port));
                let resolved = deadline.wait(ConnectStage::Name, resolving).await;
                let resolved = resolved.map_err(|late| self.to_proxy(late))?;
                resolved.map_err(failed)?.collect()
            }
        };
        if addresses.is_empty() {
            return Err(failed(io::Error::other("the name has no address")));
        }
        Ok(self.order.sort(addresses))
    }

    /// Connects to this address, and from there to the server if it is the address of the proxy.
    pub async fn tcp(
        &self,
        address: SocketAddr,
        deadline: Deadline,
    ) -> Result<TcpStream, ConnectorError> {
        if let Security::Plaintext {
            loopback_only: true,
        } = self.security
            && (self.proxy.is_some() || !address.ip().is_loopback())
        {
            return Err(ConnectorError::TokenInPlaintext { address });
        }
        let connected = async {
            let connecting = tokio::time::timeout(ADDRESS_TIMEOUT, TcpStream::connect(address));
            let connected = deadline
                .wait(ConnectStage::Tcp, connecting)
                .await?
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            // gRPC frames are small, and a caller waits for each.
            let connected = connected.and_then(|tcp| tcp.set_nodelay(true).map(|()| tcp));
            let mut tcp = connected.map_err(|source| ConnectorError::Connect {
                address,
                source: Arc::new(source),
            })?;
            if let Some(proxy) = &self.proxy {
                let target = self.target();
                let tunnel = proxy.tunnel(&mut tcp, address, &target);
                deadline.wait(ConnectStage::Proxy, tunnel).await??;
            }
            Ok(tcp)
        };
        connected.await.map_err(|error| self.to_proxy(error))
    }

    /// Adds the proxy, if there is one, to an error.
    fn to_proxy(&self, error: ConnectorError) -> ConnectorError {
        match &self.proxy {
            None => error,
            Some(proxy) => ConnectorError::Proxy {
                proxy: proxy.to_string(),
                source: Box::new(error),
            },
        }
    }

    /// Performs the TLS handshake. With TLS 1.3 the server may reject the client certificate later.
    pub async fn tls(
        &self,
        tcp: TcpStream,
        credentials: &TlsCredentials,
        deadline: Deadline,
    ) -> Result<(TlsStream<TcpStream>, Secured), ConnectorError> {
        let Security::Tls {
            server_name,
            trust: trust_source,
            revoked,
            ..
        } = &self.security
        else {
            return Err(ConnectorError::PlaintextClosed);
        };
        let identity = credentials.identity.as_deref();
        let trust = match &credentials.trust {
            Some(held) if !trust_source.distrusts(held) => held.clone(),
            _ => trust_source.current(),
        };
        let peer = Arc::new(PeerInfo::default());
        let revoked = revoked.as_ref().map(|lists| lists.current());
        let config =
            client_config(identity, &trust, revoked.as_deref(), &peer).map_err(|error| {
                ConnectorError::handshake(server_name, &peer, io::Error::other(error))
            })?;
        let connecting = TlsConnector::from(Arc::new(config)).connect(server_name.clone(), tcp);
        let tls = deadline
            .wait(ConnectStage::Handshake, connecting)
            .await?
            .map_err(|source| ConnectorError::handshake(server_name, &peer, source))?;
        let (_, session) = tls.get_ref();
        if session.alpn_protocol() != Some(HTTP2) {
            return Err(ConnectorError::NoHttp2);
        }
        // Checked after the handshake, because the other side decides how long that takes.
        if trust_source.distrusts(&trust) {
            let removed = io::Error::other(
                "a CA that was removed from the CA file became distrusted during the handshake",
            );
            return Err(ConnectorError::handshake(server_name, &peer, removed));
        }
        let handshake = handshake(session, identity, &peer);
        Ok((tls, Secured { handshake, peer }))
    }
}

/// How long to wait for the first data after the handshake before the connection counts as made, if
/// the name has several addresses. Go's gRPC server sends data at once. A server that sends nothing
/// until the client does has accepted the client certificate by then.
const FIRST_DATA: Duration = Duration::from_secs(1);

/// Waits for the first data, without consuming it, or for the alert that rejects the client
/// certificate: another address may accept the certificate.
async fn first_data(tls: &mut TlsStream<TcpStream>) -> io::Result<()> {
    match tokio::time::timeout(FIRST_DATA, tls.fill_buf()).await {
        Ok(Ok([])) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(Err(error)) => Err(error),
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}

/// The deadline for name resolution, TCP and TLS together.
#[derive(Clone, Copy)]
pub struct Deadline {
    at: Instant,
    limit: Duration,
}

impl Deadline {
    fn after(limit: Duration) -> Self {
        Self {
            at: Instant::now() + limit,
            limit,
        }
    }

    async fn wait<F: Future>(
        self,
        stage: ConnectStage,
        future: F,
    ) -> Result<F::Output, ConnectorError> {
        let done = tokio::time::timeout_at(self.at, future).await;
        done.map_err(|_| ConnectorError::TimedOut {
            stage,
            after: self.limit,
        })
    }
}

/// The rustls config of one connection. Resumption is disabled: a resumed session would present the
/// client certificate of the earlier session, and hide that it was replaced.
fn client_config(
    identity: Option<&Identity>,
    trust: &Arc<TrustBundle>,
    revoked: Option<&RevocationLists>,
    peer: &Arc<PeerInfo>,
) -> Result<ClientConfig, rustls::client::VerifierBuilderError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = revocation::server_verifier(trust.roots(), revoked)?;
    #[expect(clippy::expect_used, reason = "the provider has both versions")]
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("aws-lc-rs knows TLS 1.2 and 1.3");
    let mut config = builder
        // The verifier delegates to rustls.
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(RecordingVerifier {
            verifier,
            trust: trust.clone(),
            peer: peer.clone(),
        }))
        .with_client_cert_resolver(Arc::new(RecordingCertResolver {
            certified: identity.map(Identity::certified),
            peer: peer.clone(),
        }));
    config.alpn_protocols = vec![HTTP2.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

const HTTP2: &[u8] = b"h2";

/// How a connection is secured.
#[derive(Clone, Debug)]
pub enum Security {
    /// Plaintext. With `loopback_only` the connector refuses other machines, because calls have
    /// tokens.
    Plaintext {
        /// Whether calls have tokens.
        loopback_only: bool,
    },
    /// TLS, or mutual TLS if there is an identity.
    Tls {
        /// The name that the server's certificate must contain.
        server_name: ServerName<'static>,
        /// The client certificate.
        identity: Option<Reloading<Identity>>,
        /// The CAs that verify the server.
        trust: TrustSource,
        /// The revocation lists of server certificates.
        revoked: Option<Reloading<RevocationLists>>,
    },
}

/// The source of the trusted CAs.
#[derive(Clone, Debug)]
pub enum TrustSource {
    /// A file, which is reloaded.
    File(Reloading<TrustBundle>),
    /// The CAs of the operating system.
    System(Arc<TrustBundle>),
}

impl TrustSource {
    /// The CAs that are trusted now.
    pub fn current(&self) -> Arc<TrustBundle> {
        match self {
            Self::File(trust) => trust.current(),
            Self::System(trust) => trust.clone(),
        }
    }

    /// Whether `held`, an earlier bundle, has a CA that is now distrusted.
    fn distrusts(&self, held: &Arc<TrustBundle>) -> bool {
        match self {
            Self::File(trust) => trust.peek().distrusts(held),
            Self::System(_) => false,
        }
    }
}

/// The TLS credentials of one connection. In plaintext there are none.
#[derive(Clone, Debug, Default)]
pub struct TlsCredentials {
    /// The client certificate.
    pub identity: Option<Arc<Identity>>,
    /// The CAs that verify the server.
    pub trust: Option<Arc<TrustBundle>>,
    /// The revocation lists of server certificates. New connections use the current ones.
    pub revoked: Option<Arc<RevocationLists>>,
}

impl TlsCredentials {
    /// The current credentials.
    pub fn now(security: &Security) -> Self {
        match security {
            Security::Plaintext { .. } => Self::default(),
            Security::Tls {
                identity,
                trust,
                revoked,
                ..
            } => Self {
                identity: identity.as_ref().map(|identity| identity.current()),
                trust: Some(trust.current()),
                revoked: revoked.as_ref().map(|lists| lists.current()),
            },
        }
    }

    /// The same credentials with the current CAs and revocation lists; `None` unless one of these
    /// CAs is now distrusted, or these lists were replaced too long ago.
    pub(super) fn without_distrusted(&self, security: &Security) -> Option<Self> {
        let Security::Tls { trust, .. } = security else {
            return None;
        };
        let removed = self
            .trust
            .as_ref()
            .is_some_and(|held| trust.distrusts(held));
        let replaced = self
            .revoked
            .as_ref()
            .is_some_and(|lists| lists.are_overdue());
        let now = Self::now(security);
        (removed || replaced).then(|| Self {
            identity: self.identity.clone(),
            trust: if removed {
                now.trust
            } else {
                self.trust.clone()
            },
            revoked: now.revoked,
        })
    }

    /// The combinations with only one new credential, to try when both together were rejected. A
    /// bad certificate must not prevent the use of a good CA bundle, or the reverse.
    pub(super) fn partial_updates(&self, new: &Self) -> Vec<Self> {
        let partial_updates = [
            Self {
                identity: self.identity.clone(),
                ..new.clone()
            },
            Self {
                trust: self.trust.clone(),
                ..new.clone()
            },
        ];
        let known = |half: &Self| half.same(self) || half.same(new);
        partial_updates
            .into_iter()
            .filter(|half| !known(half))
            .collect()
    }

    pub(super) fn same(&self, other: &Self) -> bool {
        fn one<T>(some: Option<&Arc<T>>, others: Option<&Arc<T>>) -> bool {
            some.map(Arc::as_ptr) == others.map(Arc::as_ptr)
        }
        one(self.identity.as_ref(), other.identity.as_ref())
            && one(self.trust.as_ref(), other.trust.as_ref())
            && one(self.revoked.as_ref(), other.revoked.as_ref())
    }

    /// Whether the files still hold these credentials. On the path of every call: compares pointers
    /// without counting a reference.
    pub(super) fn is_current(&self, security: &Security) -> bool {
        let Security::Tls {
            identity,
            trust,
            revoked,
            ..
        } = security
        else {
            return true;
        };
        let same_identity = match (identity, &self.identity) {
            (Some(now), Some(then)) => Arc::ptr_eq(&now.peek(), then),
            (None, None) => true,
            _ => false,
        };
        let same_trust = match (trust, &self.trust) {
            (TrustSource::File(now), Some(then)) => Arc::ptr_eq(&now.peek(), then),
            _ => true,
        };
        let same_lists = match (revoked, &self.revoked) {
            (Some(now), Some(then)) => Arc::ptr_eq(&now.peek(), then),
            _ => true,
        };
        same_identity && same_trust && same_lists
    }

    /// Waits until the files contain other credentials than these.
    pub(super) async fn replaced(&self, security: &Security) {
        let Security::Tls {
            identity,
            trust,
            revoked,
            ..
        } = security
        else {
            return future::pending().await;
        };
        let trust = match trust {
            TrustSource::File(trust) => Some(trust),
            TrustSource::System(_) => None,
        };
        tokio::select! {
            () = replaced(identity.as_ref(), self.identity.as_ref()) => {}
            () = replaced(trust, self.trust.as_ref()) => {}
            () = replaced(revoked.as_ref(), self.revoked.as_ref()) => {}
        }
    }
}

/// Waits until the file contains another credential than `then`; without a file, for ever.
async fn replaced<T: Credential>(now: Option<&Reloading<T>>, then: Option<&Arc<T>>) {
    match (now, then) {
        (Some(now), Some(then)) => now.replaced(then).await,
        _ => future::pending().await,
    }
}
