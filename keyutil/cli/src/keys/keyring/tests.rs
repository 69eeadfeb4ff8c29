use std::{
    collections::BTreeSet,
    time::{Duration, UNIX_EPOCH},
};

use super::*;

mod interrupted;

#[test]
fn a_new_ring_publishes_the_key_that_signs_and_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let ring = Keyring::at(folder.path().join("signing"));
    assert!(!ring.exists());

    let made = ring.generate(false, SystemTime::now).unwrap();

    assert_eq!(
        ring.jwks().unwrap().kids(),
        [made.current.kid(), made.next.kid()]
    );
    let current = read_signing_key(&ring.current_path()).unwrap();
    assert_eq!(current.kid(), made.current.kid());
}

#[test]
fn of_many_at_once_one_makes_the_ring() {
    for _ in 0..20 {
        let folder = tempfile::tempdir().unwrap();
        let ring = Keyring::at(folder.path().join("signing"));
        let made: Vec<_> = std::thread::scope(|scope| {
            let callers: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| ring.generate(false, SystemTime::now).ok()))
                .collect();
            callers
                .into_iter()
                .filter_map(|caller| caller.join().unwrap())
                .collect()
        });
        assert_eq!(
            made.len(),
            1,
            "more than one says that its keys are the ring"
        );
        let current = read_signing_key(&ring.current_path()).unwrap();
        assert_eq!(current.kid(), made[0].current.kid());
    }
}

#[test]
fn a_ring_is_not_replaced_by_accident() {
    let folder = tempfile::tempdir().unwrap();
    let ring = Keyring::at(folder.path());
    ring.generate(false, SystemTime::now).unwrap();
    let before = fs::read(ring.current_path()).unwrap();

    let error = ring.generate(false, SystemTime::now).unwrap_err();

    assert!(error.to_string().contains("current.pem"), "{error}");
    assert_eq!(fs::read(ring.current_path()).unwrap(), before);
    ring.generate(true, SystemTime::now).unwrap();
    assert_ne!(fs::read(ring.current_path()).unwrap(), before);
}

const SECOND: Duration = Duration::from_secs(1);

fn policy() -> RotationPolicy {
    RotationPolicy::new(RotationTimes::default(), None).unwrap()
}

/// A ring and a clock of its own.
struct World {
    ring: Keyring,
    now: SystemTime,
    _folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ring = Keyring::at(folder.path());
        let now = UNIX_EPOCH + 1_000_000_000 * SECOND;
        ring.generate(false, || now).unwrap();
        Self {
            ring,
            now,
            _folder: folder,
        }
    }

    fn signs(&self) -> String {
        let key = read_signing_key(&self.ring.current_path()).unwrap();
        key.kid().to_owned()
    }

    fn published(&self) -> BTreeSet<String> {
        self.ring.jwks().unwrap().kids().iter().cloned().collect()
    }

    fn files(&self) -> Vec<Option<Vec<u8>>> {
        let ring = &self.ring;
        [
            ring.current_path(),
            ring.next_path(),
            ring.jwks_path(),
            ring.ring_path(),
        ]
        .map(|path| fs::read(path).ok())
        .into()
    }

    fn pass(&mut self, seconds: u32) {
        self.now += seconds * SECOND;
    }

    fn rotate(&self) -> Result<Rotated, KeyringError> {
        self.ring.rotate(&policy(), || self.now)
    }
}

#[test]
fn the_next_key_signs_only_after_it_was_published_long_enough() {
    let mut world = World::new();
    let (signs, files) = (world.signs(), world.files());
    world.pass(99);

    let error = world.rotate().unwrap_err();

    assert!(error.to_string().ends_with("1s left"), "{error}");
    assert!(error.is_too_early());
    assert_eq!(world.files(), files);

    world.pass(1);
    let rotated = world.rotate().unwrap();
    assert_eq!(rotated.before, Some(signs.clone()));
    assert_eq!(rotated.now, world.signs());
    let all = [signs, rotated.now, rotated.next];
    assert_eq!(world.published(), BTreeSet::from(all));
}

#[test]
fn a_key_is_removed_when_no_token_of_its_can_be_alive() {
    let mut world = World::new();
    world.pass(100);
    let before = world.rotate().unwrap().before.unwrap();

    world.pass(399);
    assert_eq!(world.ring.retire(&policy(), || world.now).unwrap(), [""; 0]);
    assert!(world.published().contains(&before));
    world.pass(1);
    let removed = world.ring.retire(&policy(), || world.now).unwrap();

    assert_eq!(removed, std::slice::from_ref(&before));
    assert!(!world.published().contains(&before));
}

