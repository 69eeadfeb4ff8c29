//! `keyutil probe`

use std::time::Duration;

use clap::Args;
use keyutil::{
    base::redact,
    diagnosis::Class,
    program::{Failed, UsageError},
};
use reqwest::{Client, Url, redirect::Policy};

/// Ask a health endpoint, as of `worker --health-listen`; done if the answer is 2xx
///
/// For the health checks of containers without a shell. What else is answered is printed: the
/// reasons why a process is not ready.
#[derive(Args)]
#[command(after_help = "\
Examples:
  keyutil probe http://127.0.0.1:9090/readyz
  keyutil probe --timeout 1s http://127.0.0.1:8090/healthz")]
pub struct Probe {
    /// What to ask for
    url: String,

    /// How long to wait for the answer
    #[arg(long, default_value = "5s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

/// Reasons are lines, not pages.
const LARGEST: usize = 16 << 10;

pub async fn run(Probe { url, timeout }: Probe) -> anyhow::Result<()> {
    let url = Url::parse(&url)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https"))
        .ok_or_else(|| {
            let problem = "the URL must be like `http://127.0.0.1:9090/readyz`";
            UsageError(problem.to_owned())
        })?;
    // Of this machine, as a rule: without the proxy of the environment.
    let client = Client::builder()
        .no_proxy()
        .redirect(Policy::none())
        .timeout(timeout)
        .build()?;
    let shown = redact::source(url.as_str());
    let mut answer = client.get(url).send().await.map_err(|error| {
        let error = error.without_url();
        failed(format!(
            "no answer from `{shown}`: {}",
            keyutil::chain(&error)
        ))
    })?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let mut body = Vec::new();
    // What has come of it will do.
    while let Ok(Some(chunk)) = answer.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() > LARGEST {
            break;
        }
    }
    body.truncate(LARGEST);
    let body = String::from_utf8_lossy(&body);
    Err(failed(match body.trim() {
        "" => format!("`{shown}` answers with {status}"),
        reasons => format!("`{shown}` answers with {status}: {reasons}"),
    }))
}

fn failed(what: String) -> anyhow::Error {
    Failed {
        what,
        exit_code: Class::Unreachable.exit_code(),
    }
    .into()
}
