use std::{
    collections::BTreeSet,
    time::{Duration, UNIX_EPOCH},
};

use proptest::prelude::*;

use super::*;
use crate::files::Change;

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

/// A ring with a clock of its own.
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
    // Of the keys that stopped 700, 600, 500, 400, … seconds ago the first four are removed.
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

    let rotated = world.ring.rotate_in_emergency(None, || world.now).unwrap();

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
fn an_emergency_drops_all_keys_that_have_signed_or_the_one_that_is_named() {
    let rotated_once = || {
        let mut world = World::new();
        world.pass(100);
        let rotated = world.rotate().unwrap();
        (world, rotated.before.unwrap(), rotated.now, rotated.next)
    };
    let (world, stolen, current, next) = rotated_once();
    let all = world.ring.rotate_in_emergency(None, || world.now).unwrap();
    assert_eq!(all.removed, [current, stolen]);
    assert_eq!(world.published(), BTreeSet::from([next, all.next]));

    let (world, stolen, current, next) = rotated_once();
    let named = Some(&*stolen);
    let one = world.ring.rotate_in_emergency(named, || world.now).unwrap();
    assert_eq!(
        (one.removed, world.signs()),
        (vec![stolen], current.clone())
    );
    assert_eq!(world.published(), BTreeSet::from([current, next]));

    let (world, kept, stolen, _) = rotated_once();
    let named = Some(&*stolen);
    let one = world.ring.rotate_in_emergency(named, || world.now).unwrap();
    assert_eq!(one.removed, [stolen]);
    assert_eq!(world.published(), BTreeSet::from([kept, one.now, one.next]));

    let (world, _, _, next) = rotated_once();
    let (named, files) = (Some(&*next), world.files());
    let error = world.ring.rotate_in_emergency(named, || world.now);
    assert!(matches!(error, Err(KeyringError::NotSigned { .. })));
    assert_eq!(world.files(), files);
}

