//! A name with several addresses, some of which do not work.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::common::client::{World, authority, issue, now, open_with, serial};
use crate::common::peer::{Peer, call, mutual};
use keyutil::{ConnectError, connect::PendingConnection};
use keyutil_cli::pki::Purpose;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
    time::timeout,
};

/// A server that is not one. Ends with its owner.
struct Broken {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Broken {
    /// Accepts each connection, says this, and never closes it.
    async fn saying(words: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            loop {
                let (mut tcp, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let _ = tcp.write_all(words).await;
                    while tcp.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {}
                });
            }
        });
        Self { address, task }
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Each attempt has an order of its own, so that every address is once the first.
#[tokio::test]
async fn an_address_that_hangs_or_fails_in_tls_is_left() {
    let world = World::new();
    let hangs = Broken::saying(b"").await;
    let no_tls = Broken::saying(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let peer = good(&world).await;
    let addresses = [hangs.address, no_tls.address, of(&peer)];
    for _ in 0..12 {
        let begun = Instant::now();
        let opened = open(&world, &addresses);
        opened.session().probe().await.unwrap();
        // Twice 250 ms at most, and the rest for a busy machine.
        assert!(begun.elapsed() < Duration::from_secs(4), "{begun:?}");
        let status = opened.observer().status();
        assert_eq!(status.connection.failures, 0);
    }
}

/// With TLS 1.3 the rejection comes after the handshake.
#[tokio::test]
async fn an_address_that_rejects_the_client_certificate_is_left() {
    let world = World::new();
    let others = authority("others");
    let rejects = Peer::start(mutual(&world.server(), others.certificate_pem())).await;
    let peer = good(&world).await;
    for _ in 0..12 {
        let opened = open(&world, &[of(&rejects), of(&peer)]);
        opened.session().probe().await.unwrap();
    }
}

/// Such a connection is taken after a second, which the other addresses may need on a busy machine.
#[tokio::test]
async fn an_address_that_is_silent_after_the_handshake_is_left() {
    let world = World::new();
    let (first, second) = (good(&world).await, good(&world).await);
    first.fall_silent(true);
    second.fall_silent(true);
    let peer = good(&world).await;
    let mut reached = 0;
    for _ in 0..12 {
        let opened = open(&world, &[of(&first), of(&second), of(&peer)]);
        let probed = timeout(Duration::from_secs(5), opened.session().probe()).await;
        reached += u32::from(probed.is_ok_and(|answer| answer.is_ok()));
    }
    assert!(reached >= 9, "{reached} of 12");
}

#[tokio::test]
async fn an_untrusted_address_is_told_beside_one_that_is_down() {
    let world = World::new();
    let strange = issue(&authority("strange"), Purpose::Server, now());
    let untrusted = Peer::start(mutual(&strange, world.clients.certificate_pem())).await;
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let down = taken.local_addr().unwrap();
    drop(taken);
    for _ in 0..6 {
        let opened = open(&world, &[down, of(&untrusted)]);
        let begun = Instant::now();
        let error = opened.wait_until_authorized().await.unwrap_err();
        assert!(begun.elapsed() < Duration::from_millis(900), "{error}");
        assert!(
            matches!(error, ConnectError::ServerCertificate { .. }),
            "{error:?}"
        );
        let told = keyutil::chain(&error);
        for words in [
            "2 addresses failed",
            "temporal strange CA",
            "`UnknownIssuer`",
            &format!("no TCP connection to {down}"),
        ] {
            assert!(told.contains(words), "no {words} in {told}");
        }
    }
}

#[tokio::test]
async fn processes_are_spread_over_the_addresses() {
    let world = World::new();
    let peers = [good(&world).await, good(&world).await, good(&world).await];
    let addresses = peers.each_ref().map(of);
    let fleet: Vec<_> = (0..40).map(|_| open(&world, &addresses)).collect();
    for one in &fleet {
        one.session().probe().await.unwrap();
    }
    let counts = peers.each_ref().map(|peer| peer.serials().len());
    assert_eq!(counts.iter().sum::<usize>(), 40);
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
}

/// The trial of a new certificate, too, goes to the address that works.
#[tokio::test]
async fn a_new_certificate_is_tried_at_the_next_address() {
    let world = World::new();
    let (first, second) = (good(&world).await, good(&world).await);
    let opened = open(&world, &[of(&first), of(&second)]);
    let before = call(opened.session().channel()).await;
    let (used, other) = match first.serials().len() {
        1 => (first, second),
        _ => (second, first),
    };
    used.fall_silent(true);
    let new = issue(&world.clients, Purpose::Client, now());
    world.present(&new);
    other.until_serials(&[&serial(&new)]).await;
    assert_ne!(before.serial, call(opened.session().channel()).await.serial);
}

#[tokio::test]
async fn a_rejected_certificate_is_told_beside_an_address_that_hangs() {
    let world = World::new();
    let (hangs, peer) = (Broken::saying(b"").await, good(&world).await);
    let opened = open(&world, &[hangs.address, of(&peer)]);
    opened.session().probe().await.unwrap();
    world.present(&issue(&authority("others"), Purpose::Client, now()));
    let begun = Instant::now();
    loop {
        let rejected = opened.observer().status().connection.rejected;
        let reason = rejected.map(|rejected| rejected.reason).unwrap_or_default();
        if reason.contains("UnknownCA") && reason.contains(&hangs.address.to_string()) {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{reason}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn good(world: &World) -> Peer {
    Peer::start(mutual(&world.server(), world.clients.certificate_pem())).await
}

fn of(peer: &Peer) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], peer.port))
}

fn open(world: &World, addresses: &[SocketAddr]) -> PendingConnection {
    let mut args = world.args(1);
    args.connect_timeout = Duration::from_secs(10);
    open_with(&args, |connector| connector.resolved_to(addresses.to_vec()))
}
