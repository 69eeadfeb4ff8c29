//! `keyutil pki`: development certificates. The work is done in `keyutil_cli::pki`.

mod init;
mod list;
mod rotate;

use std::{
    fmt,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use clap::{Args, Subcommand};
use humantime::{format_rfc3339_seconds, parse_duration};

/// Certificates for development and tests: CAs and a certificate for each party.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keyutil pki init --frontend-san temporal.example.com
  keyutil pki list
  keyutil pki rotate worker")]
pub struct PkiArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make three CAs (clients, frontend, internode) and a certificate for each party.
    ///
    /// Nothing is written if any of the files is there already, unless `--force` or
    /// `--if-missing` is given.
    Init(init::InitArgs),
    /// Replace a certificate and its key, or a CA in three steps, while everything runs
    #[command(subcommand)]
    Rotate(rotate::Rotate),
    /// Show all CAs and certificates, how far each rotation is, and what is wrong
    List(list::ListArgs),
}

/// Where `keyutil pki init` writes to, and the others find it.
#[derive(Args, Clone, Debug)]
struct Folder {
    /// Folder of the certificates.
    #[arg(
        long,
        env = "KEYUTIL_CERTS_DIR",
        value_name = "DIR",
        default_value = "certs"
    )]
    dir: PathBuf,
}

/// How long a step of a CA rotation waits, so that the step before has been seen everywhere: the sum
/// of the two.
#[derive(Args, Clone, Copy, Debug)]
struct Waits {
    /// How often the server looks for new certificate files: its `global.tls.refreshInterval`.
    ///
    /// The server's own default is 0, which means never: then no rotation reaches it before its
    /// next restart.
    #[arg(long, env = "KEYUTIL_TLS_REFRESH_INTERVAL", value_name = "DURATION", default_value = "1m", value_parser = parse_duration)]
    refresh_interval: Duration,

    /// How long a replaced file takes to reach whoever reads it, and to be picked up.
    ///
    /// Worker and starter look once a second. For mounted Kubernetes secrets allow three minutes.
    #[arg(long, env = "KEYUTIL_PROPAGATION", value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    propagation: Duration,
}

pub async fn run(args: PkiArgs) -> anyhow::Result<()> {
    match args.action {
        Action::Init(args) => init::run(args),
        Action::Rotate(command) => rotate::run(command).await,
        Action::List(args) => list::run(args),
    }
}

/// A title and rows of the same length in columns, for people. The fields hold no tabs, so `column`
/// and `awk` can read them, too.
struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// Only the title.
    fn new(title: [&str; N]) -> Self {
        Self {
            rows: vec![title.map(str::to_owned)],
        }
    }

    fn push(&mut self, row: [String; N]) {
        self.rows.push(row);
    }
}

/// Without a line end after the last row.
impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| {
            let lengths = self.rows.iter().map(|row| row[column].chars().count());
            lengths.max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..N).map(width).collect();
        for (number, row) in self.rows.iter().enumerate() {
            if number > 0 {
                writeln!(f)?;
            }
            for (column, field) in row.iter().enumerate() {
                match column + 1 {
                    last if last == N => f.write_str(field)?,
                    _ => write!(f, "{field:width$}  ", width = widths[column])?,
                }
            }
        }
        Ok(())
    }
}

/// RFC 3339, or a dash where there is none.
fn time(time: Option<SystemTime>) -> String {
    time.map_or_else(
        || "-".to_owned(),
        |time| format_rfc3339_seconds(time).to_string(),
    )
}

/// The text, or a dash where there is none.
fn or_dash(text: Option<&str>) -> String {
    text.filter(|text| !text.is_empty())
        .unwrap_or("-")
        .to_owned()
}
