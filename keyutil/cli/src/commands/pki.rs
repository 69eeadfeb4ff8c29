//! `keyutil pki`: development certificates. `keyutil_cli::pki` does the work.

use std::{
    fmt,
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use clap::{Args, Subcommand};
use humantime::{format_rfc3339_seconds, parse_duration};
use keyutil::{
    base::chain,
    credentials::FileWatcher,
    diagnosis::{Class, Diagnosed, ResultExt},
    health::{Health, ListenError},
    program::{self, UsageError},
};
use keyutil_cli::pki::{
    self, AuthorityKind, AuthorityOptions, AuthorityRole, AuthorityRotated, Existing, InitOptions,
    Layout, LeafOptions, LeafRotated, ListedAuthority, Listing, NextStep, Party, RenewOptions,
    Renewal, Renewed, RotateError, RotationStep,
};
use tracing::info;

use super::{cannot_listen, wait_until};

/// Manage certificates for development and tests
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keyutil pki init --frontend-san temporal.example.com
  keyutil pki list
  keyutil pki rotate worker
  keyutil pki renew --health-listen 127.0.0.1:9090")]
pub struct PkiArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Create three CAs (clients, frontend, internode) and a certificate for each party
    ///
    /// Nothing is written if any of the files exists, unless `--force` or `--if-missing` is given.
    Init(InitArgs),
    /// Replace a certificate and its key, or a CA in three steps, without downtime
    #[command(subcommand)]
    Rotate(Rotate),
    Renew(RenewArgs),
    /// List all CAs and certificates, the progress of each rotation, and problems
    List(ListArgs),
}

/// The folder of the certificates.
#[derive(Args, Clone, Debug)]
struct Folder {
    /// Folder of the certificates
    #[arg(
        long,
        env = "KEYUTIL_CERTS_DIR",
        value_name = "DIR",
        default_value = "certs"
    )]
    dir: PathBuf,
}

/// How long a step of a CA rotation waits for the step before to take effect everywhere: the sum of
/// the two durations.
#[derive(Args, Clone, Copy, Debug)]
struct Waits {
    /// How often the server checks for new certificate files: its `global.tls.refreshInterval`
    ///
    /// The default of the server is 0, which means never: the server then needs a restart after
    /// each step.
    #[arg(long, env = "KEYUTIL_TLS_REFRESH_INTERVAL", value_name = "DURATION", default_value = "1m", value_parser = parse_duration)]
    refresh_interval: Duration,

    /// How long a replaced file takes to be picked up by all of its readers
    ///
    /// Worker and starter check their files once a second. Allow three minutes for mounted
    /// Kubernetes secrets.
    #[arg(long, env = "KEYUTIL_PROPAGATION", value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    propagation: Duration,
}

pub async fn run(args: PkiArgs) -> anyhow::Result<()> {
    match args.action {
        Action::Init(args) => init(args),
        Action::Rotate(command) => rotate(command).await,
        Action::Renew(args) => renew(args).await,
        Action::List(args) => list(args),
    }
}

/// A table with a title row and aligned columns. No field has tabs, so `column` and `awk` can parse
/// it.
struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// Creates a table with a title row.
    fn new(title: [&str; N]) -> Self {
        Self {
            rows: vec![title.map(str::to_owned)],
        }
    }

    fn push(&mut self, row: [String; N]) {
        self.rows.push(row);
    }
}

/// Has no line break after the last row.
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

/// Formats a time as RFC 3339, or as a dash.
fn time(time: Option<SystemTime>) -> String {
    time.map_or_else(
        || "-".to_owned(),
        |time| format_rfc3339_seconds(time).to_string(),
    )
}