#[test]
fn a_rotation_removes_what_is_due_and_keeps_what_is_not() {
    let mut world = World::new();
    let mut signed = Vec::new();
    for _ in 0..8 {
        world.pass(100);
        signed.push(world.rotate().unwrap().before.unwrap());
    }
    // Of those that stopped 700, 600, 500, 400, … seconds ago the first four are gone.
    let kept = BTreeSet::from_iter(signed[4..].to_vec());
    assert!(world.published().is_superset(&kept));
    assert!(
        signed[..4]
            .iter()
            .all(|kid| !world.published().contains(kid))
    );
}

#[test]
fn an_emergency_does_not_wait_and_drops_the_key() {
    let world = World::new();
    let compromised = world.signs();

    let rotated = world.ring.rotate_in_emergency(|| world.now).unwrap();

    assert_eq!(rotated.removed, std::slice::from_ref(&compromised));
    assert_eq!(world.signs(), rotated.now);
    assert_eq!(
        world.published(),
        BTreeSet::from([rotated.now, rotated.next])
    );
    let record = fs::read_to_string(world.ring.ring_path()).unwrap();
    assert!(!record.contains(&compromised), "{record}");
}

#[test]
fn an_emergency_replaces_a_key_that_is_broken_or_gone() {
    for content in [None, Some("garbage")] {
        let world = World::new();
        let lost = world.signs();
        fs::remove_file(world.ring.current_path()).unwrap();
        if let Some(content) = content {
            fs::write(world.ring.current_path(), content).unwrap();
        }
        assert!(world.rotate().is_err());

        let rotated = world.ring.rotate_in_emergency(|| world.now).unwrap();

        assert_eq!(world.signs(), rotated.now);
        assert_eq!(rotated.before.as_ref(), Some(&lost));
        assert!(!world.published().contains(&lost));
    }
}

#[test]
fn a_lost_next_key_is_replaced_by_one_that_waits() {
    let mut world = World::new();
    let signs = world.signs();
    fs::remove_file(world.ring.next_path()).unwrap();
    world.pass(1000);

    let error = world.rotate().unwrap_err();
    assert!(error.to_string().ends_with("1m 40s left"), "{error}");
    world.pass(100);
    world.rotate().unwrap();
    assert_ne!(world.signs(), signs);
}

#[test]
fn a_lost_key_set_is_published_anew_and_counts_from_then() {
    for broken in ["", "{}", r#"{"keys":[]}"#, "{\"keys\":[{\"kty\""] {
        let mut world = World::new();
        world.pass(100);
        let before = world.rotate().unwrap().before.unwrap();
        let all = world.published();
        world.pass(100);
        fs::write(world.ring.jwks_path(), broken).unwrap();

        let error = world.rotate().unwrap_err();

        assert!(error.to_string().ends_with("1m 40s left"), "{error}");
        assert_eq!(world.published(), all);
        assert!(all.contains(&before));
    }
}

#[test]
fn a_lost_record_is_made_up_with_longer_waits() {
    let mut world = World::new();
    world.pass(1000);
    fs::remove_file(world.ring.ring_path()).unwrap();
    assert!(world.rotate().unwrap_err().is_too_early());
    world.pass(100);
    world.rotate().unwrap();
}

#[test]
fn broken_files_are_named_and_nothing_changes() {
    type Path = fn(&Keyring) -> PathBuf;
    let cases: [(Path, &str); 3] = [
        (Keyring::current_path, "current.pem"),
        (Keyring::next_path, "next.pem"),
        (Keyring::ring_path, "ring.json"),
    ];
    for (path, name) in cases {
        for content in ["", "{", "-----BEGIN PRIVATE KEY-----\nMIGH", "\u{0}"] {
            let mut world = World::new();
            world.pass(1000);
            fs::write(path(&world.ring), content).unwrap();
            let files = world.files();

            let error = world.rotate().unwrap_err();

            let words = keyutil::base::chain(&error);
            assert!(words.contains(name) && !words.contains("MIGH"), "{words}");
            assert!(error.hint().is_some(), "{words}");
            assert_eq!(world.files(), files, "{name}");
        }
    }
}

#[test]
fn times_in_the_future_do_not_let_a_key_sign_early() {
    let mut world = World::new();
    world.now -= 3600 * SECOND;
    assert!(world.rotate().unwrap_err().is_too_early());
    world.pass(99);
    assert!(world.rotate().unwrap_err().is_too_early());
    world.pass(1);
    world.rotate().unwrap();
}

