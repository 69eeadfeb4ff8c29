//! The folder of the certificates, with any of its files spoilt.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use keyutil_cli::pki::{
    AuthorityKind, AuthorityOptions, InitOptions, Layout, LeafOptions, Party, RotateError,
    RotationStep, init, list, next_step, rotate_authority, rotate_leaf,
};
use proptest::{prelude::*, sample::Index};

use super::{
    check::{Files, Secrets, cases, files, soon_with_files, told, write},
    mutation::{Input, Sample, inputs},
    samples::secrets_of,
};

const KIND: AuthorityKind = AuthorityKind::Clients;

/// Before a rotation of the CA of clients, and after its first and second step.
static GOOD: LazyLock<[Files; 3]> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::new(folder.path());
    init(&InitOptions::new(folder.path())).unwrap();
    let idle = files(folder.path());
    let now = SystemTime::now();
    rotate_authority(&layout, KIND, RotationStep::Trust, &options(), || now).unwrap();
    let begun = files(folder.path());
    let later = now + options().wait();
    rotate_authority(&layout, KIND, RotationStep::Reissue, &options(), || later).unwrap();
    [idle, begun, files(folder.path())]
});

/// Each file of all three. The name is for the reader; which file it is, the index says.
static SAMPLES: LazyLock<Vec<(PathBuf, Sample)>> = LazyLock::new(|| {
    let all = GOOD.iter().flatten();
    let sample = |(path, text): (&PathBuf, &Vec<u8>)| {
        let text = text.clone();
        (path.clone(), Sample { name: "file", text })
    };
    all.map(sample).collect()
});

static TEXTS: LazyLock<Vec<Sample>> =
    LazyLock::new(|| SAMPLES.iter().map(|(_, sample)| sample.clone()).collect());

static SECRETS: LazyLock<Secrets> =
    LazyLock::new(|| Secrets::new(TEXTS.iter().flat_map(|sample| secrets_of(&sample.text))));

fn options() -> AuthorityOptions {
    AuthorityOptions {
        servers_restarted: true,
        ..AuthorityOptions::default()
    }
}

/// Mostly a file of the CA that is rotated, spoilt; sometimes another, or what is of another file.
fn spoilt() -> impl Strategy<Value = (PathBuf, Option<Input>)> {
    let count = SAMPLES.len();
    let concerns = |path: &Path| {
        let path = path.to_string_lossy();
        [
            "ca/clients",
            "rotation.json",
            "worker",
            "frontend/client-ca",
        ]
        .iter()
        .any(|part| path.contains(part))
    };
    let concerned: Vec<_> = (0..count)
        .filter(|which| concerns(&SAMPLES[*which].0))
        .collect();
    let kept = prop::sample::select(concerned).prop_flat_map(|which| {
        (
            Just(SAMPLES[which].0.clone()),
            inputs(&TEXTS[which..=which]).prop_map(Some),
        )
    });
    let mixed_up = (any::<Index>(), prop::option::of(inputs(&TEXTS)));
    let mixed_up = mixed_up.prop_map(|(at, input)| (at.get(&SAMPLES).0.clone(), input));
    prop_oneof![4 => kept, 1 => mixed_up]
}

#[derive(Clone, Copy, Debug)]
enum Action {
    List,
    Next,
    Leaf(Party),
    Step(RotationStep),
}

fn actions() -> impl Strategy<Value = Action> {
    let steps = prop::sample::select(
        &[
            RotationStep::Trust,
            RotationStep::Reissue,
            RotationStep::Retire,
        ][..],
    );
    let parties = prop::sample::select(&[Party::Worker, Party::Frontend][..]);
    prop_oneof![
        2 => Just(Action::List),
        1 => Just(Action::Next),
        2 => parties.prop_map(Action::Leaf),
        4 => steps.prop_map(Action::Step),
    ]
}

impl Action {
    fn run(self, layout: &Layout, now: SystemTime) -> (String, Option<RotateError>) {
        let clock = || now;
        match self {
            Self::List => both(list(layout, &options(), now)),
            Self::Next => both(next_step(layout, KIND, &options(), now)),
            Self::Leaf(party) => both(rotate_leaf(layout, party, &LeafOptions::default(), clock)),
            Self::Step(step) => both(rotate_authority(layout, KIND, step, &options(), clock)),
        }
    }
}

fn both<T: std::fmt::Debug>(result: Result<T, RotateError>) -> (String, Option<RotateError>) {
    (told(&result), result.err())
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn a_spoilt_pki(
        stage in 0..3_usize,
        spoilt in prop::collection::vec(spoilt(), 1..3),
        actions in prop::collection::vec(actions(), 1..4),
        minutes in 0..4_u32,
    ) {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &GOOD[stage]);
        for (name, content) in &spoilt {
            let path = folder.path().join(name);
            match content {
                Some(content) => fs::write(path, &content.text).unwrap(),
                None => _ = fs::remove_file(path),
            }
        }
        let layout = Layout::new(folder.path());
        let record = PathBuf::from("ca/rotation.json");
        let now = SystemTime::now() + minutes * Duration::from_secs(60);
        for action in actions {
            let mut before = files(folder.path());
            let (told, error) = soon_with_files(&spoilt, || action.run(&layout, now));
            SECRETS.check(&told);
            let mut after = files(folder.path());
            for (path, content) in &after {
                let public = path.extension().is_some_and(|end| end == "crt" || end == "json");
                if public && before.get(path) != Some(content) {
                    prop_assert!(!SECRETS.are_in(content), "{action:?} wrote a key to {path:?}");
                }
            }
            if let Some(error) = error {
                // It may note when the wait began.
                if error.is_too_early() {
                    before.remove(&record);
                    after.remove(&record);
                }
                prop_assert!(before == after, "{action:?} was refused and changed something: {told}");
            }
            if matches!(action, Action::List | Action::Next) {
                prop_assert!(before == after, "{action:?} changed something");
            }
        }
    }
}
