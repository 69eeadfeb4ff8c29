//! `keyutil jwks …`

use std::{
    future::pending,
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use clap::{Args, Subcommand};
use keyutil::{
    base::chain,
    credentials::FileWatcher,
    diagnosis::{Diagnose, ResultExt},
    health, program,
};
use keyutil_cli::keys::{
    self,
    keyring::{Schedule, read_signing_key},
    serve,
};
use tracing::{info, warn};

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

/// Serve the key set over HTTP, and follow the file when it changes
///
/// With `--rotate-every` this command also rotates the signing key, with the same waits as `keyutil
/// key rotate` and `keyutil key retire`. The first rotation is due one interval after the current
/// key began to sign; a restart does not delay it. The next key signs only after `--expect-fetchers`
/// servers have fetched it from this process.
///
/// `/healthz` answers 200 while the process is alive. `/readyz` answers 503, with the reasons, if the
/// keys cannot be rotated or the key set is not that of the file; use it for alerts only, because
/// the key set is served all the same. `/metrics` has the same data for Prometheus.
#[derive(Args)]
#[command(after_help = "\
Examples:
  keyutil jwks serve --generate
  keyutil jwks serve --listen 0.0.0.0:8090 --rotate-every 7days --log-format json")]
pub struct Serve {
    #[command(flatten)]
    folder: Folder,

    /// Address to listen on; port 0 picks a free port, which the log names
    #[arg(
        long,
        env = "KEYUTIL_JWKS_LISTEN",
        default_value = "127.0.0.1:8090",
        value_name = "ADDRESS:PORT"
    )]
    listen: SocketAddr,

    /// Create the keys first, if there are none
    #[arg(long)]
    generate: bool,

    /// Interval at which the signing key is rotated [default: never]
    #[arg(long, env = "KEYUTIL_ROTATE_EVERY", value_name = "DURATION", value_parser = humantime::parse_duration)]
    rotate_every: Option<Duration>,

    /// How many servers must have fetched the next key before `--rotate-every` lets it sign; each
    /// address counts as one; 0: does not wait for them
    #[arg(
        long,
        env = "KEYUTIL_EXPECT_FETCHERS",
        default_value_t = 1,
        value_name = "NUMBER"
    )]
    expect_fetchers: usize,

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

    /// Private key (PEM, P-256 or RSA) whose key set is printed, instead of the published one
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
    let ring = arguments.folder.ring()?;
    let schedule = match arguments.rotate_every {
        Some(every) => Some(Schedule::new(ring.clone(), policy, every).map_err(usage)?),
        None => None,
    };
    if arguments.generate && !ring.exists() {
        let made = ring.generate(false, SystemTime::now).diagnosed()?;
        info!(
            signs = made.current.kid(),
            next = made.next.kid(),
            "signing keys created"
        );
    }
    // A failure is only logged: the key set can be served as it is.
    if let Err(error) = ring.migrate() {
        warn!(
            error = chain(&error),
            hint = error.diagnosis().hint,
            "failed to move the signing key to its own folder"
        );
    }
    let document = serve::follow(ring.jwks_path()).map_err(|error| {
        let cause = format!("no key set to serve: {}", chain(&error));
        unusable(
            cause,
            Some("create the keys with `keyutil key generate`, or start with `--generate`"),
        )
    })?;
    let listener = health::listen(arguments.listen)
        .map_err(|error| cannot_listen(arguments.listen, "--listen", &error))?;
    // A signal is caught from here on, before the log line tells others that the endpoint is up.
    let interrupted = program::interrupted();
    info!(
        url = %format_args!("http://{}{}", listener.local_addr()?, serve::WELL_KNOWN_PATH),
        kids = document.current().kids().join(", "),
        "serving the key set"
    );
    let endpoint = serve::Endpoint::new(document.clone());
    let status = endpoint.rotation.clone();
    let schedule = schedule.map(|schedule| {
        schedule
            .expecting(endpoint.fetches.clone(), arguments.expect_fetchers)
            .reporting(status.clone())
    });
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
        () = serve::serve(listener, endpoint, interrupted) => Ok(()),
        never = rotating => match never {},
        never = ring.clone().observe(status.clone()) => match never {},
        never = ring.finish_emergencies(status) => match never {},
    }
}

fn print(arguments: Print) -> anyhow::Result<()> {
    let jwks = match arguments.signing_key {
        None => arguments.folder.ring()?.jwks().diagnosed()?,
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
