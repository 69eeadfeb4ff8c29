//! `keyutil key` as a process: in turn, by two at once, killed, on a full disk.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant, SystemTime},
};

use crate::common::endpoint::{Endpoint, Running};
use crate::common::program::{keyutil, run, with_keys};
use keyutil_cli::keys::keyring::{Keyring, read_signing_key};

/// The shortest that can be told from none: the record has whole seconds.
const QUICK: [&str; 8] = [
    "--refresh-interval=1s",
    "--clock-skew=0s",
    "--propagation=0s",
    "--token-lifetime=2s",
    "--dir",
    "certs/signing",
    "--retire-after",
    "3s",
];

fn ring(folder: &Path) -> Keyring {
    Keyring::at(folder.join("certs/signing"))
}

fn signs(folder: &Path) -> String {
    let key = read_signing_key(&ring(folder).current_path()).unwrap();
    key.kid().to_owned()
}

fn rotate(folder: &Path) -> Command {
    let mut command = keyutil(folder);
    command.args(["key", "rotate"]);
    command
}

#[test]
fn too_early_says_how_long_and_changes_nothing() {
    let folder = with_keys();
    let before = signs(folder.path());

    let refused = run(&mut rotate(folder.path()));

    assert_eq!(refused.code, Some(75), "{refused:?}");
    assert!(
        refused.stderr.contains("too early: the next key `"),
        "{refused:?}"
    );
    assert!(
        refused.stderr.contains(" left\n\nhint: `--wait`"),
        "{refused:?}"
    );
    assert_eq!(signs(folder.path()), before);
}

#[test]
fn waiting_ends_with_a_rotation_and_the_list_tells_of_it() {
    let folder = with_keys();
    let before = signs(folder.path());

    let rotated = run(rotate(folder.path()).args(QUICK).arg("--wait"));

    assert_eq!(rotated.code, Some(0), "{rotated:?}");
    let now = signs(folder.path());
    assert!(
        rotated
            .stdout
            .contains(&format!("signed before  {before}\n")),
        "{rotated:?}"
    );
    assert!(
        rotated.stdout.contains(&format!("signs now      {now}\n")),
        "{rotated:?}"
    );
    let listed = run(keyutil(folder.path()).args(["key", "list"]).args(QUICK));
    assert_eq!(listed.code, Some(0), "{listed:?}");
    let line = |kid: &str| {
        let line = listed.stdout.lines().find(|line| line.starts_with(kid));
        line.unwrap_or_else(|| panic!("no {kid} in {listed:?}"))
    };
    assert!(line(&now).contains("  current  "), "{listed:?}");
    assert!(line(&before).contains("  previous  "), "{listed:?}");
    assert!(line(&before).contains("is removed"), "{listed:?}");
}

#[test]
fn durations_that_contradict_each_other_are_refused() {
    let folder = with_keys();
    for command in ["rotate", "retire", "list"] {
        let refused = run(keyutil(folder.path()).args(["key", command]).args([
            "--token-lifetime",
            "1h",
            "--retire-after",
            "1h",
        ]));
        assert_eq!(refused.code, Some(64), "{refused:?}");
        assert!(refused.stderr.contains("token lifetime 1h"), "{refused:?}");
    }
    let refused = run(keyutil(folder.path()).args(["jwks", "serve", "--rotate-every", "1m"]));
    assert_eq!(refused.code, Some(64), "{refused:?}");
    assert!(
        refused.stderr.contains("published for 1m 40s"),
        "{refused:?}"
    );
}

#[test]
fn an_emergency_says_what_it_costs() {
    let folder = with_keys();
    let before = signs(folder.path());

    let rotated = run(rotate(folder.path()).arg("--emergency"));

    assert_eq!(rotated.code, Some(0), "{rotated:?}");
    assert!(
        rotated
            .stdout
            .contains(&format!("removed        {before}\n")),
        "{rotated:?}"
    );
    let dropped = format!("accepted       {before}  until each server has fetched the key set, ");
    let signs = format!("accepted       {}  until", signs(folder.path()));
    for words in [&*dropped, &signs, "was published less than 1m ago"] {
        assert!(rotated.stdout.contains(words), "{rotated:?}");
    }
    assert!(!ring(folder.path()).jwks().unwrap().kids().contains(&before));
}

#[test]
fn of_two_processes_at_once_one_rotates() {
    for _ in 0..5 {
        let folder = tempfile::tempdir().unwrap();
        let yesterday = SystemTime::now() - Duration::from_secs(24 * 60 * 60);
        ring(folder.path()).generate(false, || yesterday).unwrap();
        let children: Vec<_> = (0..3)
            .map(|_| rotate(folder.path()).spawn().unwrap())
            .collect();
        let codes: Vec<_> = children
            .into_iter()
            .map(|child| child.wait_with_output().unwrap().status.code())
            .collect();
        let done = codes.iter().filter(|code| **code == Some(0)).count();
        let early = codes.iter().filter(|code| **code == Some(75)).count();
        assert_eq!((done, early), (1, 2), "{codes:?}");
    }
}

