//! Files that are missing, half or garbage; parties on other machines; several runs at once.

use std::{collections::HashSet, fs, thread};

use super::world::{STEPS, World};
use crate::pki::{
    AuthorityKind, Layout, LeafOptions, Party, RotateError, RotationStep, list, rotate_authority,
    rotate_leaf,
};
use keyutil::base::chain;

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
        // Whose CA is whole is not concerned.
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

    world.now += std::time::Duration::from_secs(3660 * 24 * 3600);
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
