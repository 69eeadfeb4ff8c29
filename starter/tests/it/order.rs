//! The example workflow on a server: the cluster that the `TEMPORAL_…` and `KEYUTIL_…` variables name.
//!
//! `cargo test -p starter -- --ignored` runs these tests. Each has a worker and a task queue of its own.

use std::{
    process::{Command, Output},
    time::Duration,
};

use clap::Parser;
use keyutil::{
    ConnectArgs,
    worker::{RunOptions, run},
};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use worker::DEFAULT_NAMESPACE;

#[derive(Parser)]
#[command(mut_arg("namespace", |argument| argument.default_value(DEFAULT_NAMESPACE)))]
struct Arguments {
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Runs `test` with a new order id and a task queue that a worker of this process polls.
async fn with_worker(test: impl AsyncFnOnce(Starter)) {
    let id = uuid::Uuid::new_v4().to_string();
    let arguments = Arguments::parse_from(["test"]);
    let connection = keyutil::connect(&arguments.connect, "worker")
        .await
        .unwrap();
    let options = worker::options(&id).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async {
        let _ = stopped.await;
        "the test has ended"
    };
    let client = connection.client().clone();
    let working = run([(client, options)], RunOptions::default(), shutdown);
    let testing = async {
        test(Starter(id)).await;
        stop.send(()).unwrap();
    };
    let (worked, ()) = tokio::join!(working, testing);
    worked.unwrap();
}

/// The starter, with the id of the order and of the task queue.
#[derive(Clone)]
struct Starter(String);

impl Starter {
    async fn order(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_starter"));
        command.args(["--task-queue", &self.0, "--timeout", "60s"]);
        command.args(["--output", "json", "order"]).args(arguments);
        tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap()
    }

    /// The result of a command that succeeds.
    async fn result(&self, arguments: &[&str]) -> Value {
        let output = self.order(arguments).await;
        assert!(output.status.success(), "{output:?}");
        let object: Value = serde_json::from_slice(&output.stdout).unwrap();
        object["workflows"][0]["result"].clone()
    }

    /// The message of a command that fails.
    async fn failure(&self, arguments: &[&str]) -> String {
        let output = self.order(arguments).await;
        assert!(!output.status.success(), "{output:?}");
        let object: Value = serde_json::from_slice(&output.stdout).unwrap();
        object["failure"]["cause"].as_str().unwrap().to_owned()
    }

    async fn progress(&self) -> Value {
        self.result(&["progress", &self.0]).await
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a server"]
async fn an_order_is_changed_and_approved_and_shipped() {
    with_worker(async |starter| {
        let id = &starter.0.clone();
        let start = ["start", "--order-id", id, "--items", "2", "--detach"];
        let run_id = starter.result(&start).await;
        assert!(run_id.is_string(), "{run_id}");
        assert_eq!(starter.progress().await["stage"], "awaiting_approval");

        assert_eq!(starter.result(&["set-items", id, "3"]).await, json!(2));
        let refused = starter.failure(&["set-items", id, "0"]).await;
        assert!(refused.contains("at least one item"), "{refused}");
        assert_eq!(starter.progress().await["items"], 3);

        starter.result(&["approve", id, "--by", "Ada"]).await;
        while starter.progress().await["stage"] != "shipped" {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let again = starter.failure(&["start", "--order-id", id]).await;
        assert!(again.contains("already finished"), "{again}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a server"]
async fn an_order_waits_over_several_runs_for_its_approval() {
    with_worker(async |starter| {
        let id = &starter.0.clone();
        let waiting = tokio::spawn({
            let starter = starter.clone();
            async move {
                let start = ["start", "--order-id", &starter.0, "--approval-wait", "1s"];
                starter.result(&start).await
            }
        });
        // The workflow may not have been started yet.
        let continued = async {
            loop {
                let output = starter.order(&["progress", id]).await;
                let object: Value = serde_json::from_slice(&output.stdout).unwrap();
                let progress = &object["workflows"][0]["result"];
                if progress["waits"].as_u64() >= Some(1) {
                    break;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), continued)
            .await
            .unwrap();
        starter.result(&["approve", id, "--by", "Ada"]).await;
        let receipt = waiting.await.unwrap();
        assert_eq!(
            receipt,
            json!({"approved_by": "Ada", "parcels": 1, "payment_id": format!("payment-{id}")})
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a server"]
async fn a_declined_payment_fails_the_order_at_once() {
    with_worker(async |starter| {
        let id = &starter.0.clone();
        let start = ["start", "--order-id", id, "--price-per-item", "1000001"];
        let waiting = tokio::spawn({
            let starter = starter.clone();
            let start = start.map(str::to_owned);
            async move {
                starter
                    .failure(&start.each_ref().map(|word| &word[..]))
                    .await
            }
        });
        while !starter
            .order(&["approve", id, "--by", "Ada"])
            .await
            .status
            .success()
        {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let failure = waiting.await.unwrap();
        assert!(failure.contains("exceed the limit"), "{failure}");
    })
    .await;
}
