//! `keyutil pki`: development certificates. The work is done in `keyutil_cli::pki`.

use std::{
    fmt,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use clap::{Args, Subcommand};
use humantime::{format_rfc3339_seconds, parse_duration};
use keyutil::{
    diagnosis::{Diagnosed, ResultExt},
    program,
};
use keyutil_cli::pki::{
    self, AuthorityKind, AuthorityOptions, AuthorityRole, AuthorityRotated, Existing, InitOptions,
    Layout, LeafOptions, LeafRotated, ListedAuthority, Listing, NextStep, Party, RotateError,
    RotationStep,
};

use super::wait_until;

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
    Init(InitArgs),
    /// Replace a certificate and its key, or a CA in three steps, while everything runs
    #[command(subcommand)]
    Rotate(Rotate),
    /// Show all CAs and certificates, how far each rotation is, and what is wrong
    List(ListArgs),
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
        Action::Init(args) => init(args),
        Action::Rotate(command) => rotate(command).await,
        Action::List(args) => list(args),
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

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keyutil pki init
  keyutil pki init --frontend-san temporal.example.com --leaf-lifetime 30days
  keyutil pki init --dir /etc/temporal/certs --if-missing
  keyutil pki init --force")]
struct InitArgs {
    #[command(flatten)]
    folder: Folder,

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

    /// Leave a set that is there as it is, and succeed; what is wrong with it is told. What an
    /// interrupted run has left is made anew. Any other part of a set is still an error.
    #[arg(long, conflicts_with = "force")]
    if_missing: bool,
}

fn init(args: InitArgs) -> anyhow::Result<()> {
    let existing = match (args.force, args.if_missing) {
        (true, _) => Existing::Replace,
        (false, true) => Existing::Keep,
        (false, false) => Existing::Refuse,
    };
    let dir = args.folder.dir;
    let asked_names = args.frontend_san.clone();
    let initialized = pki::init(&InitOptions {
        dir: dir.clone(),
        existing,
        authority_lifetime: args.ca_lifetime,
        leaf_lifetime: args.leaf_lifetime,
        frontend_names: args.frontend_san,
        internode_names: args.internode_san,
    })
    .diagnosed()?;
    if initialized.files.is_empty() {
        program::print_line(format_args!("left as it is: `{}`", dir.display()))?;
        return warn_of_what_is_there(&Layout::new(&dir), &asked_names);
    }
    let mut table = Table::new(["FILE", "EXPIRES", "WHAT"]);
    for file in initialized.files {
        table.push([
            file.path.display().to_string(),
            time(file.expires_at),
            file.description,
        ]);
    }
    program::print_line(table)?;
    Ok(())
}

/// It is not changed, and may be of no use.
fn warn_of_what_is_there(layout: &Layout, asked_names: &[String]) -> anyhow::Result<()> {
    let listing = pki::list(layout, &AuthorityOptions::default(), SystemTime::now()).diagnosed()?;
    for problem in &listing.problems {
        program::print_warning(problem.clone());
    }
    let mut leaves = listing.leaves.iter();
    let frontend = leaves.find(|leaf| leaf.party == Party::Frontend);
    if let Some(certificate) = frontend.and_then(|leaf| leaf.certificate.as_ref()) {
        let names = certificate.names();
        for name in asked_names {
            if !names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                program::print_warning(format!(
                    "the certificate of the frontend is not for `{name}`: `--force` makes one that is, and replaces everything else, too"
                ));
            }
        }
    }
    Ok(())
}

#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  keyutil pki rotate worker
  keyutil pki rotate frontend --lifetime 12h
  keyutil pki rotate client-ca")]
enum Rotate {
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
struct Leaf {
    #[command(flatten)]
    folder: Folder,

    /// How long it is valid, such as `12h`; at most as long as its CA [default: as the one in
    /// place].
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    lifetime: Option<Duration>,
}

#[derive(Args, Debug)]
struct Authority {
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
struct Internode {
    #[command(flatten)]
    authority: Authority,

