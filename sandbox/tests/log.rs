//! A reader of the log that does not read stops nothing but the log.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use crate::support::{self, LIMIT};
use sandbox::{
    Stack, StackOptions,
    guard::{self, Signal},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::ChildStderr,
    time::timeout,
};

const DROPPED: &str = "keyutil_log_lines_dropped_total ";

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_log_is_not_read_works_and_says_later_what_is_missing() {
    let stack = support::stack(StackOptions::default()).await;
    let mut command = support::worker_command(&stack).await;
    let mut worker = command
        .args(["--health-listen", "127.0.0.1:0"])
        // The SDK and h2 log each frame, so that the pipe is full within moments.
        .env("RUST_LOG", "trace")
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut log = BufReader::new(worker.stderr.take().unwrap()).lines();
    let listening = line_with("health endpoint listening", &mut log).await;
    let (_, address) = listening.split_once("address=").unwrap();
    let endpoint = Endpoint(format!("http://{}", address.trim()));
    line_with("worker started", &mut log).await;

    // From now on the log is not read.
    let before = until_more_are_dropped(&stack, &endpoint, 0).await;
    for _ in 0..3 {
        support::assert_all_greeted(&support::starter(&stack, &["--count", "20"]).await, 20);
        assert_eq!(endpoint.get("/healthz").await, "ok\n");
        assert_eq!(endpoint.get("/readyz").await, "ok\n");
    }

    let notice = line_with("log lines were dropped", &mut log).await;
    assert!(notice.contains("WARN"), "{notice}");
    let told = notice.split(' ').find_map(|word| word.parse::<u64>().ok());
    let at_the_most = endpoint.dropped().await;
    assert!(told >= Some(before), "{notice}: {before}");
    assert!(told <= Some(at_the_most), "{notice}: {at_the_most}");

    until_more_are_dropped(&stack, &endpoint, at_the_most).await;
    let begun = Instant::now();
    guard::send_signal(worker.id().unwrap(), Signal::TERM).unwrap();
    let ended = timeout(LIMIT, worker.wait()).await.unwrap().unwrap();
    assert!(ended.success(), "{ended}");
    // 2 s for the log, and what an idle worker needs to take leave of a busy server.
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(8), "{took:?}");
}

async fn line_with(words: &str, log: &mut Lines<BufReader<ChildStderr>>) -> String {
    let find = async {
        loop {
            let line = log.next_line().await.unwrap().unwrap();
            if line.contains(words) {
                return line;
            }
        }
    };
    let found = timeout(LIMIT, find).await;
    found.unwrap_or_else(|_| panic!("no `{words}` in the log"))
}

/// Has the worker work until there is no room for what it logs.
async fn until_more_are_dropped(stack: &Stack, endpoint: &Endpoint, than: u64) -> u64 {
    let begun = Instant::now();
    loop {
        support::assert_all_greeted(&support::starter(stack, &["--count", "20"]).await, 20);
        let dropped = endpoint.dropped().await;
        if dropped > than {
            return dropped;
        }
        assert!(begun.elapsed() < LIMIT, "nothing is dropped");
    }
}

struct Endpoint(String);

impl Endpoint {
    async fn get(&self, path: &str) -> String {
        let client = reqwest::Client::builder().no_proxy();
        let client = client.timeout(Duration::from_secs(10)).build().unwrap();
        let answer = client.get(format!("{}{path}", self.0)).send().await;
        let answer = answer.unwrap_or_else(|error| panic!("the worker stands still: {error}"));
        answer.text().await.unwrap()
    }

    async fn dropped(&self) -> u64 {
        let metrics = self.get("/metrics").await;
        let number = metrics.lines().find_map(|line| line.strip_prefix(DROPPED));
        number.map_or(0, |number| number.parse().unwrap())
    }
}
