//! A token file, checked at any time.

#[cfg(target_os = "linux")]
#[path = "../../../tests/support/hanging.rs"]
mod hanging;

use std::{fs, path::Path, thread};

use super::*;
#[cfg(target_os = "linux")]
use hanging::Hanging;
use keyutil::{
    credentials::{FileWatcher, Token},
    token::{Permission, signing_key::generate_pem},
};
use secrecy::ExposeSecret;

const LIFETIME: Duration = Duration::from_secs(300);

fn template() -> ClaimsTemplate {
    ClaimsTemplate {
        kid: None,
        subject: "worker".into(),
        permissions_claim: Default::default(),
        audience: None,
        permissions: vec![Permission::write("default")],
        lifetime: LIFETIME,
    }
}

fn write_key(path: &Path) {
    fs::write(path, generate_pem().unwrap().expose_secret()).unwrap();
}

struct World {
    folder: tempfile::TempDir,
    renewal: Renewal,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("current.pem");
        write_key(&key);
        let output = folder.path().join("tokens/worker");
        let renewal = Renewal::start(key, template(), output).unwrap();
        Self { folder, renewal }
    }

    fn output(&self) -> &Path {
        self.renewal.shared.output.path()
    }

    /// Reads the key and checks the file, as at `now`.
    fn check_at(&self, now: SystemTime) {
        let TokenSource::Minted(minter) = &self.renewal.shared.source else {
            unreachable!()
        };
        minter.key().refresh();
        self.renewal.check_at(now);
    }

    /// Returns what readers get at `now`.
    fn read(&self, now: SystemTime) -> String {
        let content = fs::read(self.output()).unwrap();
        Token::parse_file(&content, now).unwrap().text().to_owned()
    }
}

#[test]
fn a_token_stays_until_two_thirds_of_its_life_and_is_never_late() {
    let world = World::new();
    let start = SystemTime::now();
    let first = world.read(start);
    for seconds in 1..=195 {
        world.renewal.check_at(start + Duration::from_secs(seconds));
    }
    assert_eq!(world.read(start), first);
    assert_eq!(world.renewal.status().writes, 1);
    let late = start + Duration::from_secs(201);
    world.renewal.check_at(late);
    assert_ne!(world.read(late), first);
    // After the machine was suspended.
    let woken = start + LIFETIME * 10;
    world.renewal.check_at(woken);
    assert!(world.renewal.readiness().is_ok());
    let token = Token::parse(&world.read(woken), woken).unwrap();
    assert!(token.expires_at().unwrap() > woken + LIFETIME / 2);
}

#[test]
fn a_new_key_signs_the_next_moment() {
    let world = World::new();
    let now = SystemTime::now();
    let first = world.read(now);
    write_key(&world.folder.path().join("current.pem"));
    world.check_at(now);
    assert_ne!(world.read(now), first);
    // An unusable key is rejected: the key before is kept.
    let second = world.read(now);
    for content in ["", "garbage"] {
        fs::write(world.folder.path().join("current.pem"), content).unwrap();
        world.check_at(now);
        world.check_at(now);
        assert_eq!(world.read(now), second);
    }
    assert!(world.renewal.readiness().is_ok());
}

#[test]
fn what_somebody_else_does_to_the_file_is_undone() {
    let world = World::new();
    let now = SystemTime::now();
    let token = world.read(now);
    let output = world.output();
    for spoil in [
        || Vec::new(),
        || b"garbage".to_vec(),
        || b"eyJhbGciOiJFUzI1NiJ9.half".to_vec(),
    ] {
        fs::write(output, spoil()).unwrap();
        world.renewal.check_at(now);
        assert_eq!(world.read(now), token);
    }
    fs::remove_dir_all(output.parent().unwrap()).unwrap();
    world.renewal.check_at(now);
    assert_eq!(world.read(now), token);
}

#[test]
fn a_file_that_cannot_be_written_is_told_until_it_can() {
    let world = World::new();
    let now = SystemTime::now();
    fs::remove_file(world.output()).unwrap();
    fs::create_dir(world.output()).unwrap();
    fs::write(world.output().join("inside"), "in the way").unwrap();
    for _ in 0..3 {
        world.renewal.check_at(now);
    }
    let reasons = world.renewal.readiness().unwrap_err().join("\n");
    for words in ["failed to write", "tokens/worker", "expires at"] {
        assert!(reasons.contains(words), "{words}: {reasons}");
    }
    assert!(!reasons.contains("eyJ"), "{reasons}");
    assert_eq!(world.renewal.status().failures, 3);

    fs::remove_dir_all(world.output()).unwrap();
    world.renewal.check_at(now);
    assert!(world.renewal.readiness().is_ok());
}