/// Returns the text, or a dash.
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

    /// Additional DNS name or IP address that clients dial; can be repeated
    ///
    /// `localhost`, `127.0.0.1`, `::1` and `frontend.temporal.local` are always included. A DNS
    /// name may start with `*.`.
    #[arg(long, value_name = "NAME")]
    frontend_san: Vec<String>,

    /// Additional name of the internode certificate; can be repeated
    ///
    /// `internode.temporal.local` is always included.
    #[arg(long, value_name = "NAME")]
    internode_san: Vec<String>,

    /// Lifetime of the CAs, such as `1year`
    #[arg(long, env = "KEYUTIL_CA_LIFETIME", value_name = "DURATION", default_value = "3650days", value_parser = parse_duration)]
    ca_lifetime: Duration,

    /// Lifetime of the internode CA, whose rotation needs restarts of the servers [default: that of
    /// the other CAs]
    #[arg(long, env = "KEYUTIL_INTERNODE_CA_LIFETIME", value_name = "DURATION", value_parser = parse_duration)]
    internode_ca_lifetime: Option<Duration>,

    /// Lifetime of the other certificates, such as `12h`; at most that of the CAs
    #[arg(long, env = "KEYUTIL_LEAF_LIFETIME", value_name = "DURATION", default_value = "90days", value_parser = parse_duration)]
    leaf_lifetime: Duration,

    /// Replace all files, including the CAs
    ///
    /// This is not a rotation: a party that still presents an old certificate is refused from then
    /// on.
    #[arg(long)]
    force: bool,

    /// Leave an existing set unchanged, warn of problems in it, and succeed
    ///
    /// The files of an interrupted run are replaced. Any other incomplete set is an error.
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
        internode_authority_lifetime: args.internode_ca_lifetime,
        leaf_lifetime: args.leaf_lifetime,
        frontend_names: args.frontend_san,
        internode_names: args.internode_san,
    })
    .diagnosed()?;
    if initialized.files.is_empty() {
        program::print_line(format_args!("left unchanged: `{}`", dir.display()))?;
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

/// Warns of problems of the set that is left unchanged.
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
                    "the certificate of the frontend does not include the name `{name}`: `--force` creates one that does, and replaces all other files too"
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
    /// Renew the certificate and key of the worker
    #[command(after_help = leaf_examples("worker"))]
    Worker(Leaf),
    /// Renew the certificate and key of the starter
    #[command(after_help = leaf_examples("starter"))]
    Starter(Leaf),
    /// Renew the certificate and key of people and health checks
    #[command(after_help = leaf_examples("admin"))]
    Admin(Leaf),
    /// Renew the certificate and key of the Web UI
    #[command(after_help = leaf_examples("ui"))]
    Ui(Leaf),
    /// Renew the certificate and key that the server presents to its clients
    #[command(after_help = leaf_examples("frontend"))]
    Frontend(Leaf),
    /// Renew the certificate and key that cluster members present to each other
    #[command(after_help = leaf_examples("internode"))]
    Internode(Leaf),
    #[command(about = "Rotate the CA of the certificates of worker, starter, admin and Web UI", long_about = about(
        "Rotate the CA of the certificates of worker, starter, admin and Web UI"
    ), after_help = authority_examples("client-ca"))]
    ClientCa(Authority),
    #[command(about = "Rotate the CA of the certificate of the frontend", long_about = about(
        "Rotate the CA of the certificate of the frontend"
    ), after_help = authority_examples("frontend-ca"))]
    FrontendCa(Authority),
    #[command(about = "Rotate the CA of the certificates of the cluster members", long_about = about(
        "Rotate the CA of the certificates of the cluster members"
    ), after_help = "\
Examples:
  keyutil pki rotate internode-ca --step trust
  keyutil pki rotate internode-ca --step reissue --servers-restarted
  keyutil pki rotate internode-ca --step retire")]
    InternodeCa(Internode),
}

fn leaf_examples(party: &str) -> String {
    let call = format!("keyutil pki rotate {party}");
    format!("Examples:\n  {call}\n  {call} --lifetime 12h")
}

fn authority_examples(authority: &str) -> String {
    let call = format!("keyutil pki rotate {authority}");
    format!("Examples:\n  {call}\n  {call} --step trust --lifetime 1year\n  {call} --step retire")
}