/// As on a disk that is full of logs.
#[cfg(target_os = "linux")]
#[test]
fn a_log_that_takes_nothing_changes_no_exit_code() {
    let folder = with_keys();
    let full = || fs::File::options().write(true).open("/dev/full").unwrap();
    for (arguments, code) in [(&["rotate"][..], 75), (&["rotate", "--emergency"], 0)] {
        let mut command = keyutil(folder.path());
        command.arg("key").args(arguments).stderr(full());
        assert_eq!(run(&mut command).code, Some(code), "{arguments:?}");
    }
}

/// The kernel's limit for the size of a file does what a full disk does: nothing can be written.
#[test]
fn a_full_disk_changes_nothing_and_the_next_run_completes() {
    let folder = with_keys();
    let (before, published) = (signs(folder.path()), ring(folder.path()).jwks().unwrap());
    let binary = env!("CARGO_BIN_EXE_keyutil");
    let limited = format!("trap '' XFSZ; ulimit -f 0; exec {binary} key rotate --emergency");

    let failed = run(Command::new("bash")
        .args(["-c", &limited])
        .current_dir(folder.path())
        .env_clear()
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped()));

    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert!(
        failed
            .stderr
            .contains("failed to write `certs/signing/ring.json`"),
        "{failed:?}"
    );
    assert_eq!(signs(folder.path()), before);
    assert_eq!(ring(folder.path()).jwks().unwrap(), published);
    let entries = fs::read_dir(folder.path().join("certs/signing")).unwrap();
    assert_eq!(entries.count(), 5, "three files, a lock and a folder");
    let rotated = run(rotate(folder.path()).arg("--emergency"));
    assert_eq!(rotated.code, Some(0), "{rotated:?}");
}

/// At random moments, so between any two system calls of it.
#[test]
fn after_a_kill_the_signing_key_is_published_and_the_next_run_completes() {
    let folder = with_keys();
    let ring = ring(folder.path());
    let mut killed = 0;
    for attempt in 0..60u32 {
        let mut child = rotate(folder.path()).arg("--emergency").spawn().unwrap();
        std::thread::sleep(Duration::from_micros(u64::from(attempt) * 400));
        child.kill().unwrap();
        killed += u32::from(child.wait().unwrap().code().is_none());
        let kids = ring.jwks().unwrap();
        assert!(
            kids.kids().contains(&signs(folder.path())),
            "attempt {attempt}"
        );
    }
    assert!(killed > 5, "only {killed} were killed at work");
    let last = run(rotate(folder.path()).arg("--emergency"));
    // What was interrupted may have to be finished first.
    assert!(matches!(last.code, Some(0 | 75)), "{last:?}");
    let looked = ring.look(SystemTime::now()).unwrap();
    assert!(!looked.interrupted);
    let kids: BTreeSet<_> = looked.keys().map(|key| key.kid.clone()).collect();
    assert_eq!(kids, ring.jwks().unwrap().kids().iter().cloned().collect());
    let entries = fs::read_dir(folder.path().join("certs/signing")).unwrap();
    assert_eq!(entries.count(), 5, "three files, a lock and a folder");
}

