//! What tests of rotations look at: a worker that tells of itself, the server's log, one call on a
//! connection of its own.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use keyutil::{ConnectArgs, ConnectError, connect, settings::Settings};
use keyutil_cli::pki::Party;
use sandbox::{Stack, process::WorkerProcess};
use serde_json::Value;
use tokio::time::sleep;

use super::{LIMIT, binaries};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// A worker that is polling.
pub async fn observed_worker(stack: &Stack) -> WorkerProcess {
    let lifetime = Duration::from_secs(300);
    let started = WorkerProcess::start(stack, &binaries().await.worker, lifetime).await;
    started.unwrap()
}

/// Waits until the worker tells this of itself.
pub async fn until(
    worker: &WorkerProcess,
    what: &str,
    like_this: impl Fn(&Value) -> bool,
) -> Value {
    let begun = Instant::now();
    loop {
        let status = worker.status().await.unwrap();
        if like_this(&status) {
            return status;
        }
        let complaints = || worker.complaints().join("\n");
        assert!(
            begun.elapsed() < LIMIT,
            "not seen: {what}\n{status:#}\n{}",
            complaints()
        );
        sleep(PAUSE).await;
    }
}

/// Waits until the worker presents this certificate, and the server has accepted it.
pub async fn until_presented(worker: &WorkerProcess, serial: &str) -> Value {
    until(worker, "a handshake with the new certificate", |status| {
        status["connection"]["last_handshake"]["client"]["serial"] == serial
    })
    .await
}

/// Waits for the next complaint of the worker, after `known` of them, and gives it back.
pub async fn complaint(worker: &WorkerProcess, known: usize) -> String {
    let begun = Instant::now();
    loop {
        if let Some(complaint) = worker.complaints().into_iter().nth(known) {
            return complaint;
        }
        assert!(begun.elapsed() < LIMIT, "no complaint number {known}");
        sleep(PAUSE).await;
    }
}

/// Waits for a complaint of the worker with these words in it, and gives it back.
pub async fn complaint_with(worker: &WorkerProcess, words: &str) -> String {
    let begun = Instant::now();
    loop {
        let mut complaints = worker.complaints().into_iter();
        if let Some(complaint) = complaints.find(|complaint| complaint.contains(words)) {
            return complaint;
        }
        assert!(begun.elapsed() < LIMIT, "no complaint with {words}");
        sleep(PAUSE).await;
    }
}

/// One call that takes permission, on a connection of its own.
pub async fn probe(args: &ConnectArgs) -> Result<(), ConnectError> {
    let settings = Settings::new(args, "test").unwrap();
    connect::open(settings).unwrap().session().probe().await
}

/// Waits until the server answers such a call.
pub async fn until_accepted(args: &ConnectArgs) {
    let begun = Instant::now();
    while let Err(error) = probe(args).await {
        assert!(begun.elapsed() < LIMIT, "{}", keyutil::chain(&error));
        sleep(PAUSE).await;
    }
}

/// Waits until this is the certificate that a new connection is shown.
pub async fn until_server_presents(args: &ConnectArgs, serial: &str) {
    let begun = Instant::now();
    loop {
        let settings = Settings::new(args, "test").unwrap();
        let opened = connect::open(settings).unwrap();
        opened.session().probe().await.unwrap();
        let handshake = opened.observer().status().connection.last_handshake;
        let presented = handshake.and_then(|handshake| handshake.server);
        if presented.is_some_and(|presented| presented.serial == serial) {
            return;
        }
        assert!(begun.elapsed() < LIMIT, "not presented: {serial}");
        sleep(PAUSE).await;
    }
}

/// Waits until the server refuses such a call for its client certificate.
pub async fn until_certificate_refused(args: &ConnectArgs) {
    let begun = Instant::now();
    loop {
        match probe(args).await {
            Err(ConnectError::ClientCertificate { .. }) => return,
            // What else the port has to say comes after TLS.
            _ => assert!(begun.elapsed() < LIMIT, "still accepted"),
        }
        sleep(PAUSE).await;
    }
}

/// How often these words are in the server's log.
pub fn count_in_log(stack: &Stack, words: &str) -> usize {
    let log = fs::read(stack.server().unwrap().log_path()).unwrap();
    String::from_utf8_lossy(&log).matches(words).count()
}

/// Waits until these words are there more than `known` times.
pub async fn until_in_log(stack: &Stack, words: &str, known: usize) {
    let begun = Instant::now();
    while count_in_log(stack, words) <= known {
        assert!(begun.elapsed() < LIMIT, "no `{words}` in the server's log");
        sleep(PAUSE).await;
    }
}

/// How a party connects with a copy of its certificate and key, which is not replaced.
pub fn copied(stack: &Stack, party: Party) -> ConnectArgs {
    let mut args = stack.connect_args(party);
    let folder = stack
        .guard()
        .folder()
        .join(format!("copied-{}", party.name()));
    fs::create_dir_all(&folder).unwrap();
    for path in [&mut args.tls_cert_path, &mut args.tls_key_path] {
        let from = path.as_ref().unwrap();
        let to = folder.join(from.file_name().unwrap());
        fs::copy(from, &to).unwrap();
        *path = Some(to);
    }
    args
}

/// Replaces a file by a rename, as a program that renews credentials does.
pub fn replace(path: &Path, content: impl AsRef<[u8]>) {
    // A directory would be in the way.
    let _ = fs::remove_dir(path);
    keyutil_cli::files::replace(path, content.as_ref(), keyutil_cli::files::Mode::Private).unwrap();
}
