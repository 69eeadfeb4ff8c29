//! `keyutil pki rotate` and `list`, the program: what it prints, how it ends, and what it leaves
//! behind when the disk is full or it is killed.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, SystemTime},
};

use crate::common::program::{Ended, keyutil, run};
use keyutil_cli::pki::{AuthorityOptions, Layout, list};
use snapbox::assert_data_eq;
use tempfile::TempDir;

const NO_WAIT: [&str; 4] = ["--refresh-interval", "0s", "--propagation", "0s"];

#[test]
fn a_new_leaf_is_told_with_both_serials() {
    let certs = certs();
    let ended = rotate(&certs, &["worker", "--lifetime", "12h"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_data_eq!(
        ended.stdout.clone(),
        "\
WHAT [..] OLD SERIAL [..] NEW SERIAL [..] ISSUER [..] EXPIRES
worker  [..]  [..]  CN=temporal clients CA [..]  [..]Z
"
    );
    assert!(ended.stderr.contains("certificate rotated"), "{ended:?}");
    assert!(ended.stderr.contains("old_serial"), "{ended:?}");

    let ended = rotate(&certs, &["worker", "--lifetime", "100years"]);
    let told = "worker: expires with its CA, earlier than requested: ";
    assert!(ended.stdout.contains(told), "{ended:?}");
}

#[test]
fn a_whole_run_waits_between_the_steps() {
    let certs = certs();
    let waits = ["--refresh-interval", "0s", "--propagation", "1s"];
    let started = SystemTime::now();
    let ended = rotate(&certs, &[&["client-ca"][..], &waits].concat());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(started.elapsed().unwrap() >= Duration::from_secs(2));
    for step in ["trust", "reissue", "retire"] {
        assert!(ended.stdout.contains(&format!("{step}: done")), "{ended:?}");
    }
    // No terminal: one line for each wait, and no bar.
    assert_eq!(ended.stderr.matches("waiting until").count(), 2);
    assert_eq!(problems(&certs), [""; 0]);
}

#[test]
fn a_reader_that_goes_away_does_not_leave_it_half_done() {
    let certs = certs();
    let binary = env!("CARGO_BIN_EXE_keyutil");
    let dir = certs.path().join("certs");
    let dir = dir.display();
    let piped = format!(
        "{binary} pki rotate client-ca --dir '{dir}' --refresh-interval 0s --propagation 0s | true"
    );
    let ended = std::process::Command::new("bash")
        .args(["-c", &piped])
        .status();
    assert!(ended.unwrap().success());
    let left = fs::read_dir(certs.path().join("certs/ca")).unwrap();
    let names = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let unfinished: Vec<_> = names
        .filter(|name| name.contains("-next") || name.contains("-previous"))
        .collect();
    assert_eq!(unfinished, [""; 0]);
}

#[test]
fn too_early_ends_with_a_code_of_its_own() {
    let certs = certs();
    assert_eq!(
        rotate(&certs, &["frontend-ca", "--step=trust"]).code,
        Some(0)
    );
    let before = files(&certs);
    let ended = rotate(&certs, &["frontend-ca", "--step=reissue"]);
    assert_eq!(ended.code, Some(75), "{ended:?}");
    assert_data_eq!(
        ended.stderr,
        "\
keyutil: too early for the step `reissue` of the frontend CA: 1m [..]s left

hint: parties that have not read the files of the previous step would fail; without `--step` the command waits
"
    );
    assert_eq!(files(&certs), before);
}

#[test]
fn the_internode_ca_stops_until_the_servers_are_restarted() {
    let certs = certs();
    let command = [&["internode-ca", "--servers-restarted"][..], &NO_WAIT].concat();
    // Said too early, the flag is not believed: the CA that they are to trust is made just now.
    let ended = rotate(&certs, &command);
    assert_eq!(ended.code, Some(75), "{ended:?}");
    assert!(ended.stdout.contains("trust: done"), "{ended:?}");
    assert!(ended.stderr.contains("restart every temporal-server"));

    let ended = rotate(&certs, &[&["internode-ca"][..], &NO_WAIT].concat());
    assert_eq!(ended.code, Some(75), "{ended:?}");

    let ended = rotate(&certs, &command);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains("until its next restart"), "{ended:?}");
    assert_eq!(problems(&certs), [""; 0]);
}

#[test]
fn what_is_no_folder_of_certificates_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for command in [
        &["rotate", "worker"][..],
        &["rotate", "client-ca"],
        &["list"],
    ] {
        let ended = run(keyutil(folder.path()).arg("pki").args(command));
        assert_eq!(ended.code, Some(64), "{ended:?}");
        assert!(ended.stderr.contains("no CAs in `certs"));
        assert!(ended.stderr.contains("hint: `--dir` must name the folder"));
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);

    let certs = certs();
    let ended = rotate(&certs, &["worker", "--lifetime", "0s"]);
    assert_eq!(ended.code, Some(64), "{ended:?}");
}

