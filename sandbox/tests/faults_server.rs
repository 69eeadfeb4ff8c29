//! The server dies, again and again, or stands still, while work is under way.

mod support;

use std::time::Duration;

use keyutil::pki::Party;
use sandbox::{StackOptions, signal::Signal};
use support::{InFlight, LIMIT};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_five_times_costs_no_workflow() {
    let mut stack = support::stack(StackOptions {
        durable: true,
        ..StackOptions::default()
    })
    .await;
    let mut worker = support::worker(&stack).await;
    let load = InFlight::start(&stack.connect_args(Party::Starter)).await;

    for _ in 0..5 {
        stack.kill_server().await.unwrap().unwrap();
        stack.start_server().await.unwrap();
        load.more(20).await;
    }

    load.stop().await;
    worker.signal(Signal::TERM);
    let ended = worker.ended(LIMIT).await;
    assert!(ended.success(), "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stands_still_for_20_s_costs_no_workflow() {
    let stack = support::stack(StackOptions::default()).await;
    let worker = support::worker(&stack).await;
    let load = InFlight::start(&stack.connect_args(Party::Starter)).await;

    let server = stack.server().unwrap();
    server.pause().unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    server.resume().unwrap();

    load.stop().await;
    drop(worker);
}
