//! The client certificate is replaced under a worker at work.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

mod support;

use std::time::Duration;

use keyutil::{
    files::{self, Mode},
    pki::{Authority, AuthorityKind, Layout, Leaf, LeafRequest, Party, Purpose, Validity},
};
use sandbox::{Stack, StackOptions};
use secrecy::ExposeSecret;
use support::LIMIT;

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(flavor = "multi_thread")]
async fn a_reissued_client_certificate_is_presented_and_nothing_fails() {
    let stack = support::stack(StackOptions::default()).await;
    let files = Layout::new(&stack.certs()).authority(AuthorityKind::Clients);
    let leaf = issue(&Authority::read(&files).unwrap());
    let mut command = support::worker_command(&stack).await;
    command.env("RUST_LOG", "info,keyutil=debug");
    let mut worker = support::polling(&mut command).await;

    let mut command = support::starter_command(&stack).await;
    let load = support::run(command.args(["--count", "200", "--concurrency", "10"]));
    let replacement = async {
        present(&stack, &leaf);
        worker.wait_for("credential replaced", LIMIT).await
    };
    let (output, replaced) = tokio::join!(load, replacement);

    support::assert_all_greeted(&output, 200);
    let (_, now) = replaced.split_once("now=\"serial ").unwrap();
    let (serial, _) = now.split_once(',').unwrap();
    // A full handshake with it: its name is in the line of the connection that came after.
    let presented = format!("client_serial=\"{serial}\"");
    worker.wait_for(&presented, LIMIT).await;
    support::assert_greeted(&support::starter(&stack, &[]).await);
    worker.stop().await;
}

fn issue(authority: &Authority) -> Leaf {
    let request = LeafRequest {
        common_name: "worker",
        names: &[],
        purpose: Purpose::Client,
        validity: Validity::from_now(HOUR).unwrap(),
    };
    authority.issue(&request).unwrap()
}

/// Replaces the worker's files, as whoever renews certificates does: one after the other.
fn present(stack: &Stack, leaf: &Leaf) {
    let files = Layout::new(&stack.certs()).party(Party::Worker);
    let certificate = leaf.certificate_pem.as_bytes();
    files::replace(&files.certificate, certificate, Mode::Public).unwrap();
    let key = leaf.key_pem.expose_secret().as_bytes();
    files::replace(&files.key, key, Mode::Private).unwrap();
}
