//! Which contents are used, and what is logged about them.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
    time::Instant,
};

use super::*;
#[cfg(target_os = "linux")]
use crate::{
    credentials::TokenSource,
    samples::{hanging::Hanging, template, write_key},
    status::CredentialsStatus,
};

#[derive(Debug)]
struct Number(u32);

impl Credential for Number {
    const KIND: &'static str = "number";

    fn identify(&self) -> String {
        self.0.to_string()
    }

    fn expires_at(&self) -> Option<SystemTime> {
        None
    }
}

/// The two files must hold the same number, as a certificate and its key belong together.
fn load(folder: &Path) -> Result<Reloading<Number>, LoadError> {
    Reloading::load(vec![folder.join("a"), folder.join("b")], |contents| {
        let [a, b] = [&contents[0], &contents[1]].map(|text| String::from_utf8_lossy(text));
        if a != b {
            return Err(unusable("a and b do not belong together"));
        }
        let parsed = a.trim().parse().map(Number);
        parsed.map_err(|error: std::num::ParseIntError| unusable(&error.to_string()))
    })
}

fn unusable(cause: &str) -> Diagnosed {
    Diagnosed::from(Diagnosis {
        step: Step::Files,
        class: Class::Usage,
        cause: cause.to_owned(),
        hint: None,
    })
}

fn write(folder: &Path, a: &str, b: &str) {
    fs::write(folder.join("a"), a).unwrap();
    fs::write(folder.join("b"), b).unwrap();
}

#[test]
fn the_first_load_fails_hard_and_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let missing = chain(&load(folder.path()).unwrap_err());
    assert!(missing.contains("/a`: No such file"), "{missing}");
    write(folder.path(), "1", "2");
    let mismatch = chain(&load(folder.path()).unwrap_err());
    assert!(mismatch.contains("do not belong together"), "{mismatch}");
}

#[test]
fn a_valid_change_is_used_and_an_invalid_one_is_counted_once() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "1", "1");
    let value = load(folder.path()).unwrap();

    write(folder.path(), "2", "2");
    let loaded = value.status().since;
    value.refresh();
    assert_eq!(value.current().0, 2);
    assert_eq!(value.status().generation, 1);
    let replaced = value.status().since;
    assert!(replaced > loaded);

    write(folder.path(), "3", "2");
    let broken = SystemTime::now();
    for _ in 0..4 {
        value.refresh();
    }
    let noticed = SystemTime::now();
    assert_eq!(value.current().0, 2);
    let status = value.status();
    assert_eq!((status.generation, status.failures), (1, 1));
    assert_eq!(status.since, replaced, "the value in use is still the same");
    let failure = status.last_failure.unwrap();
    assert!(failure.reason.contains("belong together"));
    assert!(broken <= failure.since && failure.since <= noticed);

    write(folder.path(), "3", "3");
    value.refresh();
    assert_eq!(value.current().0, 3);
    assert_eq!(value.status().last_failure, None);
}

#[test]
fn the_moment_between_two_renames_is_not_reported() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "1", "1");
    let value = load(folder.path()).unwrap();
    fs::write(folder.path().join("a"), "2").unwrap();
    value.refresh();
    fs::write(folder.path().join("b"), "2").unwrap();
    value.refresh();
    assert_eq!(value.current().0, 2);
    assert_eq!(value.status().failures, 0);
}

#[test]
fn files_that_vanish_keep_the_last_good_value() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "1", "1");
    let value = load(folder.path()).unwrap();
    fs::remove_file(folder.path().join("a")).unwrap();
    fs::create_dir(folder.path().join("a")).unwrap();
    value.refresh();
    value.refresh();
    assert_eq!(value.current().0, 1);
    let failure = value.status().last_failure.unwrap();
    let reason = failure.reason;
    assert!(reason.contains("not a regular file"), "{reason}");
}

#[cfg(unix)]
#[test]
fn the_swap_of_a_mounted_secret_is_seen() {
    use std::os::unix::fs::symlink;
    // Like the kubelet: files link to `..data/…`, and `..data` is replaced by a rename.
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for (version, number) in [("v1", "1"), ("v2", "2")] {
        fs::create_dir(path(version)).unwrap();
        write(&path(version), number, number);
    }
    symlink("v1", path("..data")).unwrap();
    symlink("..data/a", path("a")).unwrap();
    symlink("..data/b", path("b")).unwrap();
    let value = load(folder.path()).unwrap();

    symlink("v2", path("..new")).unwrap();
    fs::rename(path("..new"), path("..data")).unwrap();
    value.refresh();

    assert_eq!(value.current().0, 2);
}

struct Counter(Arc<AtomicU32>);