#[test]
fn a_run_with_a_clock_that_is_behind_shortens_no_wait() {
    let mut world = World::new();
    let right = world.now;
    for behind in [1800, 3600, 7200] {
        world.now = right - behind * SECOND;
        assert!(world.rotate().unwrap_err().is_too_early());
    }
    // What is done by a clock that is behind does not count as done long ago either.
    world.pass(100);
    world.rotate().unwrap();
    world.now = right;
    for _ in 0..2 {
        let error = world.rotate().unwrap_err();
        assert!(error.to_string().contains("1m 40s left"), "{error}");
    }
    world.pass(99);
    assert!(world.rotate().unwrap_err().is_too_early());
    world.pass(1);
    world.rotate().unwrap();
}

#[test]
fn a_schedule_goes_on_where_times_were_lost_or_lie_in_the_future() {
    for lost in [Keyring::ring_path, Keyring::jwks_path] {
        let world = World::new();
        fs::remove_file(lost(&world.ring)).unwrap();
        assert!(rotates_within(&world.ring, world.now, 1200));
    }
    let world = World::new();
    let a_year_ago = world.now - 365 * 24 * 3600 * SECOND;
    assert!(rotates_within(&world.ring, a_year_ago, 1200));
}

/// Whether a schedule of 1000 s has rotated the ring after so many seconds.
fn rotates_within(ring: &Keyring, begun: SystemTime, seconds: u32) -> bool {
    let before = read_signing_key(&ring.current_path()).unwrap();
    let schedule = Schedule::new(ring.clone(), policy(), 1000 * SECOND).unwrap();
    for passed in (0..seconds).step_by(10) {
        schedule.turn(begun + passed * SECOND).unwrap();
    }
    let after = read_signing_key(&ring.current_path()).unwrap();
    before.kid() != after.kid()
}

#[test]
fn a_folder_without_keys_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let ring = Keyring::at(folder.path());
    for error in [
        ring.retire(&policy(), SystemTime::now).unwrap_err(),
        ring.rotate(&policy(), SystemTime::now).unwrap_err(),
    ] {
        assert!(
            matches!(error, KeyringError::NothingSigns { .. }),
            "{error}"
        );
    }
    let left = fs::read_dir(folder.path()).unwrap();
    assert_eq!(left.count(), 1, "the lock alone");
}

#[test]
fn waits_without_end_are_no_panic() {
    let times = RotationTimes {
        refresh_interval: Duration::MAX,
        token_lifetime: Duration::MAX,
        ..RotationTimes::default()
    };
    let endless = RotationPolicy::new(times, None).unwrap();
    let mut world = World::new();
    world.pass(100);
    world.rotate().unwrap();
    let error = world.ring.rotate(&endless, || world.now).unwrap_err();
    assert!(error.is_too_early(), "{error}");
    assert_eq!(world.ring.retire(&endless, || world.now).unwrap(), [""; 0]);
    let schedule = Schedule::new(world.ring.clone(), policy(), Duration::MAX).unwrap();
    schedule.turn(world.now).unwrap();
}

#[test]
fn of_many_at_once_one_rotates() {
    let mut world = World::new();
    world.pass(100);
    let (ring, now) = (&world.ring, world.now);
    let rotated: Vec<_> = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| ring.rotate(&policy(), || now).ok()))
            .collect();
        let done = callers.into_iter().map(|caller| caller.join().unwrap());
        done.flatten().collect()
    });
    assert_eq!(rotated.len(), 1);
    assert_eq!(world.signs(), rotated[0].now);
    let ring = world.ring.look(now).unwrap();
    assert!(!ring.interrupted);
    assert_eq!(ring.keys().count(), 3);
}

#[test]
fn a_schedule_keeps_its_pace_over_restarts() {
    let world = World::new();
    let (mut signs, mut rotations) = (world.signs(), Vec::new());
    for seconds in (0..4500).step_by(10) {
        // Started anew each time.
        let schedule = Schedule::new(world.ring.clone(), policy(), 1000 * SECOND).unwrap();
        schedule.turn(world.now + seconds * SECOND).unwrap();
        if world.signs() != signs {
            signs = world.signs();
            rotations.push(seconds);
        }
        assert!(world.published().len() <= 3);
    }
    assert_eq!(rotations, [1000, 2000, 3000, 4000]);
}