fn about(what: &str) -> String {
    format!("{what}, in three steps\n\n{STEPS}")
}

const STEPS: &str = "\
trust: creates the new CA; every verifier trusts the old and the new one. `reissue` then waits: a party \
that has not read the new CA yet would refuse the new certificates.

reissue: renews all certificates of the CA under the new one, and removes the private key of the old \
one. `retire` then waits: a party that has not read its new certificate yet still presents the old one.

retire: only the new CA is trusted. Old certificates are refused from then on.

Without `--step` the command performs all remaining steps, and waits between them. It can be \
interrupted at any time: the same command continues. The certificate files record the progress, \
`ca/rotation.json` the time of the last step; if that time is missing, the wait starts now.";

#[derive(Args, Debug)]
struct Leaf {
    #[command(flatten)]
    folder: Folder,

    /// Lifetime of the certificate, such as `12h`; at most that of its CA [default: that of the
    /// certificate it replaces]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    lifetime: Option<Duration>,
}

#[derive(Args, Debug)]
struct Authority {
    #[command(flatten)]
    folder: Folder,

    /// Perform only this step, and exit with code 75 if it is too early
    #[arg(long, value_enum)]
    step: Option<RotationStep>,

    #[command(flatten)]
    waits: Waits,

    /// Lifetime of the new CA, such as `1year`; used by the step `trust`
    #[arg(long, value_name = "DURATION", default_value = "3650days", value_parser = parse_duration)]
    lifetime: Duration,
}

#[derive(Args, Debug)]
struct Internode {
    #[command(flatten)]
    authority: Authority,

    /// Confirm that every temporal-server process was restarted since the step `trust`; required by
    /// `reissue`
    ///
    /// A server reads `rootCaFiles` of internode once, at its first internode connection. A process
    /// started before `trust` would refuse the new certificates.
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
        leaf_lifetime: None,
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
    // No server can have been restarted since a `trust` that this run does.
    options.servers_restarted &= step != RotationStep::Trust;
    // A closed standard output must not interrupt the rotation.
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
                    RotationStep::Retire => "every party presents a new certificate",
                    _ => "every party trusts the new CA",
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
        program::print_line(format_args!("{step}: already done"))?;
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
        program::print_line(format_args!("skipped, no folder here: {}", party.name()))?;
    }
    match rotated.next {
        Some(next) => {
            let due = format_rfc3339_seconds(next.due);
            program::print_line(format_args!("next: `{}`, not before {due}\n", next.step))?;
        }
        None if rotated.kind == AuthorityKind::Internode => program::print_line(
            "a running temporal-server keeps the old CA in memory until its next restart: it still \
             accepts old certificates that have not expired; the key of the old CA is destroyed, so \
             no new ones can be issued",
        )?,
        None => {}
    }
    Ok(())
}

