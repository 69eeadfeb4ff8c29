//! `keyutil pki renew` keeps the certificates of a cluster at work current.

use std::time::{Duration, SystemTime};

use keyutil_cli::pki::{
    self, AuthorityKind, AuthorityOptions, Layout, LeafOptions, Party, RotateError, RotationStep,
};
use sandbox::{Stack, StackOptions, guard::Signal, stack::REFRESH};
use tokio::time::{sleep, timeout};

use crate::support::{
    self, InFlight, LIMIT, Program,
    rotation::{observed_worker, until, until_accepted},
};

/// Renewed with 15 to 20 s left.
const LEAF_LIFETIME: Duration = Duration::from_secs(60);

/// Rotated with 30 to 40 s left.
const CA_LIFETIME: Duration = Duration::from_secs(120);

const PROPAGATION: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn all_leaves_and_a_ca_are_replaced_by_themselves_and_no_work_fails() {
    let keyutil = support::binaries().await.keyutil.clone();
    let stack = support::stack(StackOptions::default()).await;
    let worker = observed_worker(&stack).await;
    let load = InFlight::start(&stack.connect_args(Party::Starter)).await;
    shorten(&stack).await;
    let layout = Layout::new(&stack.certs());
    let listed = || pki::list(&layout, &options(), SystemTime::now()).unwrap();
    let before = listed();

    let mut command = stack.command(&keyutil, Party::Admin);
    command
        .args(["pki", "renew", "--refresh-interval=1s", "--propagation=2s"])
        .args(["--health-listen=127.0.0.1:0", "--dir"])
        .arg(stack.certs());
    let mut agent = Program::start(&mut command);
    let line = agent.wait_for("health endpoint listening", LIMIT).await;
    let address = line.split("address=").nth(1).unwrap().trim().to_owned();

    // Every leaf, by a renewal of its own: the frontend's and internode's CA live for years.
    for party in Party::ALL {
        let words = format!("party=\"{}\"", party.name());
        until_said(&agent, &words).await;
    }
    // And the clients' CA, with all of its certificates.
    for step in ["trust", "reissue", "retire"] {
        let words = format!("step={step}");
        until_said(&agent, &words).await;
    }
    let after = listed();
    assert_eq!(after.problems, [""; 0]);
    for (old, new) in before.leaves.iter().zip(&after.leaves) {
        let [old, new] = [old, new].map(|leaf| leaf.certificate.as_ref().unwrap());
        assert_ne!(old.serial, new.serial, "{}", old.subject);
        assert_eq!(old.names(), new.names());
    }
    assert_eq!(after.authorities.len(), AuthorityKind::ALL.len(), "retired");
    let [old, new] = [&before, &after].map(|listing| listing.authorities[0].certificate.clone());
    let (old, new) = (old.unwrap(), new.unwrap());
    assert_ne!(old.serial, new.serial);
    let frontend = after.leaves[4].certificate.clone().unwrap();

    // Both sides have seen them.
    let admin = stack.connect_args(Party::Admin);
    until_accepted(&admin).await;
    until(&worker, "a certificate of the new CA", |status| {
        let handshake = &status["connection"]["last_handshake"];
        handshake["client"]["issuer"] == new.subject.as_str()
    })
    .await;
    let presented = support::rotation::until_server_presents(&admin, &frontend.serial);
    presented.await;
    load.more(20).await;

    let readiness = ["probe".to_owned(), format!("http://{address}/readyz")];
    let ready = support::run(stack.command(&keyutil, Party::Admin).args(readiness)).await;
    support::assert_success(&ready);
    load.stop().await;
    let complaints = worker.complaints();
    assert_eq!(complaints, [""; 0]);
    worker.stop().await.unwrap();
    assert_eq!(agent.complaints(), [""; 0]);
    agent.signal(Signal::TERM);
    assert!(agent.ended(LIMIT).await.success());
}

/// Waits until a line of the agent's log has these words, for longer than a CA lives.
async fn until_said(agent: &Program, words: &str) {
    let said = async {
        while agent.lines_with(words).is_empty() {
            sleep(Duration::from_millis(100)).await;
        }
    };
    let said = timeout(2 * CA_LIFETIME, said).await;
    said.unwrap_or_else(|_| panic!("no `{words}` in\n{}", agent.log()));
}

fn options() -> AuthorityOptions {
    AuthorityOptions {
        lifetime: CA_LIFETIME,
        leaf_lifetime: Some(LEAF_LIFETIME),
        refresh_interval: REFRESH,
        propagation: PROPAGATION,
        ..AuthorityOptions::default()
    }
}

/// Replaces all leaves and the clients' CA by ones that live for seconds. A stack that began with such
/// certificates might take longer than they live to start.
async fn shorten(stack: &Stack) {
    let layout = Layout::new(&stack.certs());
    let kind = AuthorityKind::Clients;
    let mut step = Some(RotationStep::Trust);
    while let Some(next) = step {
        match pki::rotate_authority(&layout, kind, next, &options(), SystemTime::now) {
            Ok(done) => step = done.next.map(|next| next.step),
            Err(RotateError::TooEarly { left, .. }) => sleep(left).await,
            Err(error) => panic!("{next}: {error}"),
        }
    }
    for party in [Party::Frontend, Party::Internode] {
        let lifetime = Some(LEAF_LIFETIME);
        pki::rotate_leaf(&layout, party, &LeafOptions { lifetime }, SystemTime::now).unwrap();
    }
}
