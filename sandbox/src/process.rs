//! The worker as a child process, and its status.

use std::{
    net::SocketAddr,
    path::Path,
    process::Stdio,
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, bail};
use keyutil_cli::pki::Party;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Child,
};

use crate::{
    guard::{self, Signal},
    stack::Stack,
};

/// The limit of each wait for a program. Longer than the worker's own grace and its connect timeout.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Shared, because each new client reads the certificates of the system. The health endpoint
/// answers one request per connection.
static CLIENT: LazyLock<reqwest::Client> = LazyLock::new(reqwest::Client::new);

/// A worker of the stack, with its health endpoint. It ends with the stack.
#[derive(Debug)]
pub struct WorkerProcess {
    child: Child,
    health: SocketAddr,
    complaints: Arc<Mutex<Vec<String>>>,
}

impl WorkerProcess {
    /// Starts the worker, and waits until it polls.
    ///
    /// # Errors
    /// When it ends before that; its log is in the error.
    pub async fn start(
        stack: &Stack,
        program: &Path,
        token_lifetime: Duration,
    ) -> anyhow::Result<Self> {
        let mut command = stack.command(program, Party::Worker);
        let lifetime = humantime::format_duration(token_lifetime).to_string();
        let mut child = command
            .args([
                "--health-listen",
                "127.0.0.1:0",
                "--token-lifetime",
                &lifetime,
            ])
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("failed to start `{}`", program.display()))?;
        let stderr = child
            .stderr
            .take()
            .context("the worker has no standard error")?;
        let mut lines = BufReader::new(stderr).lines();
        let mut seen = Vec::new();
        let mut health = None;
        while let Some(line) = lines.next_line().await? {
            if let Some((_, address)) = line.split_once("health endpoint listening address=") {
                health = address.trim().parse().ok();
            }
            if let Some(health) = health
                && line.contains("worker started")
            {
                let complaints = Arc::<Mutex<Vec<String>>>::default();
                // Read on, or a full pipe would stop the worker.
                tokio::spawn(collect(lines, complaints.clone()));
                return Ok(Self {
                    child,
                    health,
                    complaints,
                });
            }
            seen.push(line);
        }
        bail!(
            "the worker ended before it started to poll:\n{}",
            seen.join("\n")
        )
    }

    /// The worker's answer at `/status`.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn status(&self) -> anyhow::Result<Value> {
        let url = format!("http://{}/status", self.health);
        let asking = async {
            CLIENT
                .get(&url)
                .send()
                .await?
                .error_for_status()?
                .bytes()
                .await
        };
        let answer = asking.await.with_context(|| {
            let complaints = self.complaints();
            let last = complaints.last().map_or("nothing", String::as_str);
            format!("no answer from `{url}`; the last warning in the worker's log: {last}")
        })?;
        Ok(serde_json::from_slice(&answer)?)
    }

    /// Why the worker is not ready, or [`None`] if it is. A worker that does not answer is not.
    pub async fn unready(&self) -> Option<String> {
        let url = format!("http://{}/readyz", self.health);
        let asking = async {
            let answer = CLIENT.get(&url).send().await?;
            let ready = answer.status().is_success();
            answer.text().await.map(|text| (!ready).then_some(text))
        };
        asking
            .await
            .unwrap_or_else(|error| Some(format!("no answer: {}", keyutil::chain(&error))))
    }

    /// The warnings and errors that the worker has logged.
    pub fn complaints(&self) -> Vec<String> {
        let complaints = self.complaints.lock();
        complaints.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks the worker to stop, and waits until it has.
    ///
    /// # Errors
    /// When it does not stop in order, or not in time.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(id) = self.child.id() {
            guard::send_signal(id, Signal::TERM).context("failed to ask the worker to stop")?;
        }
        let ended = tokio::time::timeout(LIMIT, self.child.wait()).await;
        let status = ended.context("the worker did not stop")??;
        if !status.success() {
            bail!("the worker did not stop in order: {status}");
        }
        Ok(())
    }
}

async fn collect(
    mut lines: tokio::io::Lines<BufReader<tokio::process::ChildStderr>>,
    complaints: Arc<Mutex<Vec<String>>>,
) {
    while let Ok(Some(line)) = lines.next_line().await {
        if line.contains(" WARN ") || line.contains(" ERROR ") {
            let complaints = complaints.lock();
            complaints
                .unwrap_or_else(PoisonError::into_inner)
                .push(line);
        }
    }
}
