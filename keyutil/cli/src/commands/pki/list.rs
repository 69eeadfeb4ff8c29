//! `keyutil pki list`

use std::time::SystemTime;

use clap::Args;
use keyutil::{diagnosis::ResultExt, program};
use keyutil_cli::pki::{
    self, AuthorityOptions, AuthorityRole, Layout, ListedAuthority, Listing, NextStep, RotationStep,
};

use super::{Folder, Table, Waits, or_dash, time};

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keyutil pki list
  keyutil pki list --dir /etc/temporal/certs")]
pub struct ListArgs {
    #[command(flatten)]
    folder: Folder,

    #[command(flatten)]
    waits: Waits,
}

pub fn run(args: ListArgs) -> anyhow::Result<()> {
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