impl Refresh for Counter {
    fn refresh(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn the_watcher_runs_until_it_is_dropped() {
    let looks = Arc::new(AtomicU32::new(0));
    let watched: Vec<Box<dyn Refresh>> = vec![Box::new(Counter(looks.clone()))];
    let watch = FileWatcher::every(Duration::from_millis(1), watched);
    while looks.load(Ordering::Relaxed) < 3 {
        thread::yield_now();
    }

    drop(watch);
    // Each thread drops its share of the value when it ends.
    while Arc::strong_count(&looks) > 1 {
        thread::yield_now();
    }
}

#[test]
fn a_renewal_of_the_same_credential_is_logged_at_debug() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "1", "1");
    let value = load(folder.path()).unwrap();
    let logged = |a: &str| {
        let log = folder.path().join("log");
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_writer(Arc::new(fs::File::create(&log).unwrap()))
            .with_ansi(false)
            .finish();
        write(folder.path(), a, a);
        tracing::subscriber::with_default(subscriber, || {
            value.refresh();
            value.refresh();
        });
        fs::read_to_string(log).unwrap()
    };
    let renewed = logged("1\n");
    assert!(renewed.contains("DEBUG"), "{renewed}");
    assert!(!renewed.contains("replaced"), "{renewed}");
    let replaced = logged("2");
    assert!(replaced.contains("INFO"), "{replaced}");
    assert!(replaced.contains(r#"before="1" now="2""#), "{replaced}");
    assert!(logged("broken").contains("WARN"));
    let recovered = logged("2\n");
    assert!(recovered.contains("INFO"), "{recovered}");
    assert!(!recovered.contains("before"), "{recovered}");
}

/// A certificate from 1000 s before the time in its file to 1000 s after it.
struct Dated(SystemTime);

impl Credential for Dated {
    const KIND: &'static str = "dated";

    fn identify(&self) -> String {
        "serial 0A".to_owned()
    }

    fn valid_from(&self) -> Option<SystemTime> {
        Some(self.0 - Duration::from_secs(1000))
    }

    fn expires_at(&self) -> Option<SystemTime> {
        Some(self.0 + Duration::from_secs(1000))
    }
}

#[test]
fn a_certificate_near_its_end_is_reported_once_and_once_more_when_it_has_expired() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a");
    let log = folder.path().join("log");
    let subscriber = tracing_subscriber::fmt()
        .with_writer(Arc::new(fs::File::create(&log).unwrap()))
        .with_ansi(false)
        .finish();
    let now = SystemTime::now();
    let middle = |seconds: u64| {
        let since = (now - Duration::from_secs(seconds)).duration_since(SystemTime::UNIX_EPOCH);
        fs::write(&file, since.unwrap().as_secs().to_string()).unwrap();
    };
    // Each with the time since its middle when it is loaded: an eighth of the life is left, a tenth, and so on.
    tracing::subscriber::with_default(subscriber, || {
        middle(750);
        let value = Reloading::load(vec![file.clone()], |contents| {
            let text = String::from_utf8_lossy(&contents[0]);
            let seconds = text.parse().map(Duration::from_secs);
            let parsed = seconds.map_err(|error| unusable(&error.to_string()));
            Ok(Dated(SystemTime::UNIX_EPOCH + parsed?))
        })
        .unwrap();
        value.refresh();
        assert_eq!(fs::read_to_string(&log).unwrap().lines().count(), 0);

        for seconds in [0, 0, 55, 60, 249, 250, 251, 900] {
            value.report_expiry_at(now + Duration::from_secs(seconds));
        }

        // A renewed one is reported anew.
        middle(900);
        value.refresh();
        value.refresh();
    });
    let log = fs::read_to_string(log).unwrap();
    let lines: Vec<_> = log.lines().collect();
    let expected = [
        ("WARN", "is near its expiry"),
        ("ERROR", "has expired"),
        ("WARN", "is near its expiry"),
    ];
    assert_eq!(lines.len(), expected.len(), "{log}");
    for (line, (level, words)) in lines.iter().zip(expected) {
        assert!(line.contains(level) && line.contains(words), "{line}");
    }
    assert!(lines[0].contains("expires_in=\"3m 1"), "{log}");
}

/// With the token of each call minted by a key whose file hangs.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_hangs_delays_neither_status_nor_calls() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("current.pem");
    write_key(&path);
    let source = TokenSource::minted(path.clone(), template()).unwrap();
    let TokenSource::Minted(minter) = &source else {
        unreachable!()
    };
    let hanging = Hanging::new(&path);
    let watch = FileWatcher::every(TICK, vec![Box::new(minter.key().clone())]);
    let mut calls = 0;
    let mut ask = || {
        let asked = Instant::now();
        source.token(SystemTime::now()).unwrap();
        calls += 1;
        let mut status = CredentialsStatus::default();
        source.add_status(&mut status);
        let answered = asked.elapsed();
        assert!(answered < AT_ONCE, "after {calls} calls: {answered:?}");
        status.signing_key.unwrap()
    };
    until(|| ask().stalled.is_some()).await;
    let stalled = ask().stalled.unwrap();
    assert_eq!(stalled.path, path.display().to_string());

    drop(hanging);
    until(|| ask().stalled.is_none()).await;
    drop(watch);
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_hangs_does_not_stop_the_following_of_others() {
    let [hangs, changes] = [0; 2].map(|_| tempfile::tempdir().unwrap());
    for folder in [&hangs, &changes] {
        write(folder.path(), "1", "1");
    }
    let [first, second] = [&hangs, &changes].map(|folder| load(folder.path()).unwrap());
    let hanging = Hanging::new(&hangs.path().join("a"));
    let watched: Vec<Box<dyn Refresh>> = vec![Box::new(first.clone()), Box::new(second.clone())];
    let _watch = FileWatcher::every(TICK, watched);
    until(|| CredentialStatus::from(&first).stalled.is_some()).await;

    write(changes.path(), "2", "2");
    until(|| second.current().0 == 2).await;

    // What was written meanwhile is used when the file system answers.
    drop(hanging);
    write(hangs.path(), "3", "3");
    until(|| first.current().0 == 3).await;
}

/// Waits for a state, less long than the lease of a file that hangs.
#[cfg(target_os = "linux")]
async fn until(mut reached: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !reached() {
        assert!(begun.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(TICK).await;
    }
}

#[cfg(target_os = "linux")]
const TICK: Duration = Duration::from_millis(10);

/// Less long than the lease of a file that hangs. The rest is for a busy machine.
#[cfg(target_os = "linux")]
const AT_ONCE: Duration = Duration::from_secs(5);
