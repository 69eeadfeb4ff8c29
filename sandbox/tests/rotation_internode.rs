//! The CA of the server's own services rotates under a worker at work.

use std::time::{Duration, SystemTime};

use crate::support::{
    self, InFlight,
    rotation::{
        copied, count_in_log, observed_worker, probe, until_certificate_refused, until_in_log,
        until_server_presents,
    },
};
use keyutil::ConnectArgs;
use keyutil_cli::pki::{
    self, AuthorityKind, AuthorityOptions, AuthorityRotated, Layout, Party, RotateError,
    RotationStep,
};
use sandbox::{
    Stack, StackOptions,
    stack::{REFRESH, connection_age},
};

#[tokio::test(flavor = "multi_thread")]
async fn with_a_restart_before_the_new_certificate_nothing_fails_and_the_old_one_is_refused() {
    let mut stack = support::stack(StackOptions {
        durable: true,
        ..StackOptions::default()
    })
    .await;
    let ports = stack.settings().ports;
    let worker = observed_worker(&stack).await;
    let load = InFlight::start(&stack.connect_args(Party::Starter)).await;
    let member = |args: ConnectArgs, port: u16| ConnectArgs {
        address: format!("127.0.0.1:{port}"),
        tls_server_name: Some("internode.temporal.local".to_owned()),
        token: keyutil::settings::TokenArgs::default(),
        ..args
    };
    let old = copied(&stack, Party::Internode);
    let [old_to_frontend, old_to_history] =
        [ports.internal_frontend(), ports.history()].map(|port| member(old.clone(), port));
    probe(&old_to_frontend).await.unwrap();

    step(&stack, RotationStep::Trust, false).await;
    load.more(20).await;
    stack.kill_server().await.unwrap();
    stack.start_server().await.unwrap();
    load.more(20).await;

    let reissued = step(&stack, RotationStep::Reissue, true).await;
    let new = member(
        stack.connect_args(Party::Internode),
        ports.internal_frontend(),
    );
    // A service presents it to another one.
    until_server_presents(&new, &reissued.leaves[0].new.serial).await;
    load.more(20).await;
    probe(&old_to_frontend).await.unwrap();

    step(&stack, RotationStep::Retire, true).await;
    until_certificate_refused(&old_to_frontend).await;
    until_certificate_refused(&old_to_history).await;
    probe(&new).await.unwrap();
    load.more(20).await;
    assert_eq!(count_in_log(&stack, UNKNOWN), 0);

    load.stop().await;
    worker.stop().await.unwrap();
}

/// What `keyutil pki rotate` asks about before it reissues, and why: the services keep the root CAs
/// that they were started with. What they have connected stays, and so the work of others goes on;
/// what must be connected anew, fails until the restart.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_restart_the_services_refuse_each_other_on_new_connections() {
    let mut stack = support::stack(StackOptions {
        durable: true,
        dynamic_config: connection_age(Duration::from_secs(2)),
        ..StackOptions::default()
    })
    .await;
    let worker = observed_worker(&stack).await;
    let load = InFlight::start(&stack.connect_args(Party::Starter)).await;

    step(&stack, RotationStep::Trust, false).await;
    step(&stack, RotationStep::Reissue, true).await;
    // The server's own worker, whose connections to the internal frontend end by age as those of
    // clients do. Those between frontend, history and matching do not.
    until_in_log(&stack, UNKNOWN, 0).await;
    load.more(100).await;

    stack.kill_server().await.unwrap();
    stack.start_server().await.unwrap();
    let known = count_in_log(&stack, UNKNOWN);
    load.more(50).await;
    assert_eq!(count_in_log(&stack, UNKNOWN), known);
    load.stop().await;
    worker.stop().await.unwrap();
}

/// Does it as soon as it may be done.
async fn step(stack: &Stack, step: RotationStep, servers_restarted: bool) -> AuthorityRotated {
    let options = AuthorityOptions {
        refresh_interval: REFRESH,
        propagation: Duration::from_secs(2),
        servers_restarted,
        ..AuthorityOptions::default()
    };
    let layout = Layout::new(&stack.certs());
    let kind = AuthorityKind::Internode;
    loop {
        match pki::rotate_authority(&layout, kind, step, &options, SystemTime::now) {
            Err(RotateError::TooEarly { left, .. }) => tokio::time::sleep(left).await,
            done => return done.unwrap(),
        }
    }
}

/// Of the server's log: one service does not know who signed the certificate of another.
const UNKNOWN: &str = "certificate signed by unknown authority";