#[test]
fn an_emergency_interrupted_anywhere_is_finished_with_all_its_keys() {
    for named in [false, true] {
        for operations in 1..=6 {
            let mut world = World::new();
            world.pass(100);
            let stolen = world.rotate().unwrap().before.unwrap();
            let kid = named.then_some(&*stolen);
            let found = world.ring.find(Broken::Missing).unwrap();
            let rotation = Rotation::Emergency(kid);
            let plan = rotate::rotate(&world.ring, &found, rotation, world.now).unwrap();
            plan.change.apply_first(operations).unwrap();
            // Interrupted once more.
            let found = world.ring.find(Broken::Missing).unwrap();
            let again = rotate::rotate(&world.ring, &found, Rotation::Emergency(None), world.now);
            if found.record.unwrap().compromised().next().is_some() {
                again.unwrap().change.apply_first(1).unwrap();
            }

            world.ring.finish_emergency(|| world.now).unwrap();

            assert!(!world.published().contains(&stolen), "{named} {operations}");
            assert_eq!(world.ring.finish_emergency(|| world.now).unwrap(), None);
            completes(&mut world);
        }
    }
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

        let rotated = world.ring.rotate_in_emergency(None, || world.now).unwrap();

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
    // A step done by a clock that is behind does not count as done long ago either.
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

/// Returns whether a schedule of 1000 s rotates the ring within this many seconds.
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
fn a_file_that_cannot_be_used_is_a_usage_error_with_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    let missing = Keyring::at(folder.path().join("missing"));
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let below = Keyring::at(&file);
    let world = World::new();
    fs::remove_file(world.ring.current_path()).unwrap();
    for error in [
        missing.jwks().unwrap_err(),
        missing.look(world.now).unwrap_err(),
        missing.retire(&policy(), || world.now).unwrap_err(),
        below.generate(false, || world.now).unwrap_err(),
        below.look(world.now).unwrap_err(),
        world.rotate().unwrap_err(),
        read_signing_key(&missing.current_path()).unwrap_err(),
        read_signing_key(&file).unwrap_err(),
    ] {
        let diagnosis = error.diagnosis();
        assert_eq!(diagnosis.class, Class::Usage, "{diagnosis:?}");
        assert!(diagnosis.hint.is_some(), "{diagnosis:?}");
    }
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

// The rotating process dies between any two of its file operations, again and again. The guarantees
// for keys hold in every state that it leaves.

/// An action on a ring.
#[derive(Clone, Copy, Debug)]
enum Act {
    Rotate,
    Retire,
    Emergency,
    Regenerate,
}

/// An action after a pause, and the number of operations after which its process dies.
#[derive(Clone, Copy, Debug)]
struct Run {
    pause: u32,
    act: Act,
    operations: usize,
}

fn change(world: &World, act: Act) -> Result<Change, KeyringError> {
    let (ring, now) = (&world.ring, world.now);
    match act {
        Act::Rotate => {
            let rotation = Rotation::InTurn(&policy());
            Ok(rotate::rotate(ring, &ring.find(Broken::Refused)?, rotation, now)?.change)
        }
        Act::Emergency => {
            let found = ring.find(Broken::Missing)?;
            Ok(rotate::rotate(ring, &found, Rotation::Emergency(None), now)?.change)
        }
        Act::Retire => {
            Ok(rotate::retire(ring, &ring.find(Broken::Refused)?, &policy(), now)?.change)
        }
        Act::Regenerate => {
            let before = read_signing_key(&ring.current_path()).ok();
            Ok(rotate::generate(ring, before.as_ref(), now)?.change)
        }
    }
}

/// The files from some moment on.
#[derive(Debug)]
struct Moment {
    time: SystemTime,
    signs: String,
    published: BTreeSet<String>,
}

impl Moment {
    fn of(world: &World) -> Self {
        Self {
            time: world.now,
            signs: world.signs(),
            published: world.published(),
        }
    }
}

/// Performs an action, and records the files after each of its operations.
fn run(world: &World, run: Run, history: &mut Vec<Moment>) {
    let Ok(change) = change(world, run.act) else {
        return;
    };
    for count in 0..=run.operations.min(change.operations().len()) {
        if let Some(last) = count.checked_sub(1) {
            change.operations()[last].apply().unwrap();
        }
        history.push(Moment::of(world));
    }
}

/// The key that signs is published at every moment.
fn what_signs_is_published(history: &[Moment]) {
    for moment in history {
        assert!(moment.published.contains(&moment.signs), "{moment:?}");
    }
}

/// For each key that signs from `begun` until `ended`: every document that a server may be using,
/// from the first token that the key signed until its last one has expired, has the key.
fn no_live_token_is_without_its_key(history: &[Moment]) {
    let times = RotationTimes::default();
    for (index, begun) in history.iter().enumerate() {
        let first = index == 0 || history[index - 1].signs != begun.signs;
        if !first {
            continue;
        }
        let ended = history[index..]
            .iter()
            .find(|moment| moment.signs != begun.signs);
        let known = begun.time - times.refresh_interval - times.propagation;
        let until = ended
            .map(|ended| ended.time + times.propagation + times.token_lifetime + times.clock_skew);
        for (number, document) in history.iter().enumerate() {
            // A document is in use until the server fetches the next one.
            let replaced = history.get(number + 1).map(|next| next.time);
            let in_use = replaced.is_none_or(|replaced| replaced > known)
                && until.is_none_or(|until| document.time < until);
            assert!(
                !in_use || document.published.contains(&begun.signs),
                "{} signs since {:?}, and {document:?} is without it",
                begun.signs,
                begun.time
            );
        }
    }
}

/// The next runs complete whatever an interrupted run left.
fn completes(world: &mut World) {
    for _ in 0..3 {
        world.pass(400);
        match world.rotate() {
            Ok(_) => {}
            // There was no next key, and now there is.
            Err(error) => assert!(error.is_too_early(), "{error}"),
        }
    }
    world.pass(400);
    world.ring.retire(&policy(), || world.now).unwrap();
    let ring = world.ring.look(world.now).unwrap();
    assert!(!ring.interrupted);
    assert_eq!(ring.keys().count(), 2, "{ring:?}");
    let kids: BTreeSet<_> = ring.keys().map(|key| key.kid.clone()).collect();
    assert_eq!(world.published(), kids);
    let left = fs::read_dir(&world.ring.folder).unwrap();
    assert_eq!(left.count(), 5, "three files, a lock and a folder");
    let left = fs::read_dir(world.ring.active_folder()).unwrap();
    assert_eq!(left.count(), 1, "the key that signs");
}

fn acts(acts: &'static [Act]) -> impl Strategy<Value = Vec<Run>> {
    let run = (0..250u32, 0..acts.len(), 0..8usize).prop_map(|(pause, act, operations)| Run {
        pause,
        act: acts[act],
        operations,
    });
    proptest::collection::vec(run, 1..16)
}

fn play(runs: &[Run]) -> (World, Vec<Moment>) {
    let mut world = World::new();
    // Servers have known the ring for a long time when the history begins.
    let mut history = vec![Moment::of(&world)];
    history[0].time -= 100 * SECOND;
    world.pass(0);
    for one in runs {
        world.pass(one.pause);
        run(&world, *one, &mut history);
    }
    (world, history)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn in_turn_no_token_is_ever_refused(runs in acts(&[Act::Rotate, Act::Rotate, Act::Retire])) {
        let (mut world, history) = play(&runs);
        what_signs_is_published(&history);
        no_live_token_is_without_its_key(&history);
        completes(&mut world);
    }

    #[test]
    fn whatever_is_done_what_signs_is_published(
        runs in acts(&[Act::Rotate, Act::Emergency, Act::Retire, Act::Regenerate])
    ) {
        let (mut world, history) = play(&runs);
        what_signs_is_published(&history);
        completes(&mut world);
    }
}

#[test]
fn an_interrupted_emergency_drops_the_key_that_was_meant() {
    for operations in 0..=6 {
        for rerun in [Act::Emergency, Act::Rotate] {
            let mut world = World::new();
            world.pass(50);
            let compromised = world.signs();
            let first = change(&world, Act::Emergency).unwrap();
            assert_eq!(first.operations().len(), 6);
            first.apply_first(operations).unwrap();
            if operations == 0 || (operations == 6 && matches!(rerun, Act::Emergency)) {
                continue;
            }
            let _ = change(&world, rerun).map(|change| change.apply().unwrap());

            assert_ne!(world.signs(), compromised, "after {operations}, {rerun:?}");
            assert!(
                !world.published().contains(&compromised),
                "after {operations}, {rerun:?}"
            );
            completes(&mut world);
        }
    }
}

#[test]
fn an_emergency_after_an_interrupted_rotation_hits_no_other_key() {
    let mut world = World::new();
    world.pass(100);
    // The next key signs already, and nothing else has been written.
    change(&world, Act::Rotate).unwrap().apply_first(2).unwrap();
    let signs = world.signs();

    let error = world
        .ring
        .rotate_in_emergency(None, || world.now)
        .unwrap_err();

    assert!(
        matches!(error, KeyringError::FinishedFirst { .. }),
        "{error}"
    );
    assert_eq!(world.signs(), signs);
    let dropped = world
        .ring
        .rotate_in_emergency(None, || world.now)
        .unwrap()
        .removed;
    assert_eq!(dropped[0], signs);
    assert!(!world.published().contains(&signs));
}

// Folders of earlier versions.

/// Moves the key that signs to where earlier versions had it.
fn as_an_earlier_version(ring: &Keyring) {
    fs::rename(ring.current_path(), ring.earlier_path()).unwrap();
    fs::remove_dir(ring.active_folder()).unwrap();
}

#[cfg(unix)]
#[test]
fn a_new_path_that_leads_to_the_old_file_is_left_alone() {
    for (link, target) in [("active/current.pem", "../current.pem"), ("active", ".")] {
        let world = World::new();
        let (ring, signs) = (world.ring.clone(), world.signs());
        as_an_earlier_version(&ring);
        let link = ring.folder.join(link);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(target, link).unwrap();
        ring.migrate().unwrap();
        for path in [ring.current_path(), ring.earlier_path()] {
            assert_eq!(read_signing_key(&path).unwrap().kid(), signs, "{target}");
        }
    }
}

#[cfg(unix)]
#[test]
fn the_key_that_signs_is_moved_and_found_at_both_paths_throughout() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    // A state that an interrupted run may leave behind.
    type Interrupted = fn(&Keyring);
    let interrupted: [Interrupted; 4] = [
        |_| {},
        |ring| fs::create_dir(ring.active_folder()).unwrap(),
        |ring| {
            fs::create_dir(ring.active_folder()).unwrap();
            fs::write(ring.active_folder().join(".unfinished-1"), "-----").unwrap();
        },
        |ring| {
            fs::create_dir(ring.active_folder()).unwrap();
            fs::copy(ring.earlier_path(), ring.current_path()).unwrap();
            let link = ring.folder.join(".unfinished-2");
            std::os::unix::fs::symlink("active/current.pem", link).unwrap();
        },
    ];
    for left in interrupted {
        let mut world = World::new();
        let (ring, signs) = (world.ring.clone(), world.signs());
        as_an_earlier_version(&ring);
        left(&ring);
        // A group of minters.
        let group = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        group(&ring.folder, 0o750);
        group(&ring.earlier_path(), 0o640);
        assert!(ring.exists());
        assert_eq!(ring.look(world.now).unwrap().current.unwrap().kid, signs);

        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let found = read_signing_key(&ring.earlier_path()).unwrap();
                    assert_eq!(found.kid(), signs);
                }
            });
            ring.migrate().unwrap();
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            reader.join().unwrap();
        });

        assert_eq!(world.signs(), signs);
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&ring.active_folder()), 0o750);
        assert_eq!(mode(&ring.current_path()), 0o640);
        world.pass(100);
        let now = world.rotate().unwrap().now;
        for path in [ring.current_path(), ring.earlier_path()] {
            assert_eq!(read_signing_key(&path).unwrap().kid(), now);
        }
        fs::remove_file(ring.earlier_path()).unwrap();
        completes(&mut world);
    }
}

