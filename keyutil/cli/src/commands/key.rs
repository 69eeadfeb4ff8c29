//! `keyutil key …`

mod list;
mod rotate;

use std::{path::PathBuf, time::SystemTime};

use clap::{Args, Subcommand};
use keyutil::{diagnosis::ResultExt, program};
use keyutil_cli::keys::keyring::Keyring;

pub use rotate::{Times, usage};

#[derive(Subcommand)]
#[command(after_help = "\
Examples:
  keyutil key generate
  keyutil key list
  keyutil key rotate --wait")]
pub enum Key {
    /// Make a new pair of keys: one that signs, and one that is published and waits to be next
    Generate(Generate),
    Rotate(rotate::Rotate),
    Retire(rotate::Retire),
    List(list::List),
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  keyutil key generate
  keyutil key generate --dir /etc/temporal/signing")]
pub struct Generate {
    #[command(flatten)]
    folder: Folder,

    /// Replace the keys that are there: every token they signed becomes worthless
    #[arg(long)]
    force: bool,
}

/// Where the ring is.
#[derive(Args)]
pub struct Folder {
    /// Folder of the signing keys
    #[arg(
        long,
        env = "KEYUTIL_SIGNING_DIR",
        default_value = "certs/signing",
        value_name = "DIR"
    )]
    pub dir: PathBuf,
}

impl Folder {
    /// The ring there.
    pub fn ring(self) -> Keyring {
        Keyring::at(self.dir)
    }
}

pub async fn run(command: Key) -> anyhow::Result<()> {
    match command {
        Key::Generate(arguments) => generate(arguments),
        Key::Rotate(arguments) => rotate::rotate(arguments).await,
        Key::Retire(arguments) => rotate::retire(arguments),
        Key::List(arguments) => list::list(arguments),
    }
}

fn generate(Generate { folder, force }: Generate) -> anyhow::Result<()> {
    let ring = folder.ring();
    let made = ring.generate(force, SystemTime::now).diagnosed()?;
    program::print_line(format_args!(
        "signs now    {}  {}",
        made.current.kid(),
        ring.current_path().display()
    ))?;
    program::print_line(format_args!(
        "signs next   {}  {}",
        made.next.kid(),
        ring.next_path().display()
    ))?;
    program::print_line(format_args!(
        "to publish   both  {}",
        ring.jwks_path().display()
    ))?;
    Ok(())
}
