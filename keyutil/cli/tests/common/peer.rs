//! A TLS server of the test's own, with just enough HTTP/2 (RFC 9113) to tell each caller which
//! certificate it presented. It reads no headers, and has one answer for everything.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use http::Request;
use keyutil::{probe::RotatingChannel, x509::certificate::CertificateSummary};
use keyutil_cli::pki::Leaf;
use secrecy::ExposeSecret;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::WebPkiClientVerifier,
    },
};
use tonic::body::Body;
use tower::ServiceExt;

use super::frames::{
    ACK, DATA, END_STREAM, HEADERS, PING, SETTINGS, STATUS_200, answer, frame, literal, read_frame,
};

/// Ends with its owner.
pub struct Peer {
    pub port: u16,
    config: Arc<Mutex<Arc<ServerConfig>>>,
    ends_connections: Arc<AtomicBool>,
    silent: Arc<AtomicBool>,
    open: Open,
    task: JoinHandle<()>,
}

/// The serials of the client certificates of the open connections, by the number of the connection.
type Open = Arc<Mutex<BTreeMap<u32, String>>>;

impl Peer {
    pub async fn start(config: ServerConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let config = Arc::new(Mutex::new(Arc::new(config)));
        let ends_connections = Arc::new(AtomicBool::new(false));
        let (current, ends) = (config.clone(), ends_connections.clone());
        let silent = Arc::new(AtomicBool::new(false));
        let mute = silent.clone();
        let open = Open::default();
        let opened = open.clone();
        let task = tokio::spawn(async move {
            for connection in 1.. {
                let (tcp, _) = listener.accept().await.unwrap();
                let config = current.lock().unwrap().clone();
                let ends = ends.clone();
                let mute = mute.load(SeqCst);
                let open = opened.clone();
                // The client reports a connection that fails.
                tokio::spawn(async move {
                    if mute {
                        return hold(tcp, config).await;
                    }
                    let ended = serve(tcp, config, connection, &ends, &open).await;
                    open.lock().unwrap().remove(&connection);
                    ended
                });
            }
        });
        Self {
            port,
            config,
            ends_connections,
            silent,
            open,
            task,
        }
    }

    /// The serials of the client certificates of the open connections.
    pub fn serials(&self) -> Vec<String> {
        self.open.lock().unwrap().values().cloned().collect()
    }

    /// Waits until these are the serials of the open connections.
    pub async fn until_serials(&self, expected: &[&str]) {
        let begun = Instant::now();
        while self.serials() != expected {
            let waited = begun.elapsed() < Duration::from_secs(20);
            assert!(waited, "{:?} instead of {expected:?}", self.serials());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// For the connections to come.
    pub fn present(&self, config: ServerConfig) {
        *self.config.lock().unwrap() = Arc::new(config);
    }

    /// From now on, each connection ends with GOAWAY after its first answer.
    pub fn end_each_connection(&self) {
        self.ends_connections.store(true, SeqCst);
    }

    /// On the connections to come nothing is said after the handshake.
    pub fn fall_silent(&self, silent: bool) {
        self.silent.store(silent, SeqCst);
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Presents this leaf, and wants a client certificate of one of these CAs.
pub fn mutual(leaf: &Leaf, clients: &str) -> ServerConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(clients.as_bytes()) {
        roots.add(authority.unwrap()).unwrap();
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
    let chain = CertificateDer::pem_slice_iter(leaf.certificate_pem.as_bytes());
    let key = leaf.key_pem.expose_secret().as_bytes();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(
            chain.collect::<Result<_, _>>().unwrap(),
            PrivateKeyDer::from_pem_slice(key).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// What the peer saw of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Of the client certificate.
    pub serial: String,
    /// `Full` or `Resumed`.
    pub handshake: String,
    /// Which connection it was, counted from 1.
    pub connection: String,
}

/// Makes one call, and says what the peer saw of it.
pub async fn call(channel: &RotatingChannel) -> Seen {
    try_call(channel).await.unwrap()
}

/// The same where it may fail: a call that was queued on a connection which ends is for the SDK to
/// repeat.
pub async fn try_call(channel: &RotatingChannel) -> Result<Seen, tonic::transport::Error> {
    let request = Request::post("/any/thing").body(Body::empty()).unwrap();
    let answer = channel.clone().oneshot(request).await?;
    let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    Ok(Seen {
        serial: header("serial"),
        handshake: header("handshake"),
        connection: header("connection-number"),
    })
}

async fn hold(tcp: TcpStream, config: Arc<ServerConfig>) -> io::Result<()> {
    let mut tls = TlsAcceptor::from(config).accept(tcp).await?;
    while tls.read(&mut [0; 1024]).await? > 0 {}
    Ok(())
}

async fn serve(
    tcp: TcpStream,
    config: Arc<ServerConfig>,
    connection: u32,
    ends: &AtomicBool,
    open: &Open,
) -> io::Result<()> {
    // The client waits for each of these small frames.
    tcp.set_nodelay(true)?;
    let mut tls = TlsAcceptor::from(config).accept(tcp).await?;
    let (_, session) = tls.get_ref();
    let leaf = session.peer_certificates().and_then(|chain| chain.first());
    let serial = leaf.map(|leaf| CertificateSummary::from_der(leaf).unwrap().serial);
    let handshake = session.handshake_kind().map(|kind| format!("{kind:?}"));
    let headers = [
        &[STATUS_200][..],
        &literal("content-type", "application/grpc"),
        &literal("serial", serial.as_deref().unwrap_or_default()),
        &literal("handshake", &handshake.unwrap_or_default()),
        &literal("connection-number", &connection.to_string()),
    ]
    .concat();

    // First, as Go does.
    tls.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    tls.flush().await?;
    let mut preface = [0; 24];
    tls.read_exact(&mut preface).await?;
    let serial = serial.unwrap_or_default();
    open.lock().unwrap().insert(connection, serial);
    loop {
        let (kind, flags, stream, payload) = read_frame(&mut tls).await?;
        let response = match kind {
            SETTINGS if flags & ACK == 0 => frame(SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 => frame(PING, ACK, 0, &payload),
            HEADERS | DATA if flags & END_STREAM != 0 => answer(stream, &headers, Some(&[])),
            _ => Vec::new(),
        };
        if kind == DATA && !payload.is_empty() {
            // Or the client has to stop after 64 KiB.
            let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
            tls.write_all(&frame(WINDOW_UPDATE, 0, 0, &length)).await?;
        }
        tls.write_all(&response).await?;
        tls.flush().await?;
        if stream != 0 && !response.is_empty() && ends.load(SeqCst) {
            let no_error = [stream.to_be_bytes(), [0; 4]].concat();
            tls.write_all(&frame(GOAWAY, 0, 0, &no_error)).await?;
            return tls.shutdown().await;
        }
    }
}

const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
