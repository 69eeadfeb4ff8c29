//! Each step of each CA, and each leaf, ended after each of its operations; missing, truncated and
//! garbled files; concurrent runs; and any sequence of all that.

use std::{collections::HashSet, fs, path::PathBuf, thread, time::Duration};

use proptest::prelude::*;

use super::{Action, STEPS, World};
use crate::{
    files::Operation,
    pki::{
        AuthorityKind, Existing, InitOptions, Layout, LeafOptions, Party, RotateError,
        RotationStep, bundle::Bundle, init, list, next_step, rotate_authority, rotate_leaf,
    },
};
use keyutil::base::chain;

fn ends_well_wherever_it_was_interrupted(kind: AuthorityKind) {
    let mut world = World::new();
    for step in STEPS {
        let old_key = world.authority_key(kind);
        let before = (world.files(), world.now);
        let (change, in_order) = world.plan(Action::Step(kind, step));
        assert!(in_order, "{step}");
        for count in 0..=change.operations().len() {
            world.restore(&before.0);
            world.now = before.1;
            let (change, _) = world.plan(Action::Step(kind, step));
            world.die_after(&change, count);
            let kept = init(&InitOptions {
                existing: Existing::Keep,
                ..InitOptions::new(world.dir())
            });
            assert_eq!(kept.unwrap().files, [], "after {count} of {step}");

            world.step(kind, step).unwrap();
            world.check();
            if step == RotationStep::Reissue {
                assert!(!world.is_on_disk(&old_key), "after {count} of {step}");
            }
            if step != RotationStep::Retire {
                world.complete(kind);
            }
            world.check_clean(kind);
        }
        world.restore(&before.0);
        world.now = before.1;
        world.step(kind, step).unwrap();
        world.wait();
    }
    world.check_clean(kind);
}

#[test]
fn a_client_ca_ends_well_wherever_it_was_interrupted() {
    ends_well_wherever_it_was_interrupted(AuthorityKind::Clients);
}

#[test]
fn a_frontend_ca_ends_well_wherever_it_was_interrupted() {
    ends_well_wherever_it_was_interrupted(AuthorityKind::Frontend);
}

#[test]
fn an_internode_ca_ends_well_wherever_it_was_interrupted() {
    ends_well_wherever_it_was_interrupted(AuthorityKind::Internode);
}

#[test]
fn the_whole_run_goes_on_wherever_it_was_interrupted() {
    // Without `--step` only the files say which step it was.
    let kind = AuthorityKind::Clients;
    let mut world = World::new();
    for step in STEPS {
        let before = (world.files(), world.now);
        let operations = world.plan(Action::Step(kind, step)).0.operations().len();
        // After the last operation of the last step a new rotation would begin.
        let last = operations - usize::from(step == RotationStep::Retire);
        for count in 1..=last {
            world.restore(&before.0);
            world.now = before.1;
            let (change, _) = world.plan(Action::Step(kind, step));
            world.die_after(&change, count);
            world.complete(kind);
            world.check_clean(kind);
        }
        world.restore(&before.0);
        world.now = before.1;
        world.step(kind, step).unwrap();
        world.wait();
    }
}

#[test]
fn a_leaf_ends_well_wherever_it_was_interrupted() {
    for party in Party::ALL {
        let world = World::new();
        let before = (world.files(), world.leaf(party));
        let (change, in_order) = world.plan(Action::Leaf(party));
        assert!(in_order && change.operations().len() == 4);
        for count in 0..=4 {
            world.restore(&before.0);
            let (change, _) = world.plan(Action::Leaf(party));
            world.die_after(&change, count);
            world.check_clean(party.issued_by());
            // From the first rename on it is the new pair.
            let is_new = world.leaf(party) != before.1;
            assert_eq!(is_new, count >= 3, "after {count} operations");
        }
    }
}

#[test]
fn what_is_staged_and_belongs_to_no_switch_is_removed() {
    let world = World::new();
    let before = (world.files(), world.leaf(Party::Worker));
    let staged = world
        .layout
        .party_folder(Party::Worker)
        .join(".new-tls.crt");
    for content in [
        &before.0[&PathBuf::from("starter/tls.crt")],
        &b"garbage".to_vec(),
    ] {
        fs::write(&staged, content).unwrap();
        let listing = list(&world.layout, &world.options, world.now).unwrap();
        assert_eq!(listing.problems, [""; 0]);
        assert_eq!(world.files(), before.0);
    }
}

#[test]
fn the_server_sees_another_first_ca_at_each_step() {
    for kind in AuthorityKind::ALL {
        let mut world = World::new();
        let first = |world: &World| -> Vec<_> {
            let files = kind
                .verifiers()
                .map(|party| world.layout.party(party).trust);
            let bundles = files.map(|path| Bundle::read(&path).unwrap());
            bundles.map(|bundle| bundle.first().clone()).collect()
        };
        for step in STEPS {
            let before = first(&world);
            world.step_in_time(kind, step);
            let pairs = before.into_iter().zip(first(&world));
            for (before, after) in pairs {
                assert_ne!(before, after, "{kind:?} {step}");
            }
        }
    }
}

