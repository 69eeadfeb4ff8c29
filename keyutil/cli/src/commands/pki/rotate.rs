//! `keyutil pki rotate …`

use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use humantime::{format_rfc3339_seconds, parse_duration};
use keyutil::{
    diagnosis::{Diagnosed, ResultExt},
    program,
};
use keyutil_cli::pki::{
    self, AuthorityKind, AuthorityOptions, AuthorityRotated, Layout, LeafOptions, LeafRotated,
    Party, RotateError, RotationStep,
};

use crate::commands::countdown;

use super::{Folder, Table, Waits, or_dash, time};

#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  keyutil pki rotate worker
  keyutil pki rotate frontend --lifetime 12h
  keyutil pki rotate client-ca")]
pub enum Rotate {
    /// A new certificate and key for the worker
    #[command(after_help = leaf_examples("worker"))]
    Worker(Leaf),
    /// A new certificate and key for the starter
    #[command(after_help = leaf_examples("starter"))]
    Starter(Leaf),
    /// A new certificate and key for people and health checks
    #[command(after_help = leaf_examples("admin"))]
    Admin(Leaf),
    /// A new certificate and key for the Web UI
    #[command(after_help = leaf_examples("ui"))]
    Ui(Leaf),
    /// A new certificate and key for the server, towards its clients
    #[command(after_help = leaf_examples("frontend"))]
    Frontend(Leaf),
    /// A new certificate and key for the server, towards itself
    #[command(after_help = leaf_examples("internode"))]
    Internode(Leaf),
    #[command(about = "A new CA for the certificates of worker, starter, admin and Web UI", long_about = about(
        "A new CA for the certificates of worker, starter, admin and Web UI"
    ), after_help = authority_examples("client-ca"))]
    ClientCa(Authority),
    #[command(about = "A new CA for the certificate of the frontend", long_about = about(
        "A new CA for the certificate of the frontend"
    ), after_help = authority_examples("frontend-ca"))]
    FrontendCa(Authority),
    #[command(about = "A new CA for the certificate of the members of the cluster", long_about = about(
        "A new CA for the certificate of the members of the cluster"
    ), after_help = "\
Examples:
  keyutil pki rotate internode-ca --step trust
  keyutil pki rotate internode-ca --step reissue --servers-restarted
  keyutil pki rotate internode-ca --step retire")]
    InternodeCa(Internode),
}

/// One text for all parties.
fn leaf_examples(party: &str) -> String {
    let call = format!("keyutil pki rotate {party}");
    format!("Examples:\n  {call}\n  {call} --lifetime 12h")
}

/// One text for the two CAs that need no more than time.
fn authority_examples(authority: &str) -> String {
    let call = format!("keyutil pki rotate {authority}");
    format!("Examples:\n  {call}\n  {call} --step trust --lifetime 1year\n  {call} --step retire")
}

/// One text for the three CAs.
fn about(what: &str) -> String {
    format!("{what}, in three steps.\n\n{STEPS}")
}

const STEPS: &str = "\
trust: the new CA is made, and whoever checks certificates of this CA trusts the old one and the \
new one. Before `reissue` there is a wait: who has not read the new CA yet would refuse the new \
certificates.

reissue: all certificates of this CA are made anew under the new one, and the private key of the \
old one is destroyed. Before `retire` there is a wait: who has not read its new certificate yet \
still shows the old one.

retire: the new CA alone is trusted. An old certificate is refused from then on.

Without `--step` the rotation goes on from where it is to its end, and waits between the steps. It \
can be interrupted at any time: the same command goes on. How far it is, the certificate files \
say, and since when, `ca/rotation.json`; where that does not tell, the wait counts from now.";

#[derive(Args, Debug)]
pub struct Leaf {
    #[command(flatten)]
    folder: Folder,

    /// How long it is valid, such as `12h`; at most as long as its CA [default: as the one in
    /// place].
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    lifetime: Option<Duration>,
}

#[derive(Args, Debug)]
pub struct Authority {
    #[command(flatten)]
    folder: Folder,

    /// Do this step alone, and fail with exit code 75 if it is too early.
    #[arg(long, value_enum)]
    step: Option<RotationStep>,

    #[command(flatten)]
    waits: Waits,

    /// How long the new CA is valid, such as `1year`; only `trust` makes one.
    #[arg(long, value_name = "DURATION", default_value = "3650days", value_parser = parse_duration)]
    lifetime: Duration,
}

#[derive(Args, Debug)]
pub struct Internode {
    #[command(flatten)]
    authority: Authority,

    /// Every temporal-server process was restarted since the step `trust`; `reissue` needs that.
    ///
    /// A server reads `rootCaFiles` of internode once, when it first calls another one, and keeps
    /// them for its life: one that runs since before `trust` would refuse the new certificates.
    #[arg(long)]
    servers_restarted: bool,
}

