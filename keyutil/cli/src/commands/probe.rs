//! `keyutil probe`

use std::time::Duration;

use clap::Args;
use keyutil::{
    base::redact,
    diagnosis::Class,
    program::{Failed, UsageError},
};
use keyutil_cli::keys::fetch::USER_AGENT;
use reqwest::{Client, Url, redirect::Policy};

/// Query a health endpoint, such as that of `worker --health-listen`; succeeds on status 2xx
///
/// For the health checks of containers without a shell. Any other answer is printed: it says why
/// the process is not ready.
#[derive(Args)]
#[command(after_help = "\
Examples:
  keyutil probe http://127.0.0.1:9090/readyz
  keyutil probe --timeout 1s http://127.0.0.1:8090/healthz")]
pub struct Probe {
    /// URL to query
    url: String,

    /// How long to wait for the answer
    #[arg(long, default_value = "5s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

/// The longest part of an answer that is printed.
const LARGEST: usize = 16 << 10;

pub async fn run(Probe { url, timeout }: Probe) -> anyhow::Result<()> {
    let url = Url::parse(&url)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https"))
        .ok_or_else(|| {
            let problem = "`<URL>` must be an `http://` or `https://` URL, such as `http://127.0.0.1:9090/readyz`";
            UsageError(problem.to_owned())
        })?;
    // The endpoint is on this machine, as a rule: the proxy of the environment is not used.
    let client = Client::builder()
        .no_proxy()
        .redirect(Policy::none())
        .timeout(timeout)
        .user_agent(USER_AGENT)
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
    // An answer that breaks off is printed as far as it was received.
    while let Ok(Some(chunk)) = answer.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() > LARGEST {
            break;
        }
    }
    body.truncate(LARGEST);
    let body = String::from_utf8_lossy(&body);
    Err(failed(match body.trim() {
        "" => format!("`{shown}` answered {status}"),
        reasons => format!("`{shown}` answered {status}: {reasons}"),
    }))
}

fn failed(what: String) -> anyhow::Error {
    Failed {
        what,
        exit_code: Class::Unreachable.exit_code(),
    }
    .into()
}
