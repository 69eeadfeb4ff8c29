//! The client certificate rotates under a worker at work.

use std::{
    fs,
    time::{Duration, Instant, SystemTime},
};

use crate::support::{
    self, InFlight,
    rotation::{
        complaint, complaint_with, copied, observed_worker, probe, replace, until, until_presented,
    },
};
use keyutil_cli::pki::{
    self, Authority, AuthorityKind, AuthorityRequest, Layout, Leaf, LeafOptions, LeafRequest,
    Party, PartyFiles, Purpose, Validity,
};
use sandbox::{Stack, StackOptions, stack::connection_age};
use secrecy::ExposeSecret;

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_presented_in_a_full_handshake_and_nothing_fails() {
    let stack = support::stack(StackOptions::default()).await;
    let old = copied(&stack, Party::Worker);
    let worker = observed_worker(&stack).await;
    let load = InFlight::start(&stack.connect_args(Party::Starter)).await;
    let before = worker.status().await.unwrap();

    let layout = Layout::new(&stack.certs());
    let new = |party| {
        let options = LeafOptions::default();
        pki::rotate_leaf(&layout, party, &options, SystemTime::now).unwrap()
    };
    let (for_worker, for_starter) = (new(Party::Worker).new, new(Party::Starter).new);
    let after = until_presented(&worker, &for_worker.serial).await;
    load.more(20).await;

    // A connection more: nothing was resumed.
    let handshakes = |status: &serde_json::Value| status["connection"]["handshakes"].as_u64();
    assert!(handshakes(&after) > handshakes(&before), "{after:#}");
    let presented = &after["connection"]["last_handshake"]["client"];
    assert_eq!(presented["issuer"], for_worker.issuer);
    let starter = load
        .connection()
        .status()
        .connection
        .last_handshake
        .unwrap();
    assert_eq!(starter.client.unwrap().serial, for_starter.serial);
    // The old one is as good as before; only its end, or that of its CA, changes that.
    probe(&old).await.unwrap();
    load.stop().await;
    assert_eq!(worker.complaints(), [""; 0]);
    worker.stop().await.unwrap();
}

/// There is no work, and so no call for up to a minute: that is how long a poll lasts.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_worker_uses_a_new_certificate_within_seconds() {
    let stack = support::stack(StackOptions::default()).await;
    let worker = observed_worker(&stack).await;
    let options = LeafOptions::default();
    let layout = Layout::new(&stack.certs());
    let rotated = pki::rotate_leaf(&layout, Party::Worker, &options, SystemTime::now).unwrap();
    let begun = Instant::now();
    let status = until_presented(&worker, &rotated.new.serial).await;
    assert!(begun.elapsed() < Duration::from_secs(15), "{status:#}");
    assert_eq!(status["connection"]["failures"], 0, "{status:#}");
    assert_eq!(worker.complaints(), [""; 0]);
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_one_changes_nothing_and_is_reported() {
    let stack = support::stack(StackOptions::default()).await;
    let files = Layout::new(&stack.certs()).party(Party::Worker);
    let (certificate, key) = (
        fs::read(&files.certificate).unwrap(),
        fs::read(&files.key).unwrap(),
    );
    let worker = observed_worker(&stack).await;
    let load = InFlight::start(&stack.connect_args(Party::Starter)).await;
    let before = worker.status().await.unwrap();
    let in_use = &before["credentials"]["client_certificate"]["in_use"];

    let now = SystemTime::now();
    let another = issue(&stack, Validity::from_now(HOUR).unwrap());
    let expired = issue(
        &stack,
        Validity::between(now - 2 * HOUR, now - HOUR).unwrap(),
    );
    let future = issue(
        &stack,
        Validity::between(now + HOUR, now + 2 * HOUR).unwrap(),
    );
    // Two in a row have different reasons, so that each can be waited for.
    let bad = [
        (b"garbage".to_vec(), key.clone(), "no `CERTIFICATE` block"),
        (half(&certificate), key.clone(), "is not PEM"),
        (vec![], key.clone(), "no `CERTIFICATE` block"),
        (certificate.clone(), key_of(&another), "does not belong"),
        (certificate.clone(), half(&key), "no `PRIVATE KEY`"),
        // Its own key never comes.
        (chain_of(&another), key.clone(), "does not belong"),
        (chain_of(&expired), key_of(&expired), "expired at"),
        (chain_of(&future), key_of(&future), "is not valid before"),
    ];
    for (certificate, key, words) in &bad {
        replace(&files.certificate, certificate);
        replace(&files.key, key);
        kept(&worker, words, in_use).await;
        load.more(20).await;
    }
    fs::remove_file(&files.certificate).unwrap();
    kept(&worker, "No such file", in_use).await;
    fs::create_dir(&files.certificate).unwrap();
    kept(&worker, "not a regular file", in_use).await;
    load.more(20).await;

    present(&files, &another);
    let after = until(&worker, "the good one", |status| {
        status["credentials"]["client_certificate"]["reloads"] == 1
    })
    .await;
    let credential = &after["credentials"]["client_certificate"];
    assert!(credential["last_failure"].is_null(), "{after:#}");
    until_presented(&worker, serial_in(&credential["in_use"])).await;
    load.stop().await;
    // One each, and one more where the worker looked between the two files of a pair.
    let complaints = worker.complaints();
    assert!(complaints.len() >= bad.len() + 2, "{complaints:#?}");
    let others = complaints.iter().filter(|told| !told.contains(KEPT));
    assert_eq!(others.count(), 0, "{complaints:#?}");
    worker.stop().await.unwrap();
}

