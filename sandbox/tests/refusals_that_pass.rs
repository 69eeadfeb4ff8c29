//! The server does not know the key of a worker, and fetches it later. The worker waits, says so, and
//! works again in the same process.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use crate::support::{self, LIMIT, Observed, Program};
use keyutil::token::{SigningKey, signing_key};
use keyutil_cli::{
    files::{self, Mode},
    pki::Party,
};
use reqwest::StatusCode;
use sandbox::{Stack, StackOptions, guard::Signal};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use temporalio_client::ClientOptions;
use tokio::{process::Command, sync::oneshot, time::sleep};

/// How long the SDK repeats a refused poll before it ends its worker, and the call with which its
/// worker starts.
const SDK_PATIENCE: Duration = Duration::from_secs(60);

/// From the fetch of a key to a ready worker: the longest pause of the SDK between polls, and time for
/// a busy machine.
const RECOVERY: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_key_the_server_has_not_fetched_yet_waits_for_it() {
    let stack = support::stack(StackOptions::default()).await;
    let key = OwnKey::new(&stack);
    let mut worker = Observed::start(&mut key.worker().await).await;

    let told = worker
        .program
        .wait_for("waiting for the server: it refuses", LIMIT)
        .await;
    for words in [
        "WARN",
        "may accept it after its next fetch of the key set",
        "the server does not know the key",
        "keyutil doctor",
        "limit=5m",
    ] {
        assert!(told.contains(words), "no {words} in {told}");
    }
    let reasons = worker.becomes_unready("does not know the key").await;
    assert!(reasons.starts_with("connecting to `"), "{reasons}");

    key.publish(true);
    worker.becomes_ready().await;
    support::assert_greeted(&support::starter(&stack, &[]).await);
    ends_well(worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_a_worker_that_waits_for_its_key() {
    let stack = support::stack(StackOptions::default()).await;
    let mut worker = Program::start(&mut OwnKey::new(&stack).worker().await);
    worker
        .wait_for("waiting for the server: it refuses", LIMIT)
        .await;
    let begun = Instant::now();
    worker.signal(Signal::TERM);
    let ended = worker.ended(LIMIT).await;
    assert!(ended.success(), "{}", worker.log());
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_key_is_away_for_longer_than_the_sdk_waits_works_again() {
    let stack = support::stack(StackOptions::default()).await;
    let key = OwnKey::new(&stack);
    key.publish(true);
    let mut worker = Observed::start(&mut key.worker().await).await;
    worker.becomes_ready().await;
    support::assert_greeted(&support::starter(&stack, &[]).await);
    let id = worker.program.id();

    key.publish(false);
    // The server refuses the results of polls that it accepted before, and all later polls.
    let mut command = support::starter_command(&stack).await;
    let load = ["--count", "5", "--workflow-timeout", "10m"];
    let mut starter = Program::start(command.args(load));
    let reasons = worker
        .becomes_unready("calls have been refused since")
        .await;
    assert!(reasons.contains("does not know the key"), "{reasons}");
    let refused = Instant::now();
    let told = worker.program.wait_for("calls are failing", LIMIT).await;
    assert!(!told.contains("worker_ends_at"), "{told}");
    let again = worker.program.wait_for("calls are failing", LIMIT).await;
    for words in ["WARN", "lasted=", "repeats its polls until"] {
        assert!(again.contains(words), "no {words} in {again}");
    }
    sleep((SDK_PATIENCE + Duration::from_secs(20)).saturating_sub(refused.elapsed())).await;
    assert_eq!(worker.ready().await.0, StatusCode::SERVICE_UNAVAILABLE);

    key.publish(true);
    let back = Instant::now();
    worker.becomes_ready().await;
    assert!(back.elapsed() < RECOVERY, "{:?}", back.elapsed());
    assert_eq!(worker.program.id(), id);
    let ended = starter.ended(2 * LIMIT).await;
    assert!(ended.success(), "{}", starter.log());
    ends_well(worker).await;
}

/// The server dies between `connect` and the call with which the SDK's worker starts, and comes back
/// after the SDK would have ended it.
#[tokio::test(flavor = "multi_thread")]
async fn workers_wait_for_a_server_that_dies_before_they_start() {
    let mut stack = support::stack(StackOptions {
        durable: true,
        ..StackOptions::default()
    })
    .await;
    let connection = keyutil::connect(&stack.connect_args(Party::Worker), "worker").await;
    let connection = connection.unwrap();
    let namespace = stack.namespace().to_owned();
    let client = || {
        let options = ClientOptions::new(&namespace).build();
        connection.client_with(options).unwrap()
    };
    stack.kill_server().await.unwrap();

    // One that is told to stop while it waits ends at once.
    let options = worker::options("another").unwrap();
    let begun = Instant::now();
    let shutdown = async {
        sleep(Duration::from_secs(2)).await;
        "the test"
    };
    let run = keyutil::worker::run([(client(), options)], Default::default(), shutdown);
    run.await.unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );

    let (stop, stopped) = oneshot::channel::<()>();
    let two = [sandbox::stack::TASK_QUEUE, "another"]
        .map(|queue| (client(), worker::options(queue).unwrap()));
    let workers = keyutil::worker::run(two, Default::default(), async {
        let _ = stopped.await;
        "the test"
    });
    let rest = async {
        sleep(SDK_PATIENCE + Duration::from_secs(5)).await;
        stack.start_server().await.unwrap();
        for queue in [sandbox::stack::TASK_QUEUE, "another"] {
            let output = support::starter(&stack, &["--task-queue", queue]).await;
            support::assert_greeted(&output);
        }
        stop.send(()).unwrap();
    };
    let (ended, ()) = tokio::join!(workers, rest);
    ended.unwrap();
}

/// A signing key of the worker alone, so that the starter goes on with the stack's.
struct OwnKey<'s> {
    stack: &'s Stack,
    pem: SecretString,
    file: PathBuf,
}

impl<'s> OwnKey<'s> {
    fn new(stack: &'s Stack) -> Self {
        let file = stack.guard().folder().join("own.pem");
        let pem = signing_key::generate_pem().unwrap();
        files::replace(&file, pem.expose_secret().as_bytes(), Mode::Private).unwrap();
        Self { stack, pem, file }
    }

    async fn worker(&self) -> Command {
        let mut command = support::worker_command(self.stack).await;
        command.env("KEYUTIL_SIGNING_KEY_PATH", &self.file);
        command
    }

    /// Puts the public half into the key set, or takes it out. The server fetches the set within a
    /// second.
    fn publish(&self, present: bool) {
        let path = self.stack.keyring().jwks_path();
        let mut set: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let key = SigningKey::from_pem(self.pem.expose_secret().as_bytes()).unwrap();
        let keys = set["keys"].as_array_mut().unwrap();
        keys.retain(|known| known["kid"] != key.kid());
        if present {
            keys.push(serde_json::to_value(key.public()).unwrap());
        }
        files::replace(&path, set.to_string().as_bytes(), Mode::Public).unwrap();
    }
}

async fn ends_well(mut worker: Observed) {
    worker.program.signal(Signal::TERM);
    let ended = worker.program.ended(LIMIT).await;
    assert!(ended.success(), "{}", worker.program.log());
}
