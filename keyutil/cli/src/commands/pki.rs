//! `keyutil pki`: development certificates. The work is done in `keyutil_cli::pki`.

mod init;
mod list;
mod report;
mod rotate;
mod table;
mod waits;

use std::path::PathBuf;

use clap::{Args, Subcommand};

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

pub async fn run(args: PkiArgs) -> anyhow::Result<()> {
    match args.action {
        Action::Init(args) => init::run(args),
        Action::Rotate(command) => rotate::run(command).await,
        Action::List(args) => list::run(args),
    }
}
