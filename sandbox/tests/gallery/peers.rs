//! Listeners that are no Temporal server.

use std::{any::Any, net::TcpListener, sync::Arc};

use keyutil_cli::pki::Leaf;
use secrecy::ExposeSecret;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

/// Where it is, and what keeps it there.
pub type Peer = (String, Box<dyn Any + Send>);

/// A socket that is bound to the port and does not listen.
pub fn nobody() -> Peer {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    (socket.local_addr().unwrap().to_string(), Box::new(socket))
}

/// The system accepts connections, and no program reads from them.
pub fn says_nothing() -> Peer {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    (
        listener.local_addr().unwrap().to_string(),
        Box::new(listener),
    )
}

pub fn hangs_up() -> Peer {
    serve(|tcp| async { drop(tcp) })
}

/// Answers the first byte with this.
pub fn answers(words: &'static [u8]) -> Peer {
    serve(move |mut tcp| async move {
        let _ = tcp.read_u8().await;
        let _ = tcp.write_all(words).await;
        // Until the other side has enough.
        let _ = tokio::io::copy(&mut tcp, &mut tokio::io::sink()).await;
    })
}

/// TLS, with these protocols (ALPN) and nothing behind it.
pub fn tls(leaf: &Leaf, protocols: &[&[u8]]) -> Peer {
    let chain = CertificateDer::pem_slice_iter(leaf.certificate_pem.as_bytes());
    let key = leaf.key_pem.expose_secret().as_bytes();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            chain.collect::<Result<_, _>>().unwrap(),
            PrivateKeyDer::from_pem_slice(key).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    serve(move |tcp| {
        let acceptor = acceptor.clone();
        async move {
            if let Ok(mut tls) = acceptor.accept(tcp).await {
                let _ = tokio::io::copy(&mut tls, &mut tokio::io::sink()).await;
            }
        }
    })
}

/// Ends with its owner, but for the connections that it has.
pub fn serve<F, A>(answer: F) -> Peer
where
    F: Fn(TcpStream) -> A + Send + 'static,
    A: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let mut task = JoinSet::new();
    task.spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            tokio::spawn(answer(tcp));
        }
    });
    (address, Box::new(task))
}
