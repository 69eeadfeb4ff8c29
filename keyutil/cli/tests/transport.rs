//! Connections to a server of the test's own: credentials that change while they are in use, and
//! connections that the server ends.

use std::{fs, sync::Arc};

use crate::common::client::{World, authority, issue, look, now, open, serial};
use crate::common::peer::{Peer, call, mutual, try_call};
use http::HeaderMap;
use keyutil::{
    ConnectError, connect::PendingConnection, diagnosis::Diagnose, probe::ConnectorError,
};
use keyutil_cli::pki::Purpose;
use temporalio_client::callback_based::GrpcRequest;
use tokio_rustls::rustls::AlertDescription;
use tonic::Code;

#[tokio::test]
async fn a_new_client_certificate_is_seen_by_the_next_call_after_a_full_handshake() {
    let world = World::new();
    let peer = Peer::start(mutual(&world.server(), world.clients.certificate_pem())).await;
    let opened = world.open(peer.port);
    let before = call(opened.session().channel()).await;
    assert_eq!(
        before,
        call(opened.session().channel()).await,
        "one connection"
    );
    assert_eq!(before.handshake, "Full");

    // One that does not belong to its key changes nothing.
    let new = issue(&world.clients, Purpose::Client, now());
    fs::write(world.path("tls.crt"), &new.certificate_pem).unwrap();
    look(&opened);
    assert_eq!(before, call(opened.session().channel()).await);

    world.present(&new);
    look(&opened);
    let after = call(opened.session().channel()).await;
    assert_eq!(after.serial, serial(&new));
    assert_eq!(after.handshake, "Full");
    assert_eq!(
        after,
        call(opened.session().channel()).await,
        "one connection"
    );
}

#[tokio::test]
async fn the_ca_of_the_server_is_replaced_in_three_steps() {
    let world = World::new();
    let clients = world.clients.certificate_pem();
    let peer = Peer::start(mutual(&world.server(), clients)).await;
    let opened = world.open(peer.port);
    let first = call(opened.session().channel()).await;
    assert_eq!(first.connection, "1");

    let new = authority("frontend");
    world.trust(&[&new, &world.frontend]);
    look(&opened);
    let both = call(opened.session().channel()).await;
    assert_eq!(both.connection, "2");
    assert_eq!(
        (&both.serial, &both.handshake),
        (&first.serial, &first.handshake)
    );

    peer.present(mutual(&issue(&new, Purpose::Server, now()), clients));
    assert_eq!(
        both,
        call(opened.session().channel()).await,
        "nothing is cut off"
    );
    world.trust(&[&new]);
    look(&opened);
    let last = call(opened.session().channel()).await;
    assert_eq!((&last.connection[..], &last.handshake[..]), ("3", "Full"));

    // A bundle that was cut short is not taken for a smaller one.
    let cut = [
        world.frontend.certificate_pem(),
        &new.certificate_pem()[..200],
    ]
    .concat();
    fs::write(world.path("ca.crt"), cut).unwrap();
    look(&opened);
    assert_eq!(last, call(opened.session().channel()).await);
    opened.session().probe().await.unwrap();
}

/// Many times and several at once, because the alert and our first write race each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_client_certificate_is_always_told_as_such() {
    let world = Arc::new(World::new());
    let others = authority("clients");
    let peer = Peer::start(mutual(&world.server(), others.certificate_pem())).await;
    let port = peer.port;
    let attempts = (0..4).map(|_| {
        let world = world.clone();
        tokio::spawn(async move {
            for round in 0..200 {
                let opened = world.open(port);
                let error = opened.session().probe().await.unwrap_err();
                assert_refused(&opened, &error, AlertDescription::UnknownCA, round);
                let words = keyutil::chain(&error);
                assert!(words.contains("rejected the client certificate"), "{words}");
                assert!(error.diagnosis().hint.unwrap().contains("clientCaFiles"));
            }
        })
    });
    for attempt in attempts.collect::<Vec<_>>() {
        attempt.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_client_certificate_is_always_told_as_such() {
    let world = World::new();
    let clients = world.clients.certificate_pem();
    let peer = Peer::start(mutual(&world.server(), clients)).await;
    let mut args = world.args(peer.port);
    (args.tls_cert_path, args.tls_key_path) = (None, None);
    for round in 0..50 {
        let opened = open(&args);
        let error = opened.wait_until_authorized().await.unwrap_err();
        assert_refused(
            &opened,
            &error,
            AlertDescription::CertificateRequired,
            round,
        );
        assert!(
            error
                .diagnosis()
                .hint
                .unwrap()
                .contains("`--tls-cert-path`")
        );
    }
}

#[tokio::test]
async fn a_client_certificate_that_is_accepted_again_clears_the_journal() {
    let world = World::new();
    let others = authority("clients");
    let peer = Peer::start(mutual(&world.server(), others.certificate_pem())).await;
    let opened = world.open(peer.port);
    opened.session().probe().await.unwrap_err();

    peer.present(mutual(&world.server(), world.clients.certificate_pem()));
    opened.session().probe().await.unwrap();
    assert!(
        opened
            .session()
            .channel()
            .connector()
            .log()
            .last_failure()
            .is_none()
    );
}

/// The SDK retries what is `Unavailable`; anything else would fail the call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_ends_its_connections_costs_retries_and_no_call() {
    let world = World::new();
    let peer = Peer::start(mutual(&world.server(), world.clients.certificate_pem())).await;
    peer.end_each_connection();
    let opened = world.open(peer.port);
    let service = opened.sdk_service();
    let callers = (0..4).map(|_| {
        let service = service.clone();
        tokio::spawn(async move {
            for _ in 0..50 {
                let mut attempts = 0;
                while let Err(status) = (service.callback)(request()).await {
                    attempts += 1;
                    assert_eq!(status.code(), Code::Unavailable, "{status}");
                    assert!(attempts < 100, "{status}");
                }
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    // This one, too, may be queued on a connection that ends.
    let seen = loop {
        if let Ok(seen) = try_call(opened.session().channel()).await {
            break seen;
        }
    };
    assert!(seen.connection.parse::<u32>().unwrap() > 50, "{seen:?}");
}

fn assert_refused(
    opened: &PendingConnection,
    error: &ConnectError,
    expected: AlertDescription,
    round: u32,
) {
    let journal = opened.session().channel().connector().log().last_failure();
    assert!(
        matches!(journal, Some(ConnectorError::Alert { alert, .. }) if alert == expected),
        "round {round}: {journal:?}"
    );
    assert!(
        matches!(error, ConnectError::ClientCertificate { .. }),
        "round {round}: {error:?}"
    );
}

fn request() -> GrpcRequest {
    GrpcRequest {
        service: "any".to_owned(),
        rpc: "thing".to_owned(),
        headers: HeaderMap::new(),
        proto: bytes::Bytes::new(),
    }
}
