//! Worker and starter, as a person runs them.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::support::{self, LIMIT, Program};
use sandbox::{StackOptions, guard::Signal};
use tokio::{
    io::AsyncRead,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::io::InspectReader;

#[tokio::test(flavor = "multi_thread")]
async fn the_starter_prints_what_the_worker_said() {
    let stack = support::stack(StackOptions::default()).await;
    let worker = support::worker(&stack).await;

    let output = support::starter(&stack, &[]).await;
    support::assert_greeted(&output);

    let output = support::starter(&stack, &["--count", "20", "--concurrency", "5"]).await;
    support::assert_all_greeted(&output, 20);

    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_stops_in_order_when_it_is_told_to() {
    let stack = support::stack(StackOptions::default()).await;
    for (signal, name) in [(Signal::INT, "SIGINT"), (Signal::TERM, "SIGTERM")] {
        let mut worker = support::worker(&stack).await;
        support::assert_greeted(&support::starter(&stack, &[]).await);

        let asked = Instant::now();
        worker.signal(signal);
        let status = worker.ended(LIMIT).await;

        assert!(status.success(), "{status}\n{}", worker.log());
        assert!(asked.elapsed() < GRACE, "{:?}", asked.elapsed());
        assert_eq!(worker.complaints(), [""; 0]);
        assert!(worker.wait_for("stopping", LIMIT).await.contains(name));
        worker.wait_for("worker stopped", LIMIT).await;
    }
}

/// The default of `--shutdown-grace`.
const GRACE: Duration = Duration::from_secs(10);

/// TLS hides what is sent and not how much, and it compresses nothing by itself.
#[tokio::test(flavor = "multi_thread")]
async fn gzip_makes_fewer_bytes_of_it() {
    let stack = support::stack(StackOptions::default()).await;
    let name = "Temporal ".repeat(5_000);
    let mut bytes = Vec::new();
    for method in ["none", "gzip"] {
        let relay = Relay::to(stack.address()).await;
        let mut command = support::worker_command(&stack).await;
        command.args(["--grpc-compression", method]);
        command.env("TEMPORAL_ADDRESS", relay.address.to_string());
        let worker: Program = support::polling(&mut command).await;

        let mut command = support::starter_command(&stack).await;
        command.args(["--grpc-compression", method, "--name", &name]);
        command.env("TEMPORAL_ADDRESS", relay.address.to_string());
        let output = support::run(&mut command).await;
        support::assert_success(&output);
        let greeting = format!("Workflow result: Hello {name}!\n");
        assert!(support::stdout(&output).ends_with(&greeting), "{output:?}");

        worker.stop().await;
        bytes.push((relay.sent.load(), relay.received.load()));
    }
    let [(plain_sent, plain_received), (sent, received)] = bytes[..] else {
        unreachable!("two methods");
    };
    // The name is sent and received several times: to the workflow, to the activity, and back.
    let least = u64::try_from(2 * name.len()).unwrap_or(u64::MAX);
    assert!(plain_sent > least && plain_received > least, "{bytes:?}");
    assert!(sent < plain_sent / 4, "{bytes:?}");
    assert!(received < plain_received / 4, "{bytes:?}");
}

/// Passes connections on to a server, and counts their bytes.
struct Relay {
    address: SocketAddr,
    sent: Counter,
    received: Counter,
    _connections: JoinSet<()>,
}

impl Relay {
    async fn to(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sent, received) = (Counter::default(), Counter::default());
        let (to_server, from_server) = (sent.clone(), received.clone());
        let mut connections = JoinSet::new();
        connections.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&server).await.unwrap();
                let (to_server, from_server) = (to_server.clone(), from_server.clone());
                connections.spawn(async move {
                    let (client_reads, mut client_writes) = client.into_split();
                    let (server_reads, mut server_writes) = server.into_split();
                    let mut there = to_server.counting(client_reads);
                    let mut back = from_server.counting(server_reads);
                    // Whichever side ends the connection, it is over.
                    tokio::select! {
                        _ = tokio::io::copy(&mut there, &mut server_writes) => {}
                        _ = tokio::io::copy(&mut back, &mut client_writes) => {}
                    }
                });
            }
        });
        Self {
            address,
            sent,
            received,
            _connections: connections,
        }
    }
}

#[derive(Clone, Default)]
struct Counter(Arc<AtomicU64>);

impl Counter {
    fn counting<R: AsyncRead>(self, reader: R) -> InspectReader<R, impl FnMut(&[u8])> {
        InspectReader::new(reader, move |bytes: &[u8]| {
            self.0.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        })
    }

    fn load(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
