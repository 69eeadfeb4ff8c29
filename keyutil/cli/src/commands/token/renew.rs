//! `keyutil token renew`

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;
use keyutil::{
    credentials::FileWatcher,
    diagnosis::ResultExt,
    health::Health,
    program::{self, UsageError},
    settings::SettingsErrors,
    token::{claims, permission},
};
use keyutil_cli::agent::{Renewal, RenewalError, SHORTEST_LIFETIME, health};
use tracing::info;

use super::Minting;

/// Keep a token in a file current, for a process that does not hold the signing key
///
/// The token is minted anew at two thirds of its life, at once when the key changes, and when the
/// file holds something else. It is written under another name and renamed, with mode 0600, so readers
/// see the old token or the new one. This goes on until SIGINT or SIGTERM, and leaves the file: the
/// token in it lasts for a restart. What fails after the first token is tried again every second,
/// and told.
#[derive(Args)]
#[command(after_help = "\
Examples:
  keyutil token renew --output /run/token/worker --namespace orders
  keyutil token renew --output /run/token/ui --subject ui --permissions temporal-system:read
  keyutil token renew --output /run/token/worker --health-listen 127.0.0.1:9090")]
pub struct Renew {
    /// File to write the token to; its folder is made if it is missing. Nothing but a token is
    /// written over
    #[arg(long, value_name = "FILE")]
    output: PathBuf,

    #[command(flatten)]
    minting: Minting,

    /// Address to answer at for `/healthz`, `/readyz` and `/metrics`; port 0 takes a free one,
    /// which the log names [default: no such answers]
    #[arg(long, env = "KEYUTIL_HEALTH_LISTEN", value_name = "ADDRESS:PORT")]
    health_listen: Option<SocketAddr>,
}

pub async fn run(arguments: Renew) -> anyhow::Result<()> {
    let mut problems = SettingsErrors::naming(keyutil::settings::Names::Flags);
    let template = arguments.minting.template(&mut problems);
    if (claims::SHORTEST_LIFETIME..SHORTEST_LIFETIME).contains(&template.lifetime) {
        problems.add(format!(
            "`--token-lifetime` must be {} or more for a token in a file, or its readers are late: `{}`",
            humantime::format_duration(SHORTEST_LIFETIME),
            humantime::format_duration(template.lifetime),
        ));
    }
    problems.into_result().diagnosed()?;
    for warning in permission::lint(&template.permissions, None) {
        program::print_warning(warning);
    }
    // For the error that says what to do.
    arguments.minting.read_key()?;
    let signing_key = arguments.minting.signing_key;
    let renewal = Renewal::start(signing_key, template, arguments.output).map_err(judged)?;
    // From here on, and not before: what hangs at the start can be ended.
    let interrupted = program::interrupted();
    let health = match arguments.health_listen {
        Some(address) => Some(Health::serve(address, health::router(renewal.clone())).await?),
        None => None,
    };
    let watch = FileWatcher::start(vec![Box::new(renewal)]);
    let reason = interrupted.await;
    info!(reason, "stopping: the token in the file stays");
    drop(watch);
    if let Some(health) = health {
        health.stop().await;
    }
    Ok(())
}

fn judged(error: RenewalError) -> anyhow::Error {
    if error.is_usage() {
        UsageError(error.to_string()).into()
    } else {
        error.into()
    }
}