#[test]
fn a_file_system_that_hangs_is_told() {
    let world = World::new();
    let now = Instant::now() + STALL_LIMIT + Duration::from_secs(1);
    let reasons = world.renewal.reasons_at(now);
    assert!(reasons[0].contains("does not answer"), "{reasons:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_key_that_hangs_delays_neither_tokens_nor_answers() {
    let world = World::new();
    let output = world.output();
    let hanging = Hanging::new(&world.folder.path().join("current.pem"));
    let _watch = FileWatcher::start(world.renewal.watched());
    let begun = Instant::now();
    let until = |reached: &dyn Fn() -> bool| {
        while !reached() {
            // Less long than the file hangs.
            assert!(begun.elapsed() < Duration::from_secs(25));
            thread::sleep(Duration::from_millis(10));
        }
    };
    let stalled = || {
        let status = world.renewal.credentials();
        render(&world.renewal, world.renewal.readiness().is_ok()).unwrap();
        status.signing_key.unwrap().stalled.is_some()
    };
    until(&stalled);
    for _ in 0..2 {
        fs::remove_file(output).unwrap();
        until(&|| output.exists());
    }
    assert!(stalled());
    assert_eq!(world.renewal.status().failures, 0);

    drop(hanging);
    let before = world.read(SystemTime::now());
    write_key(&world.folder.path().join("current.pem"));
    until(&|| world.read(SystemTime::now()) != before);
}

#[test]
fn nothing_but_a_token_is_written_over() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("current.pem");
    write_key(&key);
    let start = |output: &Path| Renewal::start(key.clone(), template(), output.to_owned());
    let other = folder.path().join("tls.key");
    write_key(&other);
    for output in [&key, &other] {
        let before = fs::read(output).unwrap();
        let error = start(output).unwrap_err();
        assert!(error.is_usage(), "{error}");
        assert_eq!(fs::read(output).unwrap(), before);
    }
    let link = folder.path().join("link");
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&key, &link).unwrap();
        assert!(start(&link).unwrap_err().is_usage());
    }
    let output = folder.path().join("token");
    fs::write(&output, "").unwrap();
    let first = start(&output).unwrap();
    let error = start(&output).unwrap_err();
    assert!(matches!(error, RenewalError::Taken { .. }), "{error}");
    drop(first);
    for leftover in [
        "Bearer eyJhbGciOiJub25lIn0.e30.\n",
        "\u{feff}eyJhbGciOiJub25lIn0.e30.",
    ] {
        fs::write(&output, leftover).unwrap();
        start(&output).unwrap();
    }
}

#[cfg(unix)]
#[test]
fn a_lock_that_was_taken_away_makes_no_room_for_a_second_agent() {
    let world = World::new();
    let now = SystemTime::now();
    let key = world.folder.path().join("current.pem");
    let lock = world.output().with_file_name(".worker.lock");
    let second = || Renewal::start(key.clone(), template(), world.output().to_owned());
    fs::remove_file(&lock).unwrap();
    world.renewal.check_at(now);
    assert!(matches!(second(), Err(RenewalError::Taken { .. })));

    // The other agent was faster: the first reports it, and leaves the file alone.
    fs::remove_file(&lock).unwrap();
    let second = second().unwrap();
    let token = world.read(now);
    world.renewal.check_at(now);
    assert_eq!(world.read(now), token);
    let reasons = world.renewal.readiness().unwrap_err();
    assert!(reasons[0].contains("another process renews"), "{reasons:?}");
    drop(second);
    world.renewal.check_at(now);
    assert!(world.renewal.readiness().is_ok());
}

#[cfg(unix)]
#[test]
fn a_token_that_was_opened_to_all_is_closed_again() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new();
    fs::set_permissions(world.output(), fs::Permissions::from_mode(0o666)).unwrap();
    world.renewal.check_at(SystemTime::now());
    let mode = fs::metadata(world.output()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}
