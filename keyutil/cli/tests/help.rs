//! What `--help` says, of the tool and of every subcommand.
//!
//! `SNAPSHOTS=overwrite cargo test -p keyutil-cli --test it help` writes the snapshots anew.

use std::{collections::BTreeSet, fs, path::Path};

use crate::common::program::{helps, keyutil, run};
use snapbox::{Assert, Data};

#[test]
fn the_help_of_every_subcommand_is_as_it_was() {
    let snapshots = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots");
    let assert = Assert::new().action_env("SNAPSHOTS");
    let mut seen = BTreeSet::new();
    for (command, help) in helps() {
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