    /// Every temporal-server process was restarted since the step `trust`; `reissue` needs that.
    ///
    /// A server reads `rootCaFiles` of internode once, when it first calls another one, and keeps
    /// them for its life: one that runs since before `trust` would refuse the new certificates.
    #[arg(long)]
    servers_restarted: bool,
}

async fn rotate(command: Rotate) -> anyhow::Result<()> {
    match command {
        Rotate::Worker(args) => rotate_leaf(Party::Worker, args),
        Rotate::Starter(args) => rotate_leaf(Party::Starter, args),
        Rotate::Admin(args) => rotate_leaf(Party::Admin, args),
        Rotate::Ui(args) => rotate_leaf(Party::Ui, args),
        Rotate::Frontend(args) => rotate_leaf(Party::Frontend, args),
        Rotate::Internode(args) => rotate_leaf(Party::Internode, args),
        Rotate::ClientCa(args) => rotate_authority(AuthorityKind::Clients, args, false).await,
        Rotate::FrontendCa(args) => rotate_authority(AuthorityKind::Frontend, args, false).await,
        Rotate::InternodeCa(args) => {
            let kind = AuthorityKind::Internode;
            rotate_authority(kind, args.authority, args.servers_restarted).await
        }
    }
}

fn rotate_leaf(party: Party, args: Leaf) -> anyhow::Result<()> {
    let layout = Layout::new(&args.folder.dir);
    let options = LeafOptions {
        lifetime: args.lifetime,
    };
    let rotated = pki::rotate_leaf(&layout, party, &options, SystemTime::now).diagnosed()?;
    print_leaf(&rotated)
}

async fn rotate_authority(
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
                wait_until(what, left).await;
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

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keyutil pki list
  keyutil pki list --dir /etc/temporal/certs")]
struct ListArgs {
    #[command(flatten)]
    folder: Folder,

    #[command(flatten)]
    waits: Waits,
}

fn list(args: ListArgs) -> anyhow::Result<()> {
    let options = AuthorityOptions {
        refresh_interval: args.waits.refresh_interval,
        propagation: args.waits.propagation,
        ..AuthorityOptions::default()
    };
    let layout = Layout::new(&args.folder.dir);
    let listing = pki::list(&layout, &options, SystemTime::now()).diagnosed()?;
    program::print_line(authorities(&listing))?;
    program::print_line("")?;
    program::print_line(leaves(&listing))?;
    if !listing.problems.is_empty() {
        program::print_line("\nPROBLEMS")?;
    }
    for problem in listing.problems {
        program::print_line(problem)?;
    }
    Ok(())
}

fn authorities(listing: &Listing) -> Table<8> {
    let mut table = Table::new([
        "CA",
        "STEP",
        "SINCE",
        "NEXT",
        "NOT BEFORE",
        "SUBJECT",
        "SERIAL",
        "EXPIRES",
    ]);
    for authority in &listing.authorities {
        let next = authority.next.filter(NextStep::is_under_way);
        let certificate = authority.certificate.as_ref();
        table.push([
            name(authority),
            or_dash(next.and_then(done)),
            time(next.and_then(|next| next.since)),
            or_dash(next.map(|next| next.step.to_string()).as_deref()),
            time(next.map(|next| next.due)),
            or_dash(certificate.map(|found| found.subject.as_str())),
            or_dash(certificate.map(|found| found.serial.as_str())),
            time(certificate.map(|found| found.not_after)),
        ]);
    }
    table
}

fn name(authority: &ListedAuthority) -> String {
    let name = authority.kind.name();
    match authority.role {
        AuthorityRole::Issues => name.to_owned(),
        AuthorityRole::Next => format!("{name}-next"),
        AuthorityRole::Previous => format!("{name}-previous"),
    }
}

/// The step before that one.
fn done(next: NextStep) -> Option<&'static str> {
    match next.step {
        RotationStep::Trust => None,
        RotationStep::Reissue => Some("trust"),
        RotationStep::Retire => Some("reissue"),
    }
}

fn leaves(listing: &Listing) -> Table<5> {
    let mut table = Table::new(["PARTY", "SERIAL", "ISSUER", "EXPIRES", "TRUSTS"]);
    for leaf in &listing.leaves {
        let certificate = leaf.certificate.as_ref();
        let trusts = match leaf.here {
            true => or_dash(Some(&leaf.trusts.join(", "))),
            false => "- (no folder here)".to_owned(),
        };
        table.push([
            leaf.party.name().to_owned(),
            or_dash(certificate.map(|found| found.serial.as_str())),
            or_dash(certificate.map(|found| found.issuer.as_str())),
            time(certificate.map(|found| found.not_after)),
            trusts,
        ]);
    }
    table
}
