//! `keyutil jwks …`

use std::{
    future::pending,
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use clap::{Args, Subcommand};
use keyutil::{base::chain, credentials::FileWatcher, diagnosis::ResultExt, program};
use keyutil_cli::keys::{
    self,
    keyring::{Schedule, read_signing_key},
    serve,
};
use tokio::net::TcpListener;
use tracing::info;

use super::{
    cannot_listen,
    key::{Folder, Times, usage},
    token::check_name,
    unusable,
};

#[derive(Subcommand)]
#[command(after_help = "\
Examples:
  keyutil jwks serve --generate
  keyutil jwks print > jwks.json")]
pub enum Jwks {
    Serve(Serve),
    /// Print the key set
    Print(Print),
}

/// Answer the server's fetches, and follow the key set when it changes
///
/// With `--rotate-every` it rotates the signing key too, as `keyutil key rotate` and `retire` do,
/// with the same waits. The first rotation is due that long after the present key began to sign,
/// also if this program was started in between.
#[derive(Args)]
#[command(after_help = "\
Examples:
  keyutil jwks serve --generate
  keyutil jwks serve --listen 0.0.0.0:8090 --rotate-every 7days --log-format json")]
pub struct Serve {
    #[command(flatten)]
    folder: Folder,

    /// Address to listen at; port 0 takes a free one, which the log names
    #[arg(
        long,
        env = "KEYUTIL_JWKS_LISTEN",
        default_value = "127.0.0.1:8090",
        value_name = "ADDRESS:PORT"
    )]
    listen: SocketAddr,

    /// Make keys first, if there are none
    #[arg(long)]
    generate: bool,

    /// Rotate the signing key at this interval [default: never]
    #[arg(long, env = "KEYUTIL_ROTATE_EVERY", value_name = "DURATION", value_parser = humantime::parse_duration)]
    rotate_every: Option<Duration>,

    #[command(flatten)]
    times: Times,
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  keyutil jwks print > jwks.json
  keyutil jwks print --signing-key certs/signing/next.pem")]
pub struct Print {
    #[command(flatten)]
    folder: Folder,

    /// Print the set of this one private key instead, PEM, P-256 or RSA
    #[arg(long, value_name = "FILE")]
    signing_key: Option<PathBuf>,
}

pub async fn run(command: Jwks) -> anyhow::Result<()> {
    match command {
        Jwks::Serve(arguments) => run_serve(arguments).await,
        Jwks::Print(arguments) => print(arguments),
    }
}

async fn run_serve(arguments: Serve) -> anyhow::Result<()> {
    let policy = arguments.times.policy()?;
    let ring = arguments.folder.ring();
    let schedule = match arguments.rotate_every {
        Some(every) => Some(Schedule::new(ring.clone(), policy, every).map_err(usage)?),
        None => None,
    };
    if arguments.generate && !ring.exists() {
        let made = ring.generate(false, SystemTime::now).diagnosed()?;
        info!(
            signs = made.current.kid(),
            next = made.next.kid(),
            "made the first keys"
        );
    }
    let document = serve::follow(ring.jwks_path()).map_err(|error| {
        let cause = format!("there is no key set to serve: {}", chain(&error));
        unusable(
            cause,
            Some("`--generate` or `keyutil key generate` makes one"),
        )
    })?;
    let listener = TcpListener::bind(arguments.listen)
        .await
        .map_err(|error| cannot_listen(arguments.listen, "--listen", &error))?;
    // Before anybody is told that it can be asked to end.
    let interrupted = program::interrupted();
    info!(
        url = %format_args!("http://{}{}", listener.local_addr()?, serve::WELL_KNOWN_PATH),
        kids = document.current().kids().join(", "),
        "serving the key set"
    );
    let _watch = FileWatcher::start(vec![Box::new(document.clone())]);
    let interrupted = async {
        let _ = interrupted.await;
    };
    let rotating = async {
        match schedule {
            Some(schedule) => schedule.run().await,
            None => pending().await,
        }
    };
    tokio::select! {
        served = serve::serve(listener, document, interrupted) => {
            served.context("failed to serve the key set")
        }
        never = rotating => match never {},
    }
}

fn print(arguments: Print) -> anyhow::Result<()> {
    let jwks = match arguments.signing_key {
        None => arguments.folder.ring().jwks().diagnosed()?,
        Some(path) => {
            check_name(&path)?;
            let key = read_signing_key(&path).diagnosed()?;
            keys::Jwks::publishing([&key]).diagnosed()?
        }
    };
    let document = jwks.document();
    program::print_line(String::from_utf8_lossy(&document).trim_end())?;
    Ok(())
}