#[test]
fn every_command_that_writes_moves_the_key_first() {
    type Command = fn(&World) -> Result<(), KeyringError>;
    let commands: [Command; 5] = [
        |world| world.rotate().map(|_| ()),
        |world| world.ring.retire(&policy(), || world.now).map(|_| ()),
        |world| {
            let emergency = world.ring.rotate_in_emergency(None, || world.now);
            emergency.map(|_| ())
        },
        |world| world.ring.generate(true, || world.now).map(|_| ()),
        |world| world.ring.migrate(),
    ];
    for command in commands {
        let mut world = World::new();
        as_an_earlier_version(&world.ring);
        world.pass(100);
        command(&world).unwrap();
        let at = |path: PathBuf| read_signing_key(&path).unwrap().kid().to_owned();
        assert_eq!(at(world.ring.earlier_path()), world.signs());
        what_signs_is_published(&[Moment::of(&world)]);
    }
}

#[test]
fn of_two_keys_that_sign_none_is_chosen() {
    let mut world = World::new();
    world.pass(100);
    fs::copy(world.ring.next_path(), world.ring.earlier_path()).unwrap();
    let files = world.files();
    let emergency = world.ring.rotate_in_emergency(None, || world.now);
    for error in [world.rotate().unwrap_err(), emergency.unwrap_err()] {
        assert!(matches!(error, KeyringError::TwoCurrent { .. }), "{error}");
        assert_eq!(error.diagnosis().class, Class::Usage);
    }
    assert_eq!(world.files(), files);
    // As the hint says, remove one of them: the other one is the key that signs.
    fs::remove_file(world.ring.current_path()).unwrap();
    world.ring.migrate().unwrap();
    assert!(world.published().contains(&world.signs()));
}