#[tokio::test]
async fn an_endpoint_that_rotates_keeps_its_pace_over_a_restart() {
    let folder = with_keys();
    let mut arguments = QUICK.to_vec();
    arguments.extend(["--rotate-every", "4s", "--expect-fetchers", "0"]);
    let first = signs(folder.path());
    let begun = Instant::now();
    let endpoint = Endpoint::start(folder.path(), &arguments);
    let second = until_another_signs(folder.path(), &first).await;
    assert!(begun.elapsed() >= Duration::from_secs(3));
    drop(endpoint);
    let stopped = Instant::now();

    let endpoint = Endpoint::start(folder.path(), &arguments);
    let third = until_another_signs(folder.path(), &second).await;

    // Not a whole interval after the restart, but after the last rotation.
    assert!(stopped.elapsed() < Duration::from_secs(8));
    let served: serde_json::Value = serde_json::from_slice(
        &reqwest::get(&endpoint.url)
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap(),
    )
    .unwrap();
    let kids: Vec<_> = served["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| key["kid"].as_str().unwrap())
        .collect();
    assert!(kids.contains(&second.as_str()), "{kids:?}");
    // Served already when it began to sign.
    assert!(kids.contains(&third.as_str()), "{kids:?}");
}

async fn until_another_signs(folder: &Path, before: &str) -> String {
    let begun = Instant::now();
    loop {
        let now = signs(folder);
        if now != before {
            return now;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "{before} signs on"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Earlier versions had the key that signs beside the others.
fn with_keys_of_an_earlier_version() -> tempfile::TempDir {
    let folder = with_keys();
    let ring = ring(folder.path());
    let earlier = folder.path().join("certs/signing/current.pem");
    fs::rename(ring.current_path(), &earlier).unwrap();
    fs::remove_dir(ring.active_folder()).unwrap();
    folder
}

#[test]
fn the_folder_of_the_key_that_signs_is_no_ring() {
    let folder = with_keys();
    let active = folder.path().join("certs/signing/active");
    for command in [
        &["key", "rotate"][..],
        &["key", "generate", "--force"],
        &["key", "list"],
        &["jwks", "print"],
    ] {
        let dir = ["--dir", "certs/signing/active"];
        let refused = run(keyutil(folder.path()).args(command).args(dir));
        assert_eq!(refused.code, Some(64), "{refused:?}");
        assert!(
            refused.stderr.contains("name the folder above it"),
            "{refused:?}"
        );
    }
    let names = std::fs::read_dir(active).unwrap();
    let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["current.pem"]);
}

#[test]
fn a_folder_of_an_earlier_version_is_migrated_by_key_and_by_jwks_serve() {
    let folder = with_keys_of_an_earlier_version();
    let mint = || run(keyutil(folder.path()).args(["token", "mint"]));
    let refused = mint();
    assert_eq!(refused.code, Some(64), "{refused:?}");
    assert!(
        refused.stderr.contains("hint: the key is still at `certs/signing/current.pem`, the path of earlier versions: run `keyutil key list --dir certs/signing` to move it"),
        "{refused:?}"
    );
    let listed = run(keyutil(folder.path()).args(["key", "list"]));
    assert_eq!(listed.code, Some(0), "{listed:?}");
    assert!(listed.stderr.contains("signing key moved"), "{listed:?}");
    assert!(
        listed
            .stderr
            .contains("to=certs/signing/active/current.pem"),
        "{listed:?}"
    );
    assert_eq!(mint().code, Some(0));
    let again = run(keyutil(folder.path()).args(["key", "list"]));
    assert_eq!(again.stderr, "", "{again:?}");

    let folder = with_keys_of_an_earlier_version();
    drop(Endpoint::start(folder.path(), &[]));
    signs(folder.path());
    assert!(folder.path().join("certs/signing/current.pem").is_symlink());
}

#[test]
fn an_old_path_of_the_signing_key_is_told_the_new_one() {
    let folder = with_keys();
    let refused = run(keyutil(folder.path()).args([
        "token",
        "mint",
        "--signing-key=certs/signing/current.pem",
    ]));
    assert_eq!(refused.code, Some(64), "{refused:?}");
    let hint =
        "hint: the key that signs is now `certs/signing/active/current.pem`: change the path";
    assert!(refused.stderr.contains(hint), "{refused:?}");
}

#[test]
fn durations_that_differ_from_recorded_ones_are_warned_of() {
    let folder = with_keys();
    let key = |command: &str, variables: &[(&str, &str)], flags: &[&str]| {
        let mut keyutil = keyutil(folder.path());
        keyutil.envs(variables.iter().copied());
        let ended = run(keyutil.args(["key", command]).args(flags));
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended
    };
    let hour = [("KEYUTIL_TOKEN_LIFETIME", "1h")];
    assert_eq!(key("retire", &hour, &[]).stderr, "");
    let refused = run(rotate(folder.path()).args(QUICK));
    let words = "`--token-lifetime` (KEYUTIL_TOKEN_LIFETIME) is 2s, but `ring.json` records 1h: the longer value applies, until";
    assert!(refused.stderr.contains(words), "{refused:?}");
    assert!(
        refused.stderr.contains("published for 1m 40s"),
        "{refused:?}"
    );
    let listed = key("list", &[], &[]);
    assert!(listed.stderr.contains(") is 5m, but"), "{listed:?}");
    assert_eq!(listed.stderr.lines().count(), 1, "{listed:?}");

    let mint = |lifetime: &str| {
        let mut command = keyutil(folder.path());
        run(command.args(["token", "mint", "--token-lifetime", lifetime]))
    };
    assert_eq!(mint("1h").stderr, "");
    let minted = mint("61m");
    assert_eq!(minted.code, Some(0), "{minted:?}");
    let words = "warning: the token lives for 1h 1m, but the key set in `certs/signing` keeps a key that stopped signing only for tokens of up to 1h:";
    assert!(minted.stderr.starts_with(words), "{minted:?}");
    let mut agent = keyutil(folder.path());
    agent.args(["token", "renew", "--output=token", "--token-lifetime=61m"]);
    Running::start(&mut agent).logged("the token lives for 1h 1m");

    let mut shortening = QUICK.to_vec();
    shortening.push("--shorten-waits");
    let shortened = key("retire", &[], &shortening);
    assert!(
        shortened.stderr.contains("records 1h: 2s applies"),
        "{shortened:?}"
    );
    assert_eq!(key("list", &[], &QUICK).stderr, "");
}
