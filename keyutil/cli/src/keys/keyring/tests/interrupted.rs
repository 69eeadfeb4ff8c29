//! A process that rotates dies between any two of its file operations, at any time, again and
//! again. What is promised of the keys holds in every state that it leaves.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::files::Change;

/// What is done to a ring.
#[derive(Clone, Copy, Debug)]
enum Act {
    Rotate,
    Retire,
    Emergency,
    Regenerate,
}

/// One of them, after some seconds, and after how many operations its process dies.
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
            Ok(rotate::rotate(ring, &found, Rotation::Emergency, now)?.change)
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

/// The files as they were from some moment on.
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

/// Runs one act, and looks at the files after each of its operations.
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

/// Whatever signs is published, at every moment.
fn what_signs_is_published(history: &[Moment]) {
    for moment in history {
        assert!(moment.published.contains(&moment.signs), "{moment:?}");
    }
}

/// For each key that signed from `begun` until `ended`: every document that any server may have in
/// use, from the first token that it signed until the last one has expired, has it.
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

/// What is left of an interrupted run is put in order by the next ones.
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
    let left = fs::read_dir(world.ring.current_path().parent().unwrap()).unwrap();
    assert_eq!(left.count(), 5, "four files and a lock");
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
    // Servers have known the ring for long when it begins.
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
    // The next key signs already, and nothing else is written.
    change(&world, Act::Rotate).unwrap().apply_first(2).unwrap();
    let signs = world.signs();

    let error = world.ring.rotate_in_emergency(|| world.now).unwrap_err();

    assert!(
        matches!(error, KeyringError::FinishedFirst { .. }),
        "{error}"
    );
    assert_eq!(world.signs(), signs);
    let dropped = world
        .ring
        .rotate_in_emergency(|| world.now)
        .unwrap()
        .removed;
    assert_eq!(dropped, [signs]);
}