fn print_notes(leaf: &LeafRotated) -> anyhow::Result<()> {
    let party = leaf.party.name();
    if leaf.capped {
        program::print_line(format_args!(
            "{party}: expires with its CA, earlier than requested: {}",
            format_rfc3339_seconds(leaf.new.not_after)
        ))?;
    }
    if leaf.old.is_none() {
        program::print_line(format_args!(
            "{party}: no readable certificate to take names and lifetime from; the defaults are used"
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

/// Renew certificates and rotate CAs before they expire
///
/// - A certificate is renewed when between a third and a quarter of its life is left. It keeps its
///   names and gets a new key. The exact moment follows from its serial number. A CA that is due goes
///   through the three steps of `keyutil pki rotate`, with their waits.
///
/// - The internode CA needs restarts: after `trust` the command asks for a restart of every
///   temporal-server, and it performs `reissue` when less than an eighth of the life of the old CA is
///   left.
///
/// - If a renewal fails, the files stay as they are; the failure is logged, and the renewal is tried
///   again, at intervals of up to a minute.
///
/// - The command runs until SIGINT or SIGTERM; with `--once` it does what is due, and ends.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keyutil pki renew --leaf-lifetime 24h --health-listen 127.0.0.1:9090
  keyutil pki renew --once")]
struct RenewArgs {
    #[command(flatten)]
    folder: Folder,

    /// Do what is due now, print it, and exit; for a cron job, at least four times in the life of a
    /// certificate
    #[arg(long, conflicts_with = "health_listen")]
    once: bool,

    /// Lifetime of new certificates, such as `12h` [default: that of the certificate they replace]
    #[arg(long, env = "KEYUTIL_LEAF_LIFETIME", value_name = "DURATION", value_parser = parse_duration)]
    leaf_lifetime: Option<Duration>,

    /// Lifetime of new CAs for clients and frontend, such as `1year` [default: that of the CA they
    /// replace]
    #[arg(long, env = "KEYUTIL_CA_LIFETIME", value_name = "DURATION", value_parser = parse_duration)]
    ca_lifetime: Option<Duration>,

    #[command(flatten)]
    waits: Waits,

    /// Address that serves `/healthz`, `/readyz` and `/metrics`; port 0 picks a free port, which
    /// the log names [default: disabled]
    #[arg(long, env = "KEYUTIL_HEALTH_LISTEN", value_name = "ADDRESS:PORT")]
    health_listen: Option<SocketAddr>,
}

async fn renew(args: RenewArgs) -> anyhow::Result<()> {
    let options = RenewOptions {
        leaf_lifetime: args.leaf_lifetime,
        authority_lifetime: args.ca_lifetime,
        refresh_interval: args.waits.refresh_interval,
        propagation: args.waits.propagation,
    };
    options
        .check()
        .map_err(|error| UsageError(error.to_string()))?;
    let dir = args.folder.dir;
    let renewal = Renewal::new(Layout::new(&dir), options);
    if args.once {
        return renew_once(&renewal);
    }
    // The first turn shows at once if the folder as a whole is unusable.
    let turn = renewal.turn(SystemTime::now).diagnosed()?;
    info!(
        dir = %dir.display(),
        next = %format_rfc3339_seconds(turn.next),
        "renewing the certificates"
    );
    let interrupted = program::interrupted();
    let health = match args.health_listen {
        Some(address) => {
            let served = Health::serve(address, pki::router(renewal.clone())).await;
            let failed =
                |error: ListenError| cannot_listen(address, "--health-listen", &error.source);
            Some(served.map_err(failed)?)
        }
        None => None,
    };
    let watch = FileWatcher::start(vec![Box::new(renewal.clone())]);
    let reason = interrupted.await;
    info!(reason, "stopping");
    drop(watch);
    renewal.stop();
    if let Some(health) = health {
        health.stop().await;
    }
    Ok(())
}

fn renew_once(renewal: &Renewal) -> anyhow::Result<()> {
    let turn = renewal.turn(SystemTime::now).diagnosed()?;
    for renewed in &turn.renewed {
        match renewed {
            Renewed::Leaf(rotated) => print_leaf(rotated)?,
            Renewed::Authority(rotated) => print_authority(rotated)?,
        }
    }
    if turn.renewed.is_empty() && turn.failed.is_empty() {
        let next = format_rfc3339_seconds(turn.next);
        program::print_line(format_args!("nothing is due before {next}"))?;
    }
    for (subject, failure) in &turn.failed {
        program::print_warning(format!("{}: {}", subject.name(), chain(failure)));
    }
    let Some((_, first)) = turn.failed.into_iter().next() else {
        return Ok(());
    };
    Err(Diagnosed::from(first).into())
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
    if listing.problems.is_empty() {
        return Ok(());
    }
    program::print_line("\nPROBLEMS")?;
    for problem in &listing.problems {
        program::print_line(problem)?;
    }
    Err(program::Failed {
        what: format!("problems found: {}", listing.problems.len()),
        exit_code: Class::Other.exit_code(),
    }
    .into())
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

/// The step that was done last.
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
