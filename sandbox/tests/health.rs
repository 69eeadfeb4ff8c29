//! The health endpoint of a worker, with and without failures.

use std::{
    fs,
    time::{Duration, Instant},
};

use crate::support::{self, LIMIT, Observed, Program, text};
use keyutil::token::{SigningKey, signing_key};
use keyutil_cli::{
    files::{self, Mode},
    pki::{
        Authority, AuthorityKind, Layout, Leaf, LeafRequest, Party, PartyFiles, Purpose, Validity,
    },
};
use reqwest::StatusCode;
use sandbox::{Stack, StackOptions, guard::Signal};
use secrecy::ExposeSecret;
use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_shows_and_a_broken_one_changes_nothing() {
    let stack = support::stack(StackOptions::default()).await;
    let mut command = support::worker_command(&stack).await;
    command.args(["--shutdown-grace", "5s"]);
    let mut worker = Observed::start(&mut command).await;
    worker.becomes_ready().await;
    let output = support::starter(&stack, &["--count", "20"]).await;
    support::assert_all_greeted(&output, 20);
    let before = worker.status().await;
    assert_eq!(before["phase"]["name"], "working");
    assert_eq!(
        before["connection"]["last_handshake"]["tls_version"],
        "TLSv1_3"
    );

    let leaf = issue(&stack);
    let files = worker_files(&stack);
    let certificate = leaf.certificate_pem.as_bytes();
    files::replace(&files.certificate, certificate, Mode::Public).unwrap();
    let key = leaf.key_pem.expose_secret().as_bytes();
    files::replace(&files.key, key, Mode::Private).unwrap();
    let replaced = worker
        .until("the new certificate is in use", |status| {
            status["credentials"]["client_certificate"]["reloads"] == 1
        })
        .await;
    let old = &before["connection"]["last_handshake"]["client"]["serial"];
    // The next call makes the next connection.
    support::assert_greeted(&support::starter(&stack, &[]).await);
    let shown = worker
        .until("the new certificate is presented", |status| {
            status["connection"]["last_handshake"]["client"]["serial"] != *old
        })
        .await;
    let serial = &shown["connection"]["last_handshake"]["client"]["serial"];
    let in_use = &shown["credentials"]["client_certificate"];
    assert!(text(&in_use["in_use"]).contains(text(serial)), "{shown:#}");
    // In RFC 3339 later times are greater.
    let since =
        |status: &Value| text(&status["credentials"]["client_certificate"]["since"]).to_owned();
    assert!(since(&shown) > since(&before), "{shown:#}");
    assert_eq!(since(&shown), since(&replaced));
    let line = format!("client_serial=\"{}\"", text(serial));
    let told = worker.program.wait_for(&line, LIMIT).await;
    assert!(
        told.contains(" INFO ") && told.contains("TLS handshake"),
        "{told}"
    );

    files::replace(&files.certificate, b"not a certificate", Mode::Public).unwrap();
    let broken = worker
        .until("the broken file is noticed", |status| {
            status["credentials"]["client_certificate"]["last_failure"].is_object()
        })
        .await;
    let credential = &broken["credentials"]["client_certificate"];
    let failure = &credential["last_failure"];
    assert!(
        text(&failure["reason"]).contains("certificate"),
        "{broken:#}"
    );
    assert!(
        text(&failure["since"]) > since(&shown).as_str(),
        "{broken:#}"
    );
    assert_eq!(credential["failed_reloads"], 1);
    assert_eq!(credential["in_use"], in_use["in_use"]);
    assert_eq!(worker.ready().await, (StatusCode::OK, "ok\n".to_owned()));

    let (_, metrics) = worker.get("/metrics").await;
    for words in [
        "\n# TYPE temporal_",
        "\ntemporal_workflow_completed{",
        "\ntemporal_request{",
        "\ntemporal_long_request{",
        "keyutil_ready 1\n",
        "keyutil_credential_reloads_total{credential=\"client_certificate\",result=\"failed\"} 1\n",
        "keyutil_credential_reloads_total{credential=\"client_certificate\",result=\"ok\"} 1\n",
        "keyutil_calls_total{code=\"Ok\",kind=\"poll\"}",
        "keyutil_tls_handshakes_total",
        "keyutil_tokens_minted_total 1\n",
    ] {
        assert!(metrics.contains(words), "no {words} in\n{metrics}");
    }
    for shown in [metrics, broken.to_string()] {
        for secret in ["eyJ", "PRIVATE KEY", "MII"] {
            assert!(!shown.contains(secret), "{secret} in\n{shown}");
        }
    }

    // A server that answers nothing keeps the worker from coming to its end at once.
    stack.server().unwrap().pause().unwrap();
    worker.program.signal(Signal::TERM);
    worker.becomes_unready("stopping").await;
    assert_eq!(
        worker.get("/healthz").await,
        (StatusCode::OK, "ok\n".to_owned())
    );
    stack.server().unwrap().resume().unwrap();
    let ended = worker.program.ended(LIMIT).await;
    assert!(ended.success(), "{}", worker.program.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_with_a_key_that_nobody_published_is_not_ready_until_it_has_the_right_one() {
    let stack = support::stack(StackOptions::default()).await;
    // Of the worker's own, so that the starter goes on with the right one.
    let file = stack.guard().folder().join("signing.pem");
    let right = fs::read(stack.keyring().current_path()).unwrap();
    files::replace(&file, &right, Mode::Private).unwrap();
    let mut command = support::worker_command(&stack).await;
    command.env("KEYUTIL_SIGNING_KEY_PATH", &file);
    let mut worker = Observed::start(&mut command).await;
    worker.becomes_ready().await;
    // The SDK asks for the namespace once more before it polls, and ends if that is refused.
    worker.program.wait_for("worker started", LIMIT).await;

    let wrong = signing_key::generate_pem().unwrap();
    let wrong = wrong.expose_secret().as_bytes();
    files::replace(&file, wrong, Mode::Private).unwrap();
    worker
        .until("the wrong key is in use", |status| {
            status["credentials"]["signing_key"]["reloads"] == 1
        })
        .await;
    // The polls under way were let in before. What comes of them is refused.
    let mut command = support::starter_command(&stack).await;
    let mut starter = Program::start(command.args(["--count", "5"]));
    let reasons = worker
        .becomes_unready("calls have been refused since")
        .await;
    let kid = SigningKey::from_pem(wrong).unwrap().kid().to_owned();
    for words in [
        kid.as_str(),
        "Request unauthorized",
        "the clock of this machine",
    ] {
        assert!(reasons.contains(words), "no {words} in {reasons}");
    }
    let status = worker.status().await;
    assert!(
        status["calls"]["refusals"]["count"].as_u64() > Some(0),
        "{status:#}"
    );

    files::replace(&file, &right, Mode::Private).unwrap();
    let restored = Instant::now();
    worker.becomes_ready().await;
    assert!(
        restored.elapsed() < Duration::from_secs(30),
        "{:?}",
        restored.elapsed()
    );
    let ended = starter.ended(LIMIT).await;
    assert!(ended.success(), "{}", starter.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_a_server_says_so_and_is_ready_when_it_is_back() {
    let mut stack = support::stack(StackOptions {
        durable: true,
        ..StackOptions::default()
    })
    .await;
    stack.kill_server().await.unwrap();
    let mut command = support::worker_command(&stack).await;
    let worker = Observed::start(&mut command).await;
    assert_eq!(
        worker.get("/healthz").await,
        (StatusCode::OK, "ok\n".to_owned())
    );
    let reasons = worker.becomes_unready("no TCP connection").await;
    assert!(
        reasons.starts_with("connecting to `127.0.0.1:"),
        "{reasons}"
    );
    assert_eq!(worker.status().await["phase"]["name"], "connecting");

    stack.start_server().await.unwrap();
    worker.becomes_ready().await;
    // Once the worker polls: before that, the SDK gives up when it cannot describe the namespace.
    support::assert_greeted(&support::starter(&stack, &[]).await);

    stack.kill_server().await.unwrap();
    let killed = Instant::now();
    let reasons = worker
        .becomes_unready("the connection has been failing")
        .await;
    assert!(
        killed.elapsed() < Duration::from_secs(15),
        "{:?}",
        killed.elapsed()
    );
    assert!(reasons.contains("no TCP connection"), "{reasons}");
    let (_, metrics) = worker.get("/metrics").await;
    assert!(metrics.contains("keyutil_ready 0\n"), "{metrics}");

    stack.start_server().await.unwrap();
    worker.becomes_ready().await;
    let status = worker.status().await;
    assert!(status["connection"]["last_failure"].is_null(), "{status:#}");
    assert!(
        status["connection"]["failures"].as_u64() > Some(0),
        "{status:#}"
    );
    support::assert_greeted(&support::starter(&stack, &[]).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_taken_ends_the_worker_before_it_connects() {
    let stack = support::stack(StackOptions::default()).await;
    let mut command = support::worker_command(&stack).await;
    // The server's own.
    command.env("WORKER_HEALTH_LISTEN", stack.address());
    let output = support::run(&mut command).await;
    assert_eq!(output.status.code(), Some(1));
    let told = support::stderr(&output);
    let words = format!(
        "failed to listen at `{}` for the health endpoint: ",
        stack.address()
    );
    assert!(told.contains(&words), "{told}");
    assert!(!told.contains("TLS handshake"), "{told}");
}

fn worker_files(stack: &Stack) -> PartyFiles {
    Layout::new(&stack.certs()).party(Party::Worker)
}

fn issue(stack: &Stack) -> Leaf {
    let files = Layout::new(&stack.certs()).authority(AuthorityKind::Clients);
    let request = LeafRequest {
        common_name: "worker",
        names: &[],
        purpose: Purpose::Client,
        validity: Validity::from_now(Duration::from_secs(3600)).unwrap(),
    };
    Authority::read(&files).unwrap().issue(&request).unwrap()
}
