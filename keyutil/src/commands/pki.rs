//! `keyutil pki`: development certificates. The work is done in `keyutil::pki`.

use std::{
    fmt::{self, Write as _},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Subcommand};
use humantime::{format_rfc3339_seconds, parse_duration};
use keyutil::{
    pki::{self, InitOptions, Initialized},
    program,
};

/// Certificates for development and tests: CAs and a certificate for each party.
#[derive(Args, Debug)]
pub struct PkiArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make three CAs (clients, frontend, internode) and a certificate for each party.
    ///
    /// Nothing is written if any of the files is there already, unless `--force` is given.
    Init(InitArgs),
}

#[derive(Args, Debug)]
struct InitArgs {
    /// Folder to write to.
    #[arg(long, value_name = "DIR", default_value = "certs")]
    dir: PathBuf,

    /// One more DNS name or IP address of the server, as clients dial it; can be repeated.
    ///
    /// Always there: `localhost`, `127.0.0.1`, `::1` and `frontend.temporal.local`. A DNS name may
    /// start with `*.`.
    #[arg(long, value_name = "NAME")]
    frontend_san: Vec<String>,

    /// One more name by which members of the cluster know each other; can be repeated.
    ///
    /// Always there: `internode.temporal.local`.
    #[arg(long, value_name = "NAME")]
    internode_san: Vec<String>,

    /// How long the CAs are valid, such as `1year`.
    #[arg(long, value_name = "DURATION", default_value = "3650days", value_parser = parse_duration)]
    ca_lifetime: Duration,

    /// How long the other certificates are valid, such as `12h`; at most as long as the CAs.
    #[arg(long, value_name = "DURATION", default_value = "90days", value_parser = parse_duration)]
    leaf_lifetime: Duration,

    /// Replace everything that is there, the CAs too.
    ///
    /// This is no rotation: who holds an old certificate is refused from then on.
    #[arg(long)]
    force: bool,
}

pub fn run(args: PkiArgs) -> anyhow::Result<()> {
    match args.action {
        Action::Init(args) => init(args),
    }
}

fn init(args: InitArgs) -> anyhow::Result<()> {
    let initialized = pki::init(&InitOptions {
        dir: args.dir,
        force: args.force,
        authority_lifetime: args.ca_lifetime,
        leaf_lifetime: args.leaf_lifetime,
        frontend_names: args.frontend_san,
        internode_names: args.internode_san,
    })?;
    program::print_line(table(&initialized)?.trim_end())?;
    Ok(())
}

fn table(initialized: &Initialized) -> Result<String, fmt::Error> {
    let rows = initialized.files.iter().map(|file| {
        let path = file.path.display().to_string();
        let expires_at = file.expires_at.map(format_rfc3339_seconds);
        let expires_at = expires_at.map_or_else(|| "-".to_owned(), |time| time.to_string());
        (path, expires_at, file.description.as_str())
    });
    let rows: Vec<_> = [("FILE".to_owned(), "EXPIRES".to_owned(), "WHAT")]
        .into_iter()
        .chain(rows)
        .collect();
    let width = rows.iter().map(|row| row.0.len()).max().unwrap_or(0);

    let mut table = String::new();
    for (path, expires_at, description) in rows {
        writeln!(table, "{path:width$}  {expires_at:20}  {description}")?;
    }
    Ok(table)
}
