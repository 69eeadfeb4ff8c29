//! `keyutil` is killed at any moment while it rotates what worker and starter are using.
//!
//! That a rotation goes on from wherever it was is shown for each single file operation in
//! `keyutil`; here no workflow fails meanwhile.

use std::time::Duration;

use crate::support::{self, InFlight, LIMIT, Observed};
use keyutil_cli::pki::Party;
use sandbox::{Stack, StackOptions, guard::Signal, stack::connection_age};
use tokio::{process::Command, time::sleep};

#[tokio::test(flavor = "multi_thread")]
async fn a_keyutil_that_is_killed_while_it_rotates_costs_no_workflow() {
    let stack = support::stack(StackOptions {
        // Handshakes go on, with whatever there is.
        dynamic_config: connection_age(Duration::from_secs(2)),
        ..StackOptions::default()
    })
    .await;
    let mut worker = Observed::start(&mut support::worker_command(&stack).await).await;
    worker.becomes_ready().await;
    let load = InFlight::start(&stack.connect_args(Party::Starter)).await;

    let certificates = async {
        // Reading, signing and writing take some tens of milliseconds.
        for party in ["worker", "starter"] {
            let rotate = ["pki", "rotate", party];
            killed_and_run_again(&stack, &rotate, 8, Duration::from_millis(80)).await;
        }
        let times = ["--refresh-interval", "1s", "--propagation", "2s"];
        let rotate = [&["pki", "rotate", "client-ca"][..], &times].concat();
        // Three steps, with two waits of three seconds.
        killed_and_run_again(&stack, &rotate, 4, Duration::from_secs(3)).await;
    };
    let keys = async {
        let times = [
            ["--refresh-interval", "1s"],
            ["--propagation", "2s"],
            ["--clock-skew", "1s"],
        ];
        let rotate = [&["key", "rotate", "--wait"][..], &times.concat()].concat();
        killed_and_run_again(&stack, &rotate, 4, Duration::from_secs(5)).await;
    };
    tokio::join!(certificates, keys);

    worker
        .until("the end of all of them is in use", |status| {
            let credential = |name: &str| &status["credentials"][name];
            let fine = |name: &str| {
                credential(name)["reloads"].as_u64() > Some(0)
                    && credential(name)["last_failure"].is_null()
            };
            fine("client_certificate") && fine("signing_key")
        })
        .await;
    load.stop().await;
    support::assert_greeted(&support::starter(&stack, &[]).await);
    let status = worker.status().await;
    assert_eq!(status["calls"]["refusals"]["count"], 0, "{status:#}");
    // Killed between certificate and key, it leaves two that do not belong together.
    for complaint in worker.program.complaints() {
        assert!(complaint.contains("kept the one in use"), "{complaint}");
    }
    worker.program.signal(Signal::TERM);
    let ended = worker.program.ended(LIMIT).await;
    assert!(ended.success(), "{}", worker.program.log());
}

/// Kills it so many times, each within `longest` of its start, and then has it come to its end.
async fn killed_and_run_again(stack: &Stack, args: &[&str], times: u32, longest: Duration) {
    let command = async || {
        let mut command = Command::new(&support::binaries().await.keyutil);
        command.args(args).current_dir(stack.guard().folder());
        command
    };
    for _ in 0..times {
        let mut child = command().await.kill_on_drop(true).spawn().unwrap();
        let part = f64::from(uuid::Uuid::new_v4().as_fields().0) / f64::from(u32::MAX);
        sleep(longest.mul_f64(part)).await;
        child.kill().await.unwrap();
    }
    support::assert_success(&support::run(&mut command().await).await);
}