pub async fn run(command: Rotate) -> anyhow::Result<()> {
    match command {
        Rotate::Worker(args) => leaf(Party::Worker, args),
        Rotate::Starter(args) => leaf(Party::Starter, args),
        Rotate::Admin(args) => leaf(Party::Admin, args),
        Rotate::Ui(args) => leaf(Party::Ui, args),
        Rotate::Frontend(args) => leaf(Party::Frontend, args),
        Rotate::Internode(args) => leaf(Party::Internode, args),
        Rotate::ClientCa(args) => authority(AuthorityKind::Clients, args, false).await,
        Rotate::FrontendCa(args) => authority(AuthorityKind::Frontend, args, false).await,
        Rotate::InternodeCa(args) => {
            let kind = AuthorityKind::Internode;
            authority(kind, args.authority, args.servers_restarted).await
        }
    }
}

fn leaf(party: Party, args: Leaf) -> anyhow::Result<()> {
    let layout = Layout::new(&args.folder.dir);
    let options = LeafOptions {
        lifetime: args.lifetime,
    };
    let rotated = pki::rotate_leaf(&layout, party, &options, SystemTime::now).diagnosed()?;
    print_leaf(&rotated)
}

async fn authority(
    kind: AuthorityKind,
    args: Authority,
    servers_restarted: bool,
) -> anyhow::Result<()> {
    let layout = Layout::new(&args.folder.dir);
    let mut options = AuthorityOptions {
        lifetime: args.lifetime,
        refresh_interval: args.waits.refresh_interval,
        propagation: args.waits.propagation,
        servers_restarted,
    };
    if let Some(step) = args.step {
        let rotated =
            pki::rotate_authority(&layout, kind, step, &options, SystemTime::now).diagnosed()?;
        return print_authority(&rotated);
    }
    let mut step = pki::next_step(&layout, kind, &options, SystemTime::now())
        .diagnosed()?
        .step;
    // Not yet true of a CA that this run makes.
    options.servers_restarted &= step != RotationStep::Trust;
    // The reader of the output may go away; the rotation is finished all the same.
    let mut printed = Ok(());
    loop {
        match pki::rotate_authority(&layout, kind, step, &options, SystemTime::now) {
            Ok(rotated) => {
                printed = printed.and(print_authority(&rotated));
                let Some(next) = rotated.next else {
                    return printed;
                };
                step = next.step;
            }
            Err(RotateError::TooEarly { left, .. }) => {
                let what = match step {
                    RotationStep::Retire => "everybody shows a new certificate",
                    _ => "everybody trusts the new CA",
                };
                countdown::wait(what, left).await;
            }
            Err(error) => return Err(Diagnosed::from(error).into()),
        }
    }
}

fn print_leaf(rotated: &LeafRotated) -> anyhow::Result<()> {
    let mut table = Table::new(TITLE);
    table.push(leaf_row(rotated));
    program::print_line(table)?;
    print_notes(rotated)
}

fn print_authority(rotated: &AuthorityRotated) -> anyhow::Result<()> {
    let (name, step) = (rotated.kind.name(), rotated.step);
    if rotated.already {
        program::print_line(format_args!("{step}: was done before"))?;
    } else {
        let mut table = Table::new(TITLE);
        table.push([
            format!("{name} CA"),
            or_dash(rotated.old.as_ref().map(|old| old.serial.as_str())),
            rotated.new.serial.clone(),
            rotated.new.issuer.clone(),
            time(Some(rotated.new.not_after)),
        ]);
        for leaf in &rotated.leaves {
            table.push(leaf_row(leaf));
        }
        program::print_line(format_args!("{step}: done"))?;
        program::print_line(table)?;
    }
    for leaf in &rotated.leaves {
        print_notes(leaf)?;
    }
    for path in &rotated.trust {
        program::print_line(format_args!("written: `{}`", path.display()))?;
    }
    for party in &rotated.absent {
        program::print_line(format_args!(
            "left out, as it has no folder here: {}",
            party.name()
        ))?;
    }
    match rotated.next {
        Some(next) => {
            let due = format_rfc3339_seconds(next.due);
            program::print_line(format_args!("next: `{}`, not before {due}\n", next.step))?;
        }
        None if rotated.kind == AuthorityKind::Internode => program::print_line(
            "a temporal-server that runs keeps the old CA in its memory until its next restart: \
             it would accept old certificates that are still valid, but no new ones can be made, \
             as the key is destroyed",
        )?,
        None => {}
    }
    Ok(())
}

fn print_notes(leaf: &LeafRotated) -> anyhow::Result<()> {
    let party = leaf.party.name();
    if leaf.capped {
        program::print_line(format_args!(
            "{party}: cut short at the end of its CA: {}",
            format_rfc3339_seconds(leaf.new.not_after)
        ))?;
    }
    if leaf.old.is_none() {
        program::print_line(format_args!(
            "{party}: there was no certificate to take names and lifetime from; the defaults were \
             taken"
        ))?;
    }
    Ok(())
}

const TITLE: [&str; 5] = ["WHAT", "OLD SERIAL", "NEW SERIAL", "ISSUER", "EXPIRES"];

fn leaf_row(leaf: &LeafRotated) -> [String; 5] {
    [
        leaf.party.name().to_owned(),
        or_dash(leaf.old.as_ref().map(|old| old.serial.as_str())),
        leaf.new.serial.clone(),
        leaf.new.issuer.clone(),
        time(Some(leaf.new.not_after)),
    ]
}
