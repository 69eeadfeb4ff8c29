//! `keyutil namespace …`

use std::time::Duration;

use clap::{Args, Subcommand};
use keyutil::{
    ConnectArgs, connect,
    diagnosis::ResultExt,
    program::{self, UsageError},
    settings::Settings,
};
use keyutil_cli::namespace::{self, Registered};

#[derive(Subcommand)]
#[command(after_help = "\
Examples:
  keyutil namespace register --namespace orders")]
pub enum Namespace {
    /// Register a namespace, and wait until it is usable; an existing one is left unchanged
    ///
    /// A token that is minted for this, without `--permissions`, has `<namespace>:admin`.
    Register(Register),
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  keyutil namespace register --namespace orders --retention 30days
  keyutil namespace register --namespace orders --address temporal.example.com:7233 \\
      --tls-ca-path certs/admin/ca.crt --tls-cert-path certs/admin/tls.crt \\
      --tls-key-path certs/admin/tls.key --signing-key certs/signing/active/current.pem")]
pub struct Register {
    /// How long the histories of finished workflows are kept, at least 1 day
    #[arg(long, default_value = "3days", value_name = "DURATION", value_parser = humantime::parse_duration)]
    retention: Duration,

    #[command(flatten)]
    connect: ConnectArgs,
}

/// The server accepts less, and then keeps histories for a day.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

pub async fn run(command: Namespace) -> anyhow::Result<()> {
    let Namespace::Register(Register {
        mut connect,
        retention,
    }) = command;
    if retention < DAY {
        let given = humantime::format_duration(retention);
        return Err(UsageError(format!("`--retention` must be 1 day or more: `{given}`")).into());
    }
    connect.mint_for_admin();
    let name = connect.namespace.trim().to_owned();
    let opened = connect::open(Settings::new(&connect, "keyutil").diagnosed()?).diagnosed()?;
    let found = match namespace::register(&opened, &name, retention)
        .await
        .diagnosed()?
    {
        Registered::Created => "Namespace registered",
        Registered::Existed => "Namespace already exists",
    };
    program::print_line(format_args!("{found}: {name}"))?;
    Ok(())
}