/// Nothing is wrong with it but that the server does not know its CA, which the server alone
/// knows. Connections end by age meanwhile, so that new ones must be made.
#[tokio::test(flavor = "multi_thread")]
async fn one_of_an_unknown_ca_changes_nothing_and_is_reported() {
    let stack = support::stack(StackOptions {
        dynamic_config: connection_age(Duration::from_secs(2)),
        ..StackOptions::default()
    })
    .await;
    let files = Layout::new(&stack.certs()).party(Party::Worker);
    let worker = observed_worker(&stack).await;
    let load = InFlight::start(&stack.connect_args(Party::Starter)).await;
    let before = worker.status().await.unwrap();
    let serial = &before["connection"]["last_handshake"]["client"]["serial"];

    let validity = Validity::from_now(HOUR).unwrap();
    let unknown = Authority::generate(&AuthorityRequest {
        name: "unknown",
        validity,
    });
    present(&files, &issue_by(&unknown.unwrap(), validity));
    let told = complaint(&worker, 0).await;
    for words in [
        "the new credentials were rejected: kept the previous ones",
        "UnknownCA",
        "temporal unknown CA",
    ] {
        assert!(told.contains(words), "no {words} in {told}");
    }
    let rejected = until(&worker, "the rejection", |status| {
        status["connection"]["rejected"].is_object()
    })
    .await;
    let handshakes = rejected["connection"]["handshakes"].as_u64().unwrap();
    let later = until(&worker, "new connections with the old one", |status| {
        status["connection"]["handshakes"].as_u64() > Some(handshakes + 3)
    })
    .await;
    assert_eq!(
        later["connection"]["last_handshake"]["client"]["serial"],
        *serial
    );
    let (since, still) = (
        &rejected["connection"]["rejected"],
        &later["connection"]["rejected"],
    );
    assert_eq!(since["since"], still["since"]);
    assert!(later["connection"]["last_failure"].is_null(), "{later:#}");

    let good = issue(&stack, validity);
    present(&files, &good);
    let after = until(&worker, "the good one", |status| {
        status["connection"]["rejected"].is_null()
            && status["connection"]["last_handshake"]["client"]["serial"] != *serial
    })
    .await;
    assert!(after["connection"]["last_failure"].is_null(), "{after:#}");
    load.stop().await;
    assert_eq!(worker.complaints().len(), 1, "{:#?}", worker.complaints());
    worker.stop().await.unwrap();
}

/// Of the log.
const KEPT: &str = "the new credential is unusable: kept the one in use";

/// Waits until the worker tells, in its log and in its status, that this is why it went on with
/// the one in use.
async fn kept(worker: &sandbox::process::WorkerProcess, words: &str, in_use: &serde_json::Value) {
    let status = until(worker, words, |status| {
        let failure = &status["credentials"]["client_certificate"]["last_failure"];
        failure["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains(words))
    })
    .await;
    let told = complaint_with(worker, words).await;
    assert!(told.contains(KEPT), "{told}");
    let credential = &status["credentials"]["client_certificate"];
    let failure = &credential["last_failure"];
    assert!(failure["since"].is_string(), "{status:#}");
    assert_eq!(credential["in_use"], *in_use);
}

fn serial_in(in_use: &serde_json::Value) -> &str {
    let words = in_use.as_str().unwrap().strip_prefix("serial ").unwrap();
    words.split(',').next().unwrap()
}

fn issue(stack: &Stack, validity: Validity) -> Leaf {
    let files = Layout::new(&stack.certs()).authority(AuthorityKind::Clients);
    issue_by(&Authority::read(&files).unwrap(), validity)
}

fn issue_by(authority: &Authority, validity: Validity) -> Leaf {
    let request = LeafRequest {
        common_name: "worker",
        names: &[],
        purpose: Purpose::Client,
        validity,
    };
    authority.issue(&request).unwrap()
}

fn chain_of(leaf: &Leaf) -> Vec<u8> {
    leaf.certificate_pem.clone().into_bytes()
}

fn key_of(leaf: &Leaf) -> Vec<u8> {
    leaf.key_pem.expose_secret().as_bytes().to_vec()
}

fn half(content: &[u8]) -> Vec<u8> {
    content[..content.len() / 2].to_vec()
}

/// Replaces both files, one after the other.
fn present(files: &PartyFiles, leaf: &Leaf) {
    replace(&files.certificate, chain_of(leaf));
    replace(&files.key, key_of(leaf));
}
