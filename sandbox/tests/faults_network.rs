//! The network stops carrying packets, and neither side notices.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use crate::support::{self, LIMIT};
use keyutil::ConnectArgs;
use keyutil_cli::pki::Party;
use sandbox::{StackOptions, stack::TASK_QUEUE};
use temporalio_client::WorkflowStartOptions;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::sleep,
};
use worker::canary::HelloWorkflow;

/// The way to the server. A connection that exists when the network is cut, or is made meanwhile,
/// stays open and never carries anything again, like one that a firewall has forgotten. Ends with
/// its owner.
struct Network {
    address: String,
    up: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Network {
    async fn start(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let up = watch::Sender::new(true);
        let mut state = up.subscribe();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let is_up = *state.borrow_and_update();
                let (mut cut, server) = (state.clone(), server.clone());
                connections.spawn(async move {
                    let mut server = TcpStream::connect(server).await.unwrap();
                    if is_up {
                        tokio::select! {
                            _ = copy_bidirectional(&mut client, &mut server) => return,
                            _ = cut.wait_for(|up| !up) => {}
                        }
                    }
                    std::future::pending().await
                });
            }
        });
        Self { address, up, task }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// 1,000 starts, 20 at a time, and a partition of 30 s after the first 200.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_of_30_s_fails_no_start() {
    let stack = support::stack(StackOptions::default()).await;
    let network = Network::start(stack.address()).await;
    let args = ConnectArgs {
        address: network.address.clone(),
        ..stack.connect_args(Party::Starter)
    };
    let connection = keyutil::connect(&args, "test").await.unwrap();

    let (next, started) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut starters = JoinSet::new();
    for _ in 0..20 {
        let client = connection.client().clone();
        let (next, started) = (next.clone(), started.clone());
        starters.spawn(async move {
            let (mut worst, mut failures) = (Duration::ZERO, Vec::new());
            loop {
                let number = next.fetch_add(1, SeqCst);
                if number >= 1000 {
                    return (worst, failures);
                }
                let id = format!("partition-{number}");
                let options = WorkflowStartOptions::new(TASK_QUEUE, id.as_str()).build();
                let begun = Instant::now();
                let start = client.start_workflow(HelloWorkflow::run, "any".to_owned(), options);
                match start.await {
                    Ok(_) => drop(started.fetch_add(1, SeqCst)),
                    Err(error) => failures.push(keyutil::chain(&error)),
                }
                worst = worst.max(begun.elapsed());
            }
        });
    }
    let begun = Instant::now();
    while started.load(SeqCst) < 200 {
        assert!(begun.elapsed() < LIMIT, "no start");
        sleep(Duration::from_millis(1)).await;
    }
    network.up.send_replace(false);
    // The fault itself, not a wait for something.
    sleep(Duration::from_secs(30)).await;
    let during = started.load(SeqCst);
    network.up.send_replace(true);

    let ended = starters.join_all().await;
    let failures: Vec<_> = ended.iter().flat_map(|(_, failures)| failures).collect();
    let worst = ended.iter().map(|(worst, _)| *worst).max().unwrap();
    eprintln!("worst start: {worst:?}");
    assert_eq!(failures, [""; 0]);
    assert_eq!(started.load(SeqCst), 1000);
    assert!(during < 1000, "over before the partition");
    assert!(worst < Duration::from_secs(50), "{worst:?}");
}