/// As in containers, where it is a volume of its own: nothing can be renamed into it.
#[cfg(unix)]
#[test]
fn the_folder_of_the_key_that_signs_may_be_on_another_file_system() {
    use std::os::unix::fs::MetadataExt;
    let Ok(other) = tempfile::tempdir_in("/dev/shm") else {
        eprintln!("skipped: there is no /dev/shm");
        return;
    };
    let mut world = World::new();
    let ring = world.ring.clone();
    as_an_earlier_version(&ring);
    std::os::unix::fs::symlink(other.path(), ring.active_folder()).unwrap();
    ring.migrate().unwrap();
    world.pass(100);
    let rotated = world.rotate().unwrap();
    let device = |path: &Path| fs::metadata(path).unwrap().dev();
    if device(other.path()) == device(&ring.folder) {
        eprintln!("skipped: /dev/shm is the file system of the temporary files");
        return;
    }
    let signs = read_signing_key(&other.path().join("current.pem")).unwrap();
    assert_eq!(signs.kid(), rotated.now);
}

// Runs with other durations.

/// The shortest durations that the record can express.
fn quick() -> RotationPolicy {
    let times = RotationTimes {
        refresh_interval: SECOND,
        token_lifetime: 2 * SECOND,
        clock_skew: Duration::ZERO,
        propagation: Duration::ZERO,
    };
    RotationPolicy::new(times, None).unwrap()
}

fn lifetime(seconds: u32) -> RotationPolicy {
    let times = RotationTimes {
        token_lifetime: seconds * SECOND,
        ..RotationTimes::default()
    };
    RotationPolicy::new(times, None).unwrap()
}