const KIND: AuthorityKind = AuthorityKind::Clients;

#[test]
fn a_broken_ca_is_named_and_nothing_is_changed() {
    let world = World::new();
    let whole = world.files();
    let [certificate, key, other_key] =
        ["clients.crt", "clients.key", "frontend.key"].map(|name| &whole[&world_path(name)]);
    let garbage: &Vec<u8> = &b"\x00\xffgarbage".to_vec();
    let half = &certificate[..certificate.len() / 2].to_vec();
    for (name, content) in [
        ("clients.crt", None),
        ("clients.key", None),
        ("clients.crt", Some(garbage)),
        ("clients.key", Some(garbage)),
        ("clients.crt", Some(half)),
        ("clients.crt", Some(key)),
        ("clients.key", Some(certificate)),
        ("clients.key", Some(other_key)),
        ("clients-next.crt", Some(certificate)),
        ("clients-next.crt", Some(garbage)),
        ("clients-previous.crt", Some(garbage)),
    ] {
        world.restore(&whole);
        let path = world.layout.authorities().join(name);
        match content {
            Some(content) => fs::write(&path, content).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let before = world.files();
        let named = name.trim_end_matches(".crt").trim_end_matches(".key");
        for step in STEPS {
            let error = world.step(KIND, step).unwrap_err();
            assert!(chain(&error).contains(named), "{name}: {}", chain(&error));
        }
        let options = LeafOptions::default();
        rotate_leaf(&world.layout, Party::Worker, &options, || world.now).unwrap_err();
        // A party whose CA is intact is not affected.
        let frontend = AuthorityKind::Frontend;
        assert_eq!(world.files(), before, "{name}");
        world.step(frontend, RotationStep::Trust).unwrap();
        let listing = list(&world.layout, &world.options, world.now).unwrap();
        let told = listing.problems.join("\n");
        assert!(told.contains(named), "{name}: {told}");
    }
}

#[test]
fn a_folder_without_cas_is_refused_and_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::new(&folder.path().join("elsewhere"));
    let now = std::time::SystemTime::now();
    let world = World::empty();
    for error in [
        rotate_leaf(&layout, Party::Worker, &LeafOptions::default(), || now).unwrap_err(),
        rotate_authority(&layout, KIND, RotationStep::Trust, &world.options, || now).unwrap_err(),
        list(&layout, &world.options, now).unwrap_err(),
    ] {
        assert!(error.to_string().contains("elsewhere"), "{error}");
        assert!(error.hint().unwrap().contains("keyutil pki init"));
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn parties_on_other_machines_are_left_out() {
    let mut world = World::new();
    fs::remove_dir_all(world.layout.party_folder(Party::Starter)).unwrap();
    let options = LeafOptions::default();
    let error = rotate_leaf(&world.layout, Party::Starter, &options, || world.now).unwrap_err();
    assert!(matches!(error, RotateError::NoParty { .. }), "{error}");
    for kind in [AuthorityKind::Clients, AuthorityKind::Frontend] {
        for step in STEPS {
            let done = rotate_authority(&world.layout, kind, step, &world.options, || world.now);
            assert_eq!(done.unwrap().absent, [Party::Starter]);
            world.wait();
        }
    }
    assert!(!world.layout.party_folder(Party::Starter).exists());
}

#[test]
fn an_old_certificate_that_came_back_stops_the_last_step() {
    let mut world = World::new();
    let files = world.layout.party(Party::Worker);
    let old = [&files.certificate, &files.key].map(|path| fs::read(path).unwrap());
    world.step_in_time(KIND, RotationStep::Trust);
    world.step_in_time(KIND, RotationStep::Reissue);
    world.wait();
    let new = fs::read(&files.certificate).unwrap();
    for content in [&old[0], &b"garbage".to_vec()] {
        fs::write(&files.certificate, content).unwrap();
        let before = world.files();
        let error = world.step(KIND, RotationStep::Retire).unwrap_err();
        assert!(matches!(error, RotateError::NotReissued { .. }), "{error}");
        assert_eq!(world.files(), before);
    }
    let options = LeafOptions::default();
    rotate_leaf(&world.layout, Party::Worker, &options, || world.now).unwrap();
    world.step(KIND, RotationStep::Retire).unwrap();
    world.check_clean(KIND);
    assert_ne!(fs::read(&files.certificate).unwrap(), new);
}

#[test]
fn who_does_not_trust_the_new_ca_stops_the_step_before_it_matters() {
    let mut world = World::new();
    let path = world.layout.party(Party::Frontend).trust;
    let old = fs::read(&path).unwrap();
    world.step(KIND, RotationStep::Trust).unwrap();
    world.wait();
    fs::write(&path, &old).unwrap();
    let before = world.files();
    let error = world.step(KIND, RotationStep::Reissue).unwrap_err();
    assert!(matches!(error, RotateError::NotTrusted { .. }), "{error}");
    assert_eq!(world.files(), before);

    world.complete(KIND);
    world.check_clean(KIND);
}

#[test]
fn a_broken_or_missing_leaf_is_made_anew() {
    let mut world = World::new();
    let [worker, starter, admin] =
        [Party::Worker, Party::Starter, Party::Admin].map(|party| world.layout.party(party));
    fs::write(worker.certificate, "garbage").unwrap();
    fs::write(starter.key, "garbage").unwrap();
    fs::remove_file(admin.certificate).unwrap();
    let listing = list(&world.layout, &world.options, world.now).unwrap();
    for party in ["worker:", "starter:", "admin:"] {
        let told = listing.problems.iter().any(|said| said.starts_with(party));
        assert!(told, "{party} {:?}", listing.problems);
    }
    world.complete(KIND);
    world.check_clean(KIND);
    let listing = list(&world.layout, &world.options, world.now).unwrap();
    assert!(listing.problems.is_empty(), "{:?}", listing.problems);
}

#[test]
fn several_at_once_wait_for_each_other() {
    let world = World::new();
    let (layout, options, now) = (&world.layout, &world.options, world.now);
    let serials: HashSet<_> = thread::scope(|scope| {
        let trusting: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(move || {
                    rotate_leaf(layout, Party::Worker, &LeafOptions::default(), || now).unwrap();
                    let done = rotate_authority(layout, KIND, RotationStep::Trust, options, || now)
                        .unwrap();
                    done.new.serial
                })
            })
            .collect();
        trusting
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(serials.len(), 1, "one rotation");
    world.check();
}

#[test]
fn what_expires_and_what_is_not_trusted_is_listed() {
    let mut world = World::new();
    let listing = list(&world.layout, &world.options, world.now).unwrap();
    assert!(listing.problems.is_empty(), "{:?}", listing.problems);
    assert_eq!(
        (listing.authorities.len(), listing.leaves.len()),
        (3, Party::ALL.len())
    );

    let trust = world.layout.party(Party::Frontend).trust;
    fs::copy(world.layout.party(Party::Worker).trust, &trust).unwrap();
    let listing = list(&world.layout, &world.options, world.now).unwrap();
    let told = listing.problems.join("\n");
    assert!(told.contains("which frontend does not trust"), "{told}");

    world.now += Duration::from_secs(85 * 24 * 3600);
    let listing = list(&world.layout, &world.options, world.now).unwrap();
    let told = listing.problems.join("\n");
    assert!(told.contains("worker: less than a tenth"), "{told}");
    assert!(!told.contains("CA: less than"), "{told}");

    world.now += Duration::from_secs(3660 * 24 * 3600);
    let listing = list(&world.layout, &world.options, world.now).unwrap();
    let told = listing.problems.join("\n");
    assert!(
        told.contains("worker: the certificate with serial"),
        "{told}"
    );
    assert!(
        told.contains("internode CA: the certificate with serial"),
        "{told}"
    );
}

fn world_path(name: &str) -> std::path::PathBuf {
    ["ca", name].iter().collect()
}

/// An action, the seconds after which it is done, and the number of operations after which the
/// process dies.
type Event = (Action, u64, usize);

fn actions() -> impl Strategy<Value = Action> {
    let party = prop::sample::select(&Party::ALL[..]);
    let kind = prop::sample::select(&AuthorityKind::ALL[..]);
    let step = prop::sample::select(&STEPS[..]);
    prop_oneof![
        1 => party.prop_map(Action::Leaf),
        3 => (kind, step).prop_map(|(kind, step)| Action::Step(kind, step)),
    ]
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    // Half of the changes are not interrupted; the longest has 23 operations.
    let count = prop_oneof![Just(usize::MAX), 0..24_usize];
    prop::collection::vec((actions(), 0..150_u64, count), 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_done_and_interrupted_ends_well(events in events()) {
        let mut world = World::new();
        for (action, seconds, count) in events {
            world.now += Duration::from_secs(seconds);
            let (change, in_order) = world.plan(action);
            let count = count.min(change.operations().len());
            world.die_after(&change, count);
            if !in_order {
                // A refused step may record a time, and nothing else.
                let record = world.layout.rotation_record();
                let is_note = |operation: &Operation| matches!(operation,
                    Operation::Replace { path, .. } if *path == record);
                prop_assert!(change.operations().iter().all(is_note));
            }
        }
        for kind in AuthorityKind::ALL {
            let next = next_step(&world.layout, kind, &world.options, world.now).unwrap();
            for party in kind.holders() {
                rotate_leaf(&world.layout, party, &LeafOptions::default(), || world.now).unwrap();
                world.check();
            }
            // A key without a certificate is what the very first operation leaves behind.
            if next.is_under_way() || world.layout.next_authority(kind).key.exists() {
                world.complete(kind);
            }
            world.check_clean(kind);
        }
    }
}
