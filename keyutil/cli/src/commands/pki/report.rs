//! What is printed of a rotation.

use humantime::format_rfc3339_seconds;
use keyutil::program;
use keyutil_cli::pki::{AuthorityKind, AuthorityRotated, LeafRotated};

use super::table::{self, Table};

pub fn leaf(rotated: &LeafRotated) -> anyhow::Result<()> {
    let mut table = Table::new(TITLE);
    table.push(leaf_row(rotated));
    program::print_line(table)?;
    print_notes(rotated)
}

pub fn authority(rotated: &AuthorityRotated) -> anyhow::Result<()> {
    let (name, step) = (rotated.kind.name(), rotated.step);
    if rotated.already {
        program::print_line(format_args!("{step}: was done before"))?;
    } else {
        let mut table = Table::new(TITLE);
        table.push([
            format!("{name} CA"),
            table::or_dash(rotated.old.as_ref().map(|old| old.serial.as_str())),
            rotated.new.serial.clone(),
            rotated.new.issuer.clone(),
            table::time(Some(rotated.new.not_after)),
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
        table::or_dash(leaf.old.as_ref().map(|old| old.serial.as_str())),
        leaf.new.serial.clone(),
        leaf.new.issuer.clone(),
        table::time(Some(leaf.new.not_after)),
    ]
}