#[test]
fn the_list_shows_rotations_and_problems() {
    let certs = certs();
    rotate(&certs, &["client-ca", "--step=trust"]);
    fs::remove_dir_all(certs.path().join("certs/starter")).unwrap();
    fs::write(certs.path().join("certs/admin/tls.key"), "garbage").unwrap();
    let ended = run(keyutil(certs.path()).args(["pki", "list"]));
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert_eq!(ended.stderr, "keyutil: problems found: 1\n");
    assert_data_eq!(
        ended.stdout,
        "\
CA  [..]  STEP   SINCE  [..]  NEXT     NOT BEFORE  [..]  SUBJECT  [..]  SERIAL  [..]  EXPIRES
clients  [..]  trust  [..]Z  reissue  [..]Z  CN=temporal clients CA [..]Z
clients-next  - [..]  -  [..]  -  [..]  -  [..]  CN=temporal clients CA [..]Z
frontend  [..]  -  [..]  CN=temporal frontend CA [..]Z
internode  [..]  -  [..]  CN=temporal internode CA [..]Z

PARTY  [..]  SERIAL  [..]  ISSUER  [..]  EXPIRES  [..]  TRUSTS
worker  [..]  CN=temporal clients CA [..]Z  [..]
starter [..]- (no folder here)
admin  [..]  CN=temporal clients CA [..]Z  [..]
ui  [..]  CN=temporal clients CA [..]Z  [..]
frontend  [..]  CN=temporal frontend CA [..]Z  [..], [..]
internode  [..]  CN=temporal internode CA [..]Z  [..]

PROBLEMS
admin: the key file has no `PRIVATE KEY`, `EC PRIVATE KEY` or `RSA PRIVATE KEY` block: the file has no `-----BEGIN …-----` line, and a private key in PEM is needed
"
    );
}

#[test]
fn a_full_disk_leaves_the_old_files() {
    let certs = certs();
    for command in ["worker", "client-ca --step=trust"] {
        let before = files(&certs);
        let program = env!("CARGO_BIN_EXE_keyutil");
        // Writing anything to a file fails with `File too large`.
        let script = format!("trap '' XFSZ; ulimit -f 0; exec '{program}' pki rotate {command}");
        let mut full = Command::new("bash");
        let full = run(full
            .current_dir(certs.path())
            .stdin(std::process::Stdio::null())
            .args(["-c", &script]));
        assert_eq!(full.code, Some(1), "{full:?}");
        assert!(full.stderr.contains("failed to write `certs/"), "{full:?}");
        assert!(
            full.stderr.contains("continues where it stopped"),
            "{full:?}"
        );
        assert_eq!(files(&certs), before);
        assert_eq!(problems(&certs), [""; 0]);

        let ended = rotate(&certs, &command.split(' ').collect::<Vec<_>>());
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
}

#[test]
fn who_is_killed_at_any_moment_goes_on_from_there() {
    let certs = certs();
    let command = [&["pki", "rotate", "client-ca"][..], &NO_WAIT].concat();
    for milliseconds in (0..96).step_by(4) {
        let mut child = keyutil(certs.path()).args(&command).spawn().unwrap();
        thread::sleep(Duration::from_millis(milliseconds));
        // Unless it has ended.
        let _ = child.kill();
        child.wait().unwrap();
        for problem in problems(&certs) {
            let in_between = problem.contains("the key does not belong to the certificate")
                || problem.contains("the private key does not match the CA certificate")
                || problem.contains("was interrupted: run it again");
            assert!(in_between, "after {milliseconds} ms: {problem}");
        }
    }
    let ended = run(keyutil(certs.path()).args(&command));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(problems(&certs), [""; 0]);
    let names = files(&certs).into_keys();
    let left = names.filter(|name| {
        let name = name.to_string_lossy();
        name.contains("-next") || name.contains("-previous") || name.contains("unfinished")
    });
    assert_eq!(left.collect::<Vec<_>>(), [""; 0].map(PathBuf::from));
}

/// A folder with `certs` in it.
fn certs() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let made = run(keyutil(folder.path()).args(["pki", "init"]));
    assert_eq!(made.code, Some(0), "{made:?}");
    folder
}

fn rotate(certs: &TempDir, args: &[&str]) -> Ended {
    run(keyutil(certs.path()).args(["pki", "rotate"]).args(args))
}

fn problems(certs: &TempDir) -> Vec<String> {
    let layout = Layout::new(&certs.path().join("certs"));
    let listing = list(&layout, &AuthorityOptions::default(), SystemTime::now());
    listing.unwrap().problems
}

/// Without the lock.
fn files(certs: &TempDir) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for folder in entries(&certs.path().join("certs")) {
        for path in entries(&folder) {
            if !path.ends_with(".lock") {
                let content = fs::read(&path).unwrap();
                files.insert(path, content);
            }
        }
    }
    files
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}
