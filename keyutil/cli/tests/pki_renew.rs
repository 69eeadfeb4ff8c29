//! `keyutil pki renew` as a process.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use crate::common::endpoint::Running;
use crate::common::program::{keyutil, run};

#[test]
fn once_does_what_is_due_and_says_what_is_next() {
    let folder = tempfile::tempdir().unwrap();
    let pki = |args: &[&str]| run(keyutil(folder.path()).arg("pki").args(args));
    let refused = pki(&["renew", "--once"]);
    assert_eq!(refused.code, Some(64));
    assert!(refused.stderr.contains("keyutil pki init"), "{refused:?}");

    let made = pki(&["init", "--leaf-lifetime=30s"]);
    assert_eq!(made.code, Some(0), "{made:?}");
    let nothing = pki(&["renew", "--once"]);
    assert_eq!(nothing.code, Some(0), "{nothing:?}");
    assert!(
        nothing.stdout.starts_with("nothing is due before 20"),
        "{nothing:?}"
    );

    let deadline = Instant::now() + Duration::from_secs(60);
    let mut renewed = String::new();
    let parties = ["worker", "starter", "admin", "ui", "frontend", "internode"];
    let all = |renewed: &str| {
        let is_row = |party: &&str| {
            renewed
                .lines()
                .any(|line| line.starts_with(&format!("{party} ")))
        };
        parties.iter().all(is_row)
    };
    while !all(&renewed) && Instant::now() < deadline {
        let once = pki(&["renew", "--once", "--leaf-lifetime=1h"]);
        assert_eq!(once.code, Some(0), "{once:?}");
        renewed += &once.stdout;
        thread::sleep(Duration::from_millis(200));
    }
    assert!(all(&renewed), "{renewed}");
    let listed = pki(&["list"]);
    assert_eq!(listed.code, Some(0), "{listed:?}");

    let short = pki(&["renew", "--once", "--leaf-lifetime=4m"]);
    assert_eq!(short.code, Some(64));
    assert!(short.stderr.contains("must be 4m 40s or more"), "{short:?}");
}

#[test]
fn what_fails_is_told_and_ends_when_it_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let keyutil = || keyutil(folder.path());
    let made = run(keyutil().args(["pki", "init"]));
    assert_eq!(made.code, Some(0), "{made:?}");
    let key = folder.path().join("certs/ca/clients.key");
    let kept = fs::read(&key).unwrap();
    fs::remove_file(&key).unwrap();
    let once = run(keyutil().args(["pki", "renew", "--once"]));
    assert_eq!(once.code, Some(64));
    assert!(once.stderr.contains("client-ca: "), "{once:?}");

    let agent = Running::start(keyutil().args(["pki", "renew", "--health-listen=127.0.0.1:0"]));
    let line = agent.logged("health endpoint listening");
    let address = line.split_once("address=").unwrap().1.trim();
    let probe = |path: &str| run(keyutil().args(["probe", &format!("http://{address}/{path}")]));
    let refused = probe("readyz");
    assert_eq!(refused.code, Some(69));
    for words in [
        "503",
        "client-ca: could not be renewed since",
        "clients.key",
    ] {
        assert!(refused.stderr.contains(words), "{words}: {refused:?}");
    }
    assert_eq!(probe("healthz").code, Some(0));
    assert_eq!(probe("metrics").code, Some(0));

    fs::write(&key, kept).unwrap();
    agent.logged("the certificate can be renewed again");
    let deadline = Instant::now() + Duration::from_secs(20);
    while probe("readyz").code != Some(0) {
        assert!(Instant::now() < deadline, "{:?}", probe("readyz"));
        thread::sleep(Duration::from_millis(100));
    }
    let (status, log) = agent.terminate();
    assert!(status.success(), "{log}");
    assert!(!log.contains("PRIVATE KEY"), "{log}");
}
