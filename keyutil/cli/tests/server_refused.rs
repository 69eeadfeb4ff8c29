//! Servers that cannot be used: each error names the cause and what to do.

use std::time::{Duration, Instant, SystemTime};

use crate::common::client::{HOUR, World, authority, issue, now, open, past};
use crate::common::peer::{Peer, mutual};
use keyutil::{ConnectError, chain, diagnosis::Diagnose, probe::ConnectorError};
use keyutil_cli::pki::{Purpose, Validity};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

#[tokio::test]
async fn a_certificate_that_cannot_be_verified() {
    let world = World::new();
    let tomorrow = SystemTime::now() + 24 * HOUR;
    let future = Validity::between(tomorrow, tomorrow + HOUR).unwrap();
    let stranger = authority("frontend");
    for (leaf, server_name, words, hint) in [
        (
            issue(&stranger, Purpose::Server, now()),
            None,
            "UnknownIssuer",
            "`--tls-ca-path`",
        ),
        (
            issue(&world.frontend, Purpose::Server, past()),
            None,
            "expired",
            "renew",
        ),
        (
            issue(&world.frontend, Purpose::Server, future),
            None,
            "is not valid before",
            "clock",
        ),
        (
            world.server(),
            Some("temporal.example"),
            "not valid for the name",
            "`--tls-server-name localhost`",
        ),
        (
            issue(&world.frontend, Purpose::Client, now()),
            None,
            "usage",
            "`serverAuth`",
        ),
    ] {
        let peer = Peer::start(mutual(&leaf, world.clients.certificate_pem())).await;
        let mut args = world.args(peer.port);
        args.tls_server_name = server_name.map(str::to_owned);
        args.connect_timeout = Duration::from_secs(60);
        let started = Instant::now();
        let error = open(&args).wait_until_authorized().await.unwrap_err();
        assert!(
            matches!(error, ConnectError::ServerCertificate { .. }),
            "{words}: {error:?}"
        );
        // Waiting cures none of them.
        assert!(started.elapsed() < Duration::from_secs(30), "{words}");
        let told = chain(&error);
        assert!(told.contains(words), "{words}: {told}");
        assert!(
            told.contains(&world.frontend.summary().serial),
            "{words}: {told}"
        );
        let told = error.diagnosis().hint.unwrap();
        assert!(told.contains(hint), "{words}: {told}");
    }
}

/// The error of a connection to this port, its chain and its hint.
async fn refused(world: &World, port: u16) -> (ConnectError, String, String) {
    let error = world.open(port).wait_until_authorized().await.unwrap_err();
    let told = chain(&error);
    let hint = error.diagnosis().hint.unwrap_or_default();
    (error, told, hint)
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[tokio::test]
async fn a_server_without_tls() {
    let world = World::new();
    let empty_settings = b"\0\0\0\x04\0\0\0\0\0";
    for greeting in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], empty_settings] {
        let (listener, port) = listen().await;
        let server = tokio::spawn(async move {
            loop {
                let (mut tcp, _) = listener.accept().await.unwrap();
                let _ = tcp.read_u8().await;
                let _ = tcp.write_all(greeting).await;
            }
        });
        let (error, told, _) = refused(&world, port).await;
        server.abort();
        assert!(
            matches!(error, ConnectError::Unreachable { .. }),
            "{error:?}"
        );
        assert!(told.contains("answered without TLS"), "{told}: {error:?}");
    }
}

#[tokio::test]
async fn a_server_that_speaks_tls_and_no_http2() {
    let world = World::new();
    for protocols in [vec![], vec![b"http/1.1".to_vec()]] {
        let mut config = mutual(&world.server(), world.clients.certificate_pem());
        config.alpn_protocols = protocols;
        let peer = Peer::start(config).await;
        let (_, told, _) = refused(&world, peer.port).await;
        assert!(told.contains("did not agree to HTTP/2"), "{told}");
    }
}

#[tokio::test]
async fn a_port_that_says_nothing() {
    let world = World::new();
    let (_listener, port) = listen().await;
    let started = Instant::now();
    let (error, told, hint) = refused(&world, port).await;
    assert!(started.elapsed() < Duration::from_secs(10), "{started:?}");
    assert!(
        matches!(
            error,
            ConnectError::Unreachable {
                source: ConnectorError::TimedOut { .. },
                ..
            }
        ),
        "{error:?}"
    );
    assert!(told.contains("within 1s"), "{told}");
    assert!(hint.contains("accepted but not answered"), "{hint}");
}

#[tokio::test]
async fn a_port_that_hangs_up() {
    let world = World::new();
    let (listener, port) = listen().await;
    let server = tokio::spawn(async move {
        loop {
            drop(listener.accept().await.unwrap());
        }
    });
    let (error, told, hint) = refused(&world, port).await;
    server.abort();
    assert!(
        matches!(error, ConnectError::Unreachable { .. }),
        "{error:?}"
    );
    assert!(
        told.contains("the connection was closed during the TLS handshake"),
        "{told}"
    );
    assert!(hint.contains("the server is running"), "{hint}");
}

#[tokio::test]
async fn a_port_without_a_listener() {
    let world = World::new();
    let (listener, port) = listen().await;
    drop(listener);
    let started = Instant::now();
    let (_, told, hint) = refused(&world, port).await;
    // It may be starting still.
    assert!(
        started.elapsed() > Duration::from_millis(100),
        "{started:?}"
    );
    assert!(told.contains(&format!("127.0.0.1:{port}")), "{told}");
    assert!(told.contains("refused"), "{told}");
    assert!(hint.contains("the server is running"), "{hint}");
}

#[tokio::test]
async fn a_host_that_has_no_address() {
    let world = World::new();
    let mut args = world.args(7233);
    // Reserved for this by RFC 6761.
    args.address = "temporal.invalid:7233".to_owned();
    let error = open(&args).session().probe().await.unwrap_err();
    let told = chain(&error);
    if told.contains("no connection within") {
        eprintln!("not tested: the name service of this machine does not answer");
        return;
    }
    assert!(told.contains("`temporal.invalid`"), "{told}");
    let hint = error.diagnosis().hint.unwrap();
    assert!(hint.contains("TEMPORAL_ADDRESS"), "{hint}");
}