#[test]
fn a_run_with_shorter_durations_keeps_what_another_promised() {
    let mut world = World::new();
    world.pass(100);
    let hour = lifetime(3600);
    let before = world
        .ring
        .rotate(&hour, || world.now)
        .unwrap()
        .before
        .unwrap();

    // The next key was promised 100 s, and the previous one an hour and 100 s.
    world.pass(99);
    let error = world.ring.rotate(&quick(), || world.now).unwrap_err();
    assert!(error.to_string().contains("for 1m 40s"), "{error}");
    let ring = world.ring.look(world.now).unwrap();
    assert_eq!(ring.rotation_allowed(&quick()), Some(world.now + SECOND));
    assert_eq!(ring.removal_due(&quick()), Some(world.now + 3601 * SECOND));
    for seconds in [1, 3599] {
        world.pass(seconds);
        let schedule = Schedule::new(world.ring.clone(), quick(), Duration::MAX).unwrap();
        schedule.turn(world.now).unwrap();
        assert!(world.published().contains(&before), "after {seconds}");
    }
    world.pass(1);
    assert_eq!(world.ring.retire(&quick(), || world.now).unwrap(), [before]);
}

#[test]
fn a_longer_duration_of_a_later_run_holds() {
    let mut world = World::new();
    world.pass(100);
    let before = world.rotate().unwrap().before.unwrap();
    world.pass(399);
    let hour = lifetime(3600);
    assert_eq!(world.ring.retire(&hour, || world.now).unwrap(), [""; 0]);
    world.pass(3300);
    assert_eq!(world.ring.retire(&policy(), || world.now).unwrap(), [""; 0]);
    world.pass(1);
    assert_eq!(
        world.ring.retire(&policy(), || world.now).unwrap(),
        [before]
    );
}

#[test]
fn waits_are_shortened_on_request_and_not_those_of_tokens_that_exist() {
    let mut world = World::new();
    let hour = lifetime(3600);
    world.ring.retire(&hour, || world.now).unwrap();
    let shorter = quick().shortening();
    world.pass(1);
    // The next key may sign earlier, and the one before has signed tokens of an hour.
    let first = world
        .ring
        .rotate(&shorter, || world.now)
        .unwrap()
        .before
        .unwrap();
    world.pass(1);
    let second = world
        .ring
        .rotate(&quick(), || world.now)
        .unwrap()
        .before
        .unwrap();
    world.pass(3);
    assert_eq!(world.ring.retire(&quick(), || world.now).unwrap(), [second]);
    world.pass(3695);
    assert_eq!(world.ring.retire(&quick(), || world.now).unwrap(), [""; 0]);
    world.pass(1);
    assert_eq!(world.ring.retire(&quick(), || world.now).unwrap(), [first]);
}

#[test]
fn a_record_without_durations_is_read() {
    let mut world = World::new();
    world.ring.retire(&lifetime(3600), || world.now).unwrap();
    let mut record: serde_json::Value =
        serde_json::from_slice(&fs::read(world.ring.ring_path()).unwrap()).unwrap();
    record.as_object_mut().unwrap().remove("policy").unwrap();
    for key in record["keys"].as_array_mut().unwrap() {
        key.as_object_mut().unwrap().remove("promised").unwrap();
    }
    fs::write(world.ring.ring_path(), record.to_string()).unwrap();
    assert_eq!(world.ring.differences(&policy()), [""; 0]);
    assert_eq!(world.ring.longest_token(), None);
    world.pass(100);
    world.rotate().unwrap();
    assert_eq!(world.ring.longest_token(), Some(300 * SECOND));
}

#[test]
fn what_differs_from_the_record_is_named_with_both_values() {
    let world = World::new();
    world.ring.retire(&lifetime(3600), || world.now).unwrap();
    let differences = world.ring.differences(&policy());
    assert_eq!(
        differences,
        [
            "`--token-lifetime` (KEYUTIL_TOKEN_LIFETIME) is 5m, but `ring.json` records 1h: the longer \
             value applies, until `keyutil key retire --shorten-waits` replaces it"
        ]
    );
    let retire_after = Some(7200 * SECOND);
    let longer = RotationPolicy::new(RotationTimes::default(), retire_after).unwrap();
    let differences = world.ring.differences(&longer);
    assert!(differences[1].starts_with("`--retire-after` (KEYUTIL_RETIRE_AFTER) is 2h, but `ring.json` records 1h 1m 40s: 2h applies"), "{differences:?}");
    world.ring.retire(&longer, || world.now).unwrap();
    // Its token lifetime, and what the longer wait allows.
    assert_eq!(world.ring.longest_token(), Some(7100 * SECOND));
    assert_eq!(world.ring.outlived_by(7100 * SECOND), None);
    assert!(world.ring.outlived_by(7101 * SECOND).is_some());
}
