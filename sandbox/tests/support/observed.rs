//! The health endpoint of a worker.

use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::Value;
use tokio::{process::Command, time::sleep};

use super::{LIMIT, Program};

/// A worker that answers over HTTP.
pub struct Observed {
    pub program: Program,
    url: String,
    client: reqwest::Client,
}

impl Observed {
    /// Starts a worker, and waits until it can be asked.
    pub async fn start(command: &mut Command) -> Self {
        command.args(["--health-listen", "127.0.0.1:0"]);
        let mut program = Program::start(command);
        let line = program.wait_for("health endpoint listening", LIMIT).await;
        let (_, address) = line.split_once("address=").unwrap();
        let observed = Self {
            url: format!("http://{}", address.trim()),
            program,
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
        };
        observed.answers_as_http_should().await;
        observed
    }

    async fn answers_as_http_should(&self) {
        for (method, path, expected) in [
            (Method::HEAD, "/healthz", StatusCode::OK),
            (Method::HEAD, "/metrics", StatusCode::OK),
            (Method::POST, "/healthz", StatusCode::METHOD_NOT_ALLOWED),
            (Method::GET, "/nothing", StatusCode::NOT_FOUND),
        ] {
            let request = self.client.request(method, format!("{}{path}", self.url));
            assert_eq!(request.send().await.unwrap().status(), expected, "{path}");
        }
    }

    /// Status and body.
    pub async fn get(&self, path: &str) -> (StatusCode, String) {
        let answer = self.client.get(format!("{}{path}", self.url)).send();
        let answer = answer.await;
        let answer = answer.unwrap_or_else(|error| panic!("{error}\n{}", self.program.log()));
        (answer.status(), answer.text().await.unwrap())
    }

    /// What `/readyz` says.
    pub async fn ready(&self) -> (StatusCode, String) {
        self.get("/readyz").await
    }

    /// What `/status` says.
    pub async fn status(&self) -> Value {
        serde_json::from_str(&self.get("/status").await.1).unwrap()
    }

    /// Waits until it is ready.
    pub async fn becomes_ready(&self) {
        let begun = Instant::now();
        loop {
            let (status, reasons) = self.ready().await;
            if status == StatusCode::OK {
                return;
            }
            let log = || self.program.log();
            assert!(begun.elapsed() < LIMIT, "not ready: {reasons}\n{}", log());
            sleep(PAUSE).await;
        }
    }

    /// Waits until it is not ready for this reason, and gives back all reasons.
    pub async fn becomes_unready(&self, words: &str) -> String {
        let begun = Instant::now();
        loop {
            let (status, reasons) = self.ready().await;
            if status == StatusCode::SERVICE_UNAVAILABLE && reasons.contains(words) {
                return reasons;
            }
            let log = || self.program.log();
            assert!(begun.elapsed() < LIMIT, "no {words}: {reasons}\n{}", log());
            sleep(PAUSE).await;
        }
    }

    /// Waits until its status is like this, and gives it back.
    pub async fn until(&self, what: &str, reached: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let status = self.status().await;
            if reached(&status) {
                return status;
            }
            assert!(begun.elapsed() < LIMIT, "not seen: {what}\n{status:#}");
            sleep(PAUSE).await;
        }
    }
}

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// A text of the status.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}
