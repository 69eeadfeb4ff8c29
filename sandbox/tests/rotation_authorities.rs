//! The CAs of clients and frontend rotate under a worker at work.

use std::{
    fs,
    time::{Duration, Instant},
};

use crate::support::{
    self, InFlight, Observed,
    rotation::{
        complaint, copied, count_in_log, observed_worker, probe, replace, until, until_accepted,
        until_in_log,
    },
};
use keyutil::ConnectError;
use keyutil_cli::pki::{
    Authority, AuthorityRequest, Layout, LeafRequest, Party, Purpose, Validity,
};
use sandbox::{
    Stack, StackOptions,
    rotations::{Credential, Rotations},
    stack::{REFRESH, connection_age},
};
use secrecy::ExposeSecret;

const HOUR: Duration = Duration::from_secs(3600);

/// Of the server's log, at a refresh.
const BROKEN: &str = "failed to load certificates";

#[tokio::test(flavor = "multi_thread")]
async fn both_go_through_trust_reissue_and_retire_and_nothing_fails() {
    let stack = aging_stack().await;
    let old_certificate = copied(&stack, Party::Worker);
    let old_trust = fs::read(Layout::new(&stack.certs()).party(Party::Worker).trust).unwrap();
    let worker = observed_worker(&stack).await;
    let load = InFlight::start(&stack.connect_args(Party::Starter)).await;
    let lifetime = Duration::from_secs(300);
    let begun = Instant::now();
    let rotations = Rotations::new(
        &stack,
        std::slice::from_ref(&worker),
        load.connection(),
        lifetime,
        begun,
    );

    // With old and new accepted at first, and the old refused at last.
    let clients = rotations.rotate(Credential::ClientCa).await.unwrap();
    let frontend = rotations.rotate(Credential::FrontendCa).await.unwrap();

    load.more(20).await;
    let status = worker.status().await.unwrap();
    let handshake = &status["connection"]["last_handshake"];
    for (side, rotation) in [("client", clients), ("server", frontend)] {
        assert_ne!(rotation.before, rotation.now);
        assert_eq!(handshake[side]["issuer"], rotation.now, "{side}");
    }
    let refused = probe(&old_certificate).await.unwrap_err();
    assert!(
        matches!(refused, ConnectError::ClientCertificate { .. }),
        "{refused}"
    );
    let mut args = stack.connect_args(Party::Admin);
    let bundle = stack.guard().folder().join("old-ca.crt");
    replace(&bundle, old_trust);
    args.tls_ca_path = Some(bundle);
    let refused = probe(&args).await.unwrap_err();
    assert!(
        matches!(refused, ConnectError::ServerCertificate { .. }),
        "{refused}"
    );
    load.stop().await;
    assert_eq!(worker.complaints(), [""; 0]);
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_bundle_of_the_worker_changes_nothing_and_is_reported() {
    let stack = aging_stack().await;
    let path = Layout::new(&stack.certs()).party(Party::Worker).trust;
    let good = fs::read(&path).unwrap();
    let worker = observed_worker(&stack).await;
    let load = InFlight::start(&stack.connect_args(Party::Starter)).await;

    let wrong = authority("wrong");
    // The wrong one alone would be a valid bundle.
    let cut = [wrong.certificate_pem().as_bytes(), &good[..good.len() / 2]].concat();
    let broken = [
        (&b"garbage"[..], "no `CERTIFICATE` block"),
        (&cut, "is not PEM"),
        (b"", "no `CERTIFICATE` block"),
    ];
    for (number, (content, words)) in broken.into_iter().enumerate() {
        replace(&path, content);
        let told = complaint(&worker, number).await;
        assert!(told.contains("kept the one in use"), "{told}");
        assert!(told.contains(words), "no {words} in {told}");
        let status = worker.status().await.unwrap();
        let failure = &status["credentials"]["server_ca"]["last_failure"];
        assert!(failure["reason"].as_str().unwrap().contains(words));
        load.more(20).await;
    }

    // Well-formed, and does not verify the server.
    replace(&path, wrong.certificate_pem());
    let told = complaint(&worker, broken.len()).await;
    for words in [
        "is verified with a CA that is no longer in",
        "and will be refused in 4m",
        "temporal frontend CA",
        "UnknownIssuer",
        "temporal wrong CA",
    ] {
        assert!(told.contains(words), "no {words} in {told}");
    }
    let rejected = worker.status().await.unwrap();
    let handshakes = rejected["connection"]["handshakes"].as_u64().unwrap();
    let later = until(&worker, "new connections, verified as before", |status| {
        status["connection"]["handshakes"].as_u64() > Some(handshakes + 3)
    })
    .await;
    let reason = &later["connection"]["removed_ca"]["reason"];
    let words = "failed to verify the certificate";
    assert!(reason.as_str().unwrap().contains(words), "{later:#}");
    load.more(20).await;

    replace(&path, &good);
    until(&worker, "the good one", |status| {
        status["connection"]["removed_ca"].is_null()
    })
    .await;
    load.stop().await;
    let complaints = worker.complaints();
    assert_eq!(complaints.len(), broken.len() + 1, "{complaints:#?}");
    worker.stop().await.unwrap();
}

/// The server keeps its certificate, like an attacker in the path of the worker who has stolen the
/// key of the CA.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_a_removed_ca_is_told_of_and_then_refused() {
    let stack = aging_stack().await;
    let path = Layout::new(&stack.certs()).party(Party::Worker).trust;
    let good = fs::read(&path).unwrap();
    let mut command = support::worker_command(&stack).await;
    // Longer than a worker on a busy machine needs to report the removal.
    let worker = Observed::start(command.env("KEYUTIL_DISTRUST_AFTER", "15s")).await;
    worker.becomes_ready().await;
    let load = InFlight::start(&stack.connect_args(Party::Starter)).await;

    let removed = Instant::now();
    replace(&path, authority("new").certificate_pem());
    let reasons = worker.becomes_unready("and will be refused in").await;
    let expected = format!(
        "the server is verified with a CA that is no longer in `{}`",
        path.display()
    );
    assert!(reasons.contains(&expected), "{reasons}");
    assert!(!reasons.contains("rejected"), "{reasons}");
    let (_, metrics) = worker.get("/metrics").await;
    assert!(
        metrics.contains("keyutil_server_ca_removed 1\n"),
        "{metrics}"
    );
    // Calls are answered until then.
    load.more(5).await;
    load.stop().await;

    let reasons = worker.becomes_unready("and has been refused since").await;
    assert!(removed.elapsed() > Duration::from_secs(15), "{reasons}");
    let handshakes = async || worker.status().await["connection"]["handshakes"].as_u64();
    let known = handshakes().await;
    let reasons = worker.becomes_unready("failed to verify").await;
    assert!(reasons.contains("UnknownIssuer"), "{reasons}");
    assert_eq!(handshakes().await, known, "{reasons}");

    replace(&path, &good);
    worker.becomes_ready().await;
    support::assert_greeted(&support::starter(&stack, &[]).await);
    let log = worker.program.log();
    for words in [
        " WARN ",
        "and will be refused in 1",
        "ERROR",
        "and has been refused since",
    ] {
        assert!(log.contains(words), "no {words} in {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_keeps_what_it_has_while_one_of_its_files_is_broken() {
    let stack = aging_stack().await;
    let worker = observed_worker(&stack).await;
    let load = InFlight::start(&stack.connect_args(Party::Starter)).await;
    let files = Layout::new(&stack.certs()).party(Party::Frontend);
    let admin = stack.connect_args(Party::Admin);

    for path in [&files.trust, &files.certificate, &files.key] {
        let good = fs::read(path).unwrap();
        for content in [&b"garbage"[..], &good[..good.len() / 2]] {
            let known = count_in_log(&stack, BROKEN);
            replace(path, content);
            until_in_log(&stack, BROKEN, known).await;
            // A new connection is served as before.
            probe(&admin).await.unwrap();
            load.more(10).await;
        }
        replace(path, good);
    }

    // And it takes what is good afterwards.
    let lifetime = Duration::from_secs(300);
    let rotations = Rotations::new(
        &stack,
        std::slice::from_ref(&worker),
        load.connection(),
        lifetime,
        Instant::now(),
    );
    rotations.rotate(Credential::FrontendCa).await.unwrap();
    load.stop().await;
    assert_eq!(worker.complaints(), [""; 0]);
    worker.stop().await.unwrap();
}

/// Why each step of `keyutil pki rotate` puts another certificate first. When this fails, a newer
/// server has learnt to compare all of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_does_not_notice_a_ca_behind_the_first_one() {
    let stack = support::stack(StackOptions::default()).await;
    let path = Layout::new(&stack.certs()).party(Party::Frontend).trust;
    let old = fs::read_to_string(&path).unwrap();
    let new = authority("new");
    let mut args = stack.connect_args(Party::Admin);
    let folder = stack.guard().folder();
    let leaf = new.issue(&LeafRequest {
        common_name: "admin",
        names: &[],
        purpose: Purpose::Client,
        validity: Validity::from_now(HOUR).unwrap(),
    });
    let leaf = leaf.unwrap();
    for (slot, name, content) in [
        (
            &mut args.tls_cert_path,
            "new.crt",
            &leaf.certificate_pem[..],
        ),
        (
            &mut args.tls_key_path,
            "new.key",
            leaf.key_pem.expose_secret(),
        ),
    ] {
        let file = folder.join(name);
        replace(&file, content);
        *slot = Some(file);
    }

    replace(&path, [&old, new.certificate_pem()].concat());
    // Several times as long as it takes the server to look, which it does not tell of.
    tokio::time::sleep(4 * REFRESH).await;
    let refused = probe(&args).await.unwrap_err();
    assert!(
        matches!(refused, ConnectError::ClientCertificate { .. }),
        "{refused}"
    );

    replace(&path, [new.certificate_pem(), &old].concat());
    until_accepted(&args).await;
    probe(&stack.connect_args(Party::Admin)).await.unwrap();
}

/// Connections end by age, so that new ones must be made: with what is in the files by then.
async fn aging_stack() -> Stack {
    support::stack(StackOptions {
        dynamic_config: connection_age(Duration::from_secs(2)),
        ..StackOptions::default()
    })
    .await
}

fn authority(name: &str) -> Authority {
    let request = AuthorityRequest {
        name,
        validity: Validity::from_now(HOUR).unwrap(),
    };
    Authority::generate(&request).unwrap()
}
