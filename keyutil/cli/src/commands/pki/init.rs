//! `keyutil pki init`

use std::time::{Duration, SystemTime};

use clap::Args;
use humantime::parse_duration;
use keyutil::{diagnosis::ResultExt, program};
use keyutil_cli::pki::{self, AuthorityOptions, Existing, InitOptions, Layout, Party};

use super::{Folder, Table, time};

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keyutil pki init
  keyutil pki init --frontend-san temporal.example.com --leaf-lifetime 30days
  keyutil pki init --dir /etc/temporal/certs --if-missing
  keyutil pki init --force")]
pub struct InitArgs {
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

pub fn run(args: InitArgs) -> anyhow::Result<()> {
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
