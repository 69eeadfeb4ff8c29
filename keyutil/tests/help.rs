//! What `--help` says, of the tool and of every subcommand.
//!
//! `SNAPSHOTS=overwrite cargo test -p keyutil --test help` writes the snapshots anew.
#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

#[path = "common/program.rs"]
mod program;

use std::{collections::BTreeSet, fs, path::Path};

use program::{keyutil, run};
use snapbox::{Assert, Data};

#[test]
fn the_help_of_every_subcommand_is_as_it_was() {
    let snapshots = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots");
    let assert = Assert::new().action_env("SNAPSHOTS");
    let mut seen = BTreeSet::new();
    let mut to_visit = vec![Vec::new()];
    while let Some(command) = to_visit.pop() {
        let help = help(&command);
        for name in subcommands(&help) {
            to_visit.push([&command[..], &[name]].concat());
        }
        let file = format!(
            "{}.txt",
            [&["keyutil".to_owned()], &command[..]].concat().join("-")
        );
        assert.eq(help, Data::read_from(&snapshots.join(&file), None));
        seen.insert(file);
    }

    let kept: BTreeSet<_> = fs::read_dir(snapshots)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(kept, seen, "a snapshot of a subcommand that is gone");
}

#[test]
fn no_secret_of_the_environment_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let ended = run(keyutil(folder.path())
        .args(["namespace", "register", "--help"])
        .env("TEMPORAL_API_KEY", "tops3cret"));
    assert_eq!(ended.code, Some(0));
    assert!(ended.stdout.contains("TEMPORAL_API_KEY"), "{ended:?}");
    assert!(!ended.stdout.contains("tops3cret"), "{ended:?}");
}

/// In 100 columns, whatever the terminal is.
fn help(command: &[String]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let ended = run(keyutil(folder.path())
        .args(command)
        .arg("--help")
        .env("COLUMNS", "100"));
    assert_eq!(ended.code, Some(0), "{command:?}: {ended:?}");
    assert_eq!(ended.stderr, "", "{command:?}");
    ended.stdout
}

fn subcommands(help: &str) -> Vec<String> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    listed
        .take_while(|line| !line.is_empty())
        // A name is indented by two, and what continues its description by more.
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}
