//! New credentials that are good by themselves and no good for the server: calls go on over
//! connections with those before, until the server has accepted newer ones.

use std::time::{Duration, Instant};

use crate::common::client::{World, authority, issue, look, now, serial};
use crate::common::peer::{Peer, Seen, call, mutual, try_call};
use keyutil::{
    connect::PendingConnection,
    status::{Failure, RemovedCa},
};
use keyutil_cli::pki::Purpose;

#[tokio::test]
async fn a_certificate_that_the_server_refuses_is_not_used_for_calls() {
    let (world, peer, opened, before) = connected().await;
    let clients = world.clients.certificate_pem();

    let others = authority("others");
    let refused = issue(&others, Purpose::Client, now());
    world.present(&refused);
    look(&opened);
    for _ in 0..50 {
        assert_eq!(before, call(opened.session().channel()).await);
    }
    let rejected = rejected(&opened).unwrap();
    for words in ["UnknownCA", "others", "rejected the client certificate"] {
        assert!(rejected.reason.contains(words), "{}", rejected.reason);
    }
    let status = opened.observer().status();
    let in_use = status.credentials.client_certificate.unwrap().in_use;
    assert!(in_use.unwrap().contains(&before.serial));
    assert_eq!(status.connection.last_failure, None);
    let last = status.connection.last_handshake.unwrap();
    assert_eq!(last.client.unwrap().serial, before.serial);

    // A server that ends its connections by age gets new ones with the old certificate.
    peer.end_each_connection();
    until(&opened, |seen| {
        assert_eq!(seen.serial, before.serial);
        seen.connection.parse::<u32>().unwrap() > 5
    })
    .await;

    // The server now trusts the CA; the files stay as they are.
    let both = [clients, others.certificate_pem()].concat();
    peer.present(mutual(&world.server(), &both));
    let accepted = until(&opened, |seen| seen.serial != before.serial).await;
    assert_eq!(accepted.handshake, "Full");
    assert_eq!(self::rejected(&opened), None);
}

#[tokio::test]
async fn the_next_certificate_is_tried_at_once() {
    let (world, _peer, opened, before) = connected().await;

    world.present(&issue(&authority("others"), Purpose::Client, now()));
    look(&opened);
    assert_eq!(before, call(opened.session().channel()).await);
    world.present(&issue(&world.clients, Purpose::Client, now()));
    look(&opened);
    // What was wrong with the one before is not told of this one.
    assert_eq!(rejected(&opened), None);
    assert_ne!(before.serial, call(opened.session().channel()).await.serial);
}

#[tokio::test]
async fn a_bundle_that_does_not_verify_the_server_is_not_used_for_calls() {
    let (world, peer, opened, before) = connected().await;
    let clients = world.clients.certificate_pem();

    let new = authority("new");
    world.trust(&[&new]);
    look(&opened);
    assert_eq!(before, call(opened.session().channel()).await);
    let reason = removed_ca(&opened).unwrap().reason.unwrap();
    for words in ["failed to verify the certificate", "temporal new CA"] {
        assert!(reason.contains(words), "{reason}");
    }
    // Nor for new connections.
    peer.end_each_connection();
    until(&opened, |seen| seen.connection.parse::<u32>().unwrap() > 5).await;

    peer.present(mutual(&issue(&new, Purpose::Server, now()), clients));
    until(&opened, |_| removed_ca(&opened).is_none()).await;
}

#[tokio::test]
async fn a_certificate_that_is_refused_does_not_keep_a_new_bundle_from_use() {
    let (world, peer, opened, before) = connected().await;
    let clients = world.clients.certificate_pem();

    let new = authority("new");
    world.present(&issue(&authority("others"), Purpose::Client, now()));
    world.trust(&[&new]);
    look(&opened);
    // The server goes over to the new CA at once, and ends its connections.
    peer.present(mutual(&issue(&new, Purpose::Server, now()), clients));
    peer.end_each_connection();

    let seen = until(&opened, |seen| seen.connection.parse::<u32>().unwrap() > 3).await;
    assert_eq!(seen.serial, before.serial);
    let reason = rejected(&opened).unwrap().reason;
    assert!(reason.contains("UnknownCA"), "{reason}");
}

/// There is no call, and no look at the files but that of the watcher: the server sees the new
/// certificate, and the end of the connection with the old one.
#[tokio::test]
async fn an_idle_channel_uses_a_new_certificate_by_itself() {
    let (world, peer, opened, before) = connected().await;
    peer.until_serials(&[&before.serial]).await;

    let new = issue(&world.clients, Purpose::Client, now());
    world.present(&new);
    peer.until_serials(&[&serial(&new)]).await;
    assert_eq!(call(opened.session().channel()).await.connection, "2");

    // Whatever waits for the next change ends with the channel.
    drop(opened);
    peer.until_serials(&[]).await;
}

#[tokio::test]
async fn an_idle_channel_repeats_the_trial_of_a_rejected_certificate() {
    let (world, peer, opened, before) = connected().await;
    let others = authority("others");
    let new = issue(&others, Purpose::Client, now());
    world.present(&new);
    wait_until(|| rejected(&opened).is_some()).await;
    assert_eq!(peer.serials(), [&*before.serial]);

    // The server now trusts the CA; the files stay as they are.
    let both = [world.clients.certificate_pem(), others.certificate_pem()].concat();
    peer.present(mutual(&world.server(), &both));
    peer.until_serials(&[&serial(&new)]).await;
    assert_eq!(rejected(&opened), None);
}

async fn wait_until(reached: impl Fn() -> bool) {
    let begun = Instant::now();
    while !reached() {
        assert!(begun.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A peer that listens and says nothing is given up, and only one call waits for that.
#[tokio::test]
async fn a_server_that_says_nothing_on_the_new_connection_holds_up_one_call() {
    let (world, peer, opened, before) = connected().await;

    peer.fall_silent(true);
    world.present(&issue(&world.clients, Purpose::Client, now()));
    look(&opened);
    let begun = Instant::now();
    let (first, others) = tokio::join!(call(opened.session().channel()), async {
        // After the first has begun.
        tokio::task::yield_now().await;
        let others = [
            call(opened.session().channel()).await,
            call(opened.session().channel()).await,
        ];
        (others, begun.elapsed())
    });
    assert_eq!(first, before);
    assert_eq!(others.0, [before, first]);
    assert!(others.1 < Duration::from_secs(2), "{:?}", others.1);
    assert!(begun.elapsed() < Duration::from_secs(10));

    peer.fall_silent(false);
    let serial = others.0[0].serial.clone();
    until(&opened, |seen| seen.serial != serial).await;
}

/// Calls until it is seen like this.
async fn until(opened: &PendingConnection, like_this: impl Fn(&Seen) -> bool) -> Seen {
    let begun = Instant::now();
    loop {
        let seen = try_call(opened.session().channel()).await;
        if let Ok(seen) = &seen
            && like_this(seen)
        {
            return seen.clone();
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{seen:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A client and its server, and what the server saw of a first call.
async fn connected() -> (World, Peer, PendingConnection, Seen) {
    let world = World::new();
    let peer = Peer::start(mutual(&world.server(), world.clients.certificate_pem())).await;
    let opened = world.open(peer.port);
    let before = call(opened.session().channel()).await;
    (world, peer, opened, before)
}

fn removed_ca(opened: &PendingConnection) -> Option<RemovedCa> {
    opened.observer().status().connection.removed_ca
}

fn rejected(opened: &PendingConnection) -> Option<Failure> {
    opened.observer().status().connection.rejected
}
