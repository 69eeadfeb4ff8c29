//! The folder of the signing keys, with any of its files spoilt.

use std::{
    fs,
    path::Path,
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use keyutil_cli::keys::{
    Jwks,
    keyring::{Keyring, KeyringError, RotationPolicy, RotationTimes, Schedule, read_signing_key},
};
use proptest::prelude::*;

use super::{
    check::{Files, Secrets, cases, files, soon_with_files, told, write},
    mutation::{Input, Sample, inputs},
    samples::secrets_of,
};

const NAMES: [&str; 4] = ["ring.json", "jwks.json", "active/current.pem", "next.pem"];

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A ring that was rotated yesterday.
static GOOD: LazyLock<Files> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let ring = Keyring::at(folder.path());
    let now = SystemTime::now();
    ring.generate(false, || now - 2 * DAY).unwrap();
    ring.rotate(&policy(), || now - DAY).unwrap();
    files(folder.path())
});

static SAMPLES: LazyLock<Vec<Sample>> = LazyLock::new(|| {
    let text = |name: &str| GOOD[Path::new(name)].clone();
    let sample = |name| Sample {
        name,
        text: text(name),
    };
    NAMES.map(sample).to_vec()
});

static SECRETS: LazyLock<Secrets> =
    LazyLock::new(|| Secrets::new(SAMPLES.iter().flat_map(|sample| secrets_of(&sample.text))));

fn policy() -> RotationPolicy {
    RotationPolicy::new(RotationTimes::default(), None).unwrap()
}

/// Which file is spoilt, and what stands there then: any of the samples, or nothing.
fn spoilt() -> impl Strategy<Value = (&'static str, Option<Input>)> {
    let kept = (0..SAMPLES.len()).prop_flat_map(|which| {
        (
            Just(NAMES[which]),
            inputs(&SAMPLES[which..=which]).prop_map(Some),
        )
    });
    let mixed_up = (
        prop::sample::select(&NAMES[..]),
        prop::option::of(inputs(&SAMPLES)),
    );
    prop_oneof![4 => kept, 1 => mixed_up]
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Refresh,
    Rotate,
    Emergency,
    Retire,
    Generate(bool),
    Turn,
    Read,
}

fn actions() -> impl Strategy<Value = Action> {
    use Action::*;
    prop::sample::select(
        &[
            Refresh,
            Rotate,
            Emergency,
            Retire,
            Generate(false),
            Generate(true),
            Turn,
            Read,
        ][..],
    )
}

impl Action {
    fn run(self, ring: &Keyring, now: SystemTime) -> (String, Option<KeyringError>) {
        let clock = || now;
        match self {
            Self::Refresh => both(ring.look(now)),
            Self::Rotate => both(ring.rotate(&policy(), clock)),
            Self::Emergency => both(ring.rotate_in_emergency(None, clock)),
            Self::Retire => both(ring.retire(&policy(), clock)),
            Self::Generate(replace) => both(ring.generate(replace, clock)),
            Self::Turn => both(
                Schedule::new(ring.clone(), policy(), DAY)
                    .unwrap()
                    .turn(now),
            ),
            Self::Read => both(
                ring.jwks()
                    .map(|_| ())
                    .and_then(|()| read_signing_key(&ring.next_path())),
            ),
        }
    }
}

fn both<T: std::fmt::Debug>(result: Result<T, KeyringError>) -> (String, Option<KeyringError>) {
    (told(&result), result.err())
}

proptest! {
    #![proptest_config(cases(250))]

    #[test]
    fn a_spoilt_ring(spoilt in prop::collection::vec(spoilt(), 1..3), actions in prop::collection::vec(actions(), 1..4), days in 0..3_u32) {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &GOOD);
        for (name, content) in &spoilt {
            let path = folder.path().join(name);
            match content {
                Some(content) => fs::write(path, &content.text).unwrap(),
                None => _ = fs::remove_file(path),
            }
        }
        let ring = Keyring::at(folder.path());
        let now = SystemTime::now() + days * DAY;
        for action in actions {
            let before = files(folder.path());
            let (told, error) = soon_with_files(&spoilt, || action.run(&ring, now));
            SECRETS.check(&told);
            let after = files(folder.path());
            let refused = error.as_ref().is_some_and(|error| !error.is_too_early());
            if refused && !matches!(action, Action::Turn) {
                prop_assert!(before == after, "{action:?} was refused and changed something: {told}");
            }
            if matches!(action, Action::Refresh | Action::Read) {
                prop_assert!(before == after, "{action:?} changed something");
            }
            let written = |name: &str| {
                let name = Path::new(name);
                (after.get(name) != before.get(name)).then(|| after.get(name)).flatten()
            };
            if let Some(document) = written("jwks.json") {
                let published = Jwks::parse(document).unwrap();
                let signs = read_signing_key(&ring.current_path());
                if let Ok(signs) = signs {
                    prop_assert!(published.kids().iter().any(|kid| kid == signs.kid()), "what signs is published");
                }
            }
            if let Some(record) = written("ring.json") {
                SECRETS.check(&String::from_utf8_lossy(record));
                ring.look(now).unwrap();
            }
        }
    }
}
