//! What a worker with the SDK's own TLS and API key options does, beside the worker of this project.
//!
//! `worker/examples/sdk_only.rs` and `worker` run on one server. Each test shows a row of the table
//! in `docs/design.md`, for both of them.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use crate::support::{
    self, HOUR, InFlight, LIMIT, Program,
    rotation::{
        complaint, count_in_log, observed_worker, replace, until, until_in_log, until_presented,
    },
};
use keyutil_cli::pki::{
    self, Authority, AuthorityKind, AuthorityRequest, Layout, Leaf, LeafOptions, LeafRequest,
    Party, Purpose, Validity,
};
use sandbox::{
    Stack, StackOptions,
    rotations::{Credential, Rotations},
};
use secrecy::ExposeSecret;
use tokio::{io::AsyncReadExt, net::TcpStream, process::Command, time::sleep};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, HandshakeKind, RootCertStore,
        client::Resumption,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, IpAddr, PrivateKeyDer, ServerName, pem::PemObject},
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_session_does_not_present_the_new_certificate() {
    let stack = stack(|options| options.debug_log = true).await;
    // The cause: the server hands out session tickets, and rustls uses them by default.
    let resumed = second_handshake(&stack, Resumption::default()).await;
    assert_eq!(resumed, HandshakeKind::Resumed);
    let full = second_handshake(&stack, Resumption::disabled()).await;
    assert_ne!(full, HandshakeKind::Resumed);

    let clients = Authority::read(&layout(&stack).authority(AuthorityKind::Clients)).unwrap();
    present(&stack, Party::Admin, &issue(&clients, "old-of-alone"));
    let alone = start_alone(&stack, Party::Admin, HOUR).await;
    let ours = observed_worker(&stack).await;
    let load = InFlight::start(&stack.connect_args(Party::Starter)).await;
    present(&stack, Party::Worker, &issue(&clients, "new-of-ours"));
    present(&stack, Party::Admin, &issue(&clients, "new-of-alone"));
    until_in_log(&stack, "new-of-ours", 0).await;
    until_said(&alone, REPLACED, 1).await;
    // The server's log names the certificate that it takes each connection for.
    let seen = count_in_log(&stack, "old-of-alone");
    until_in_log(&stack, "old-of-alone", seen + 2).await;
    assert_eq!(count_in_log(&stack, "new-of-alone"), 0);
    assert_eq!(alone.lines_with(PRESENTED).len(), 1, "{}", alone.log());
    until_said(&alone, RESUMED, 3).await;

    // The server resumes no session of a certificate whose CA it no longer trusts.
    let rotations = Rotations::new(
        &stack,
        std::slice::from_ref(&ours),
        load.connection(),
        HOUR,
        Instant::now(),
    );
    rotations.rotate(Credential::ClientCa).await.unwrap();
    until_said(&alone, PRESENTED, 2).await;
    load.stop().await;
    assert_eq!(ours.complaints(), [""; 0]);
    ours.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_lasts_keeps_the_sdk_from_using_a_new_certificate() {
    let stack = support::stack(StackOptions::default()).await;
    let alone = start_alone(&stack, Party::Worker, HOUR).await;
    let ours = observed_worker(&stack).await;
    let options = LeafOptions::default();
    let rotated = pki::rotate_leaf(&layout(&stack), Party::Worker, &options, SystemTime::now);
    until_said(&alone, REPLACED, 1).await;
    until(&ours, "the new certificate", |status| {
        status["credentials"]["client_certificate"]["reloads"] == 1
    })
    .await;

    // From here on both have calls to make.
    support::assert_greeted(&support::starter(&stack, &[]).await);
    let status = until_presented(&ours, &rotated.unwrap().new.serial).await;
    assert_eq!(status["connection"]["failures"], 0, "{status:#}");
    support::assert_greeted(&support::starter(&stack, &["--task-queue", ALONE]).await);
    assert_eq!(alone.lines_with(HANDSHAKE).len(), 1, "{}", alone.log());
    ours.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sdk_sends_an_expired_token() {
    let stack = support::stack(StackOptions::default()).await;
    // Built before the token begins to age.
    support::binaries().await;
    let life = Duration::from_secs(20);
    let alone = start_alone(&stack, Party::Worker, life).await;
    let ours = support::worker_with_token_file(&stack, &token_file(&stack)).await;
    // The server has a poll of each, sent with a token that was valid.
    sleep(life).await;

    let mut greeted = Program::start(&mut support::starter_command(&stack).await);
    until_said(
        &ours.program,
        "the call was not sent, because there is no valid token",
        1,
    )
    .await;
    let status = ours.status().await;
    assert_eq!(status["calls"]["refusals"]["count"], 0, "{status:#}");
    assert_eq!(count_in_log(&stack, EXPIRED), 0);

    let mut command = support::starter_command(&stack).await;
    let mut greeted_alone = Program::start(command.args(["--task-queue", ALONE]));
    until_in_log(&stack, EXPIRED, 0).await;
    assert_eq!(alone.lines_with("token replaced"), [""; 0]);

    write_token(&stack, HOUR);
    greeted.wait_for("Workflow result: Hello", LIMIT).await;
    greeted_alone
        .wait_for("Workflow result: Hello", LIMIT)
        .await;
    assert_eq!(alone.lines_with("token replaced").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_the_server_refuses_ends_the_work_of_the_sdk() {
    let mut stack = stack(|options| options.durable = true).await;
    let alone = start_alone(&stack, Party::Worker, HOUR).await;
    let ours = observed_worker(&stack).await;
    present(&stack, Party::Worker, &issue(&unknown(), "worker"));
    until_said(&alone, REPLACED, 1).await;
    let told = complaint(&ours, 0).await;
    for words in ["kept the previous ones", "UnknownCA", UNKNOWN] {
        assert!(told.contains(words), "no {words} in {told}");
    }
    // As long as sessions are resumed, it does no harm and shows nowhere.
    let handshakes = alone.lines_with(HANDSHAKE).len();
    until_said(&alone, HANDSHAKE, handshakes + 2).await;
    support::assert_greeted(&support::starter(&stack, &["--task-queue", ALONE]).await);

    // A server that was started again knows no tickets.
    stack.kill_server().await.unwrap();
    stack.start_server().await.unwrap();
    support::assert_greeted(&support::starter(&stack, &[]).await);
    until_said(&alone, PRESENTED, 3).await;
    let arguments = ["--task-queue", ALONE, "--timeout", "5s"];
    let output = support::starter(&stack, &arguments).await;
    assert!(!output.status.success(), "{}", support::stdout(&output));
    ours.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_the_sdk_do_not_name_the_certificate() {
    let stack = support::stack(StackOptions::default()).await;
    present(&stack, Party::Worker, &issue(&unknown(), "worker"));

    let output = support::run(&mut support::worker_command(&stack).await).await;
    let log = support::stderr(&output);
    for words in ["rejected the client certificate", "UnknownCA", UNKNOWN] {
        assert!(log.contains(words), "no {words} in {log}");
    }
    write_token(&stack, HOUR);
    let output = support::run(&mut alone_command(&stack, Party::Worker).await).await;
    let log = support::stderr(&output);
    assert!(!output.status.success());
    // The TLS alert is among the sources of this at times.
    assert!(log.contains("`get_system_info` call error"), "{log}");
    assert!(!log.contains(UNKNOWN), "{log}");
}

/// The task queue of the example. The other worker has that of the stack.
const ALONE: &str = "sdk-only";

/// Of the example's log: its own words, the SDK's, and rustls's.
const REPLACED: &str = "client certificate replaced";
const PRESENTED: &str = "client certificate presented";
const HANDSHAKE: &str = "TLS handshake complete";
const RESUMED: &str = "Resuming using PSK";

/// Of the server's log.
const EXPIRED: &str = "Token is expired";

/// The CA that the server does not know.
const UNKNOWN: &str = "temporal unknown CA";

/// A server that ends connections after about a second.
async fn stack(change: impl FnOnce(&mut StackOptions)) -> Stack {
    let setting = |name: &str, time: &str| (format!("frontend.{name}"), time.into());
    let mut options = StackOptions {
        dynamic_config: [
            setting("keepAliveMaxConnectionAge", "1s"),
            // On a busy machine a call takes longer than a second.
            setting("keepAliveMaxConnectionAgeGrace", "3s"),
        ]
        .into(),
        ..StackOptions::default()
    };
    change(&mut options);
    support::stack(options).await
}

/// The example, once it polls, with a token that lives for this long.
async fn start_alone(stack: &Stack, party: Party, life: Duration) -> Program {
    let mut command = alone_command(stack, party).await;
    write_token(stack, life);
    let mut alone = Program::start(&mut command);
    alone.wait_for("worker started", LIMIT).await;
    alone
}

async fn alone_command(stack: &Stack, party: Party) -> Command {
    let mut command = stack.command(&support::example("sdk_only").await, party);
    command
        .env("TEMPORAL_TASK_QUEUE", ALONE)
        .env("KEYUTIL_TOKEN_FILE", token_file(stack))
        .env("NO_COLOR", "1")
        .env("RUST_LOG", "info,temporal_client=debug,rustls=debug");
    command
}

fn token_file(stack: &Stack) -> PathBuf {
    stack.guard().folder().join("token.jwt")
}

fn write_token(stack: &Stack, life: Duration) {
    let token = support::token(stack, life);
    replace(&token_file(stack), token.expose_secret());
}

/// Waits until a program has said this so many times.
async fn until_said(program: &Program, words: &str, times: usize) {
    let begun = Instant::now();
    while program.lines_with(words).len() < times {
        let log = || program.log();
        assert!(
            begun.elapsed() < LIMIT,
            "not {times} x {words} in\n{}",
            log()
        );
        sleep(Duration::from_millis(50)).await;
    }
}

fn layout(stack: &Stack) -> Layout {
    Layout::new(&stack.certs())
}

fn unknown() -> Authority {
    let request = AuthorityRequest {
        name: "unknown",
        validity: Validity::from_now(HOUR).unwrap(),
    };
    Authority::generate(&request).unwrap()
}

fn issue(authority: &Authority, common_name: &str) -> Leaf {
    let request = LeafRequest {
        common_name,
        names: &[],
        purpose: Purpose::Client,
        validity: Validity::from_now(HOUR).unwrap(),
    };
    authority.issue(&request).unwrap()
}

fn present(stack: &Stack, party: Party, leaf: &Leaf) {
    let files = layout(stack).party(party);
    replace(&files.certificate, &leaf.certificate_pem);
    replace(&files.key, leaf.key_pem.expose_secret());
}

/// Connects twice with one config, and tells what the second handshake was.
async fn second_handshake(stack: &Stack, resumption: Resumption) -> HandshakeKind {
    let files = layout(stack).party(Party::Worker);
    let certificates = |path| {
        CertificateDer::pem_file_iter(path)
            .unwrap()
            .map(Result::unwrap)
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates(files.trust));
    let key = PrivateKeyDer::from_pem_file(files.key).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates(files.certificate).collect(), key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = resumption;
    let connector = TlsConnector::from(Arc::new(config));
    let mut last = None;
    for _ in 0..2 {
        let tcp = TcpStream::connect(stack.address()).await.unwrap();
        let name = ServerName::IpAddress(IpAddr::try_from("127.0.0.1").unwrap());
        let mut tls = connector.connect(name, tcp).await.unwrap();
        // The ticket comes before the first bytes of HTTP/2.
        tls.read_u8().await.unwrap();
        last = tls.get_ref().1.handshake_kind();
    }
    last.unwrap()
}
