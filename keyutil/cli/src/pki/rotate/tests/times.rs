//! Waits, lifetimes and names.

use std::{
    fs,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::world::{STEPS, World};
use crate::pki::{
    AuthorityKind, BACK_DATED, InitOptions, LeafOptions, Party, RotateError, RotationStep,
    bundle::Bundle, init, next_step, rotate_authority, rotate_leaf,
};
use keyutil::x509::certificate::CertificateSummary;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn too_early_is_refused_to_the_second_and_changes_nothing() {
    for kind in AuthorityKind::ALL {
        let mut world = World::new();
        world.step(kind, RotationStep::Trust).unwrap();
        for step in [RotationStep::Reissue, RotationStep::Retire] {
            let (done, before) = (world.now, world.files());
            let wait = world.options.wait();
            for left in [wait, wait / 2, SECOND, Duration::from_nanos(1)] {
                world.now = done + wait - left;
                let next = next_step(&world.layout, kind, &world.options, world.now).unwrap();
                assert_eq!((next.step, next.due), (step, done + wait));
                assert_eq!(next.since, Some(done));
                let error = world.step(kind, step).unwrap_err();
                assert!(error.is_too_early());
                assert_eq!(error.left(), Some(left), "{error}");
                assert_eq!(world.files(), before);
            }
            world.now = done + wait;
            world.step(kind, step).unwrap();
        }
    }
}

#[test]
fn where_no_time_is_known_the_wait_counts_from_now() {
    let (kind, mut world) = (AuthorityKind::Clients, World::new());
    let record = world.layout.rotation_record();
    world.step(kind, RotationStep::Trust).unwrap();
    let times = |text: &str, time: SystemTime| {
        let entry = fs::read_to_string(&record).unwrap();
        let time = humantime::format_rfc3339(time).to_string();
        let since = entry.lines().find(|line| line.contains("since")).unwrap();
        let line = format!("\"since\": \"{time}\",");
        fs::write(&record, text.replace("ENTRY", &entry.replace(since, &line))).unwrap();
    };
    let valid = fs::read_to_string(&record).unwrap();
    for spoil in [
        &(|world: &World| fs::remove_file(world.layout.rotation_record()).unwrap())
            as &dyn Fn(&World),
        &|_| fs::write(&record, "{").unwrap(),
        &|_| fs::write(&record, valid.replace("\"trust\"", "\"reissue\"")).unwrap(),
        &|_| fs::write(&record, valid.replace("\"serial\": \"", "\"serial\": \"0")).unwrap(),
        &|_| fs::write(&record, valid.replace("\"since\": \"", "\"since\": \"x")).unwrap(),
        // The clock was set back.
        &|world| times("ENTRY", world.now + Duration::from_secs(3600)),
    ] {
        world.wait();
        spoil(&world);
        let error = world.step(kind, RotationStep::Reissue).unwrap_err();
        assert_eq!(error.left(), Some(world.options.wait()));
        world.now += world.options.wait() - SECOND;
        let error = world.step(kind, RotationStep::Reissue).unwrap_err();
        assert_eq!(
            error.left(),
            Some(SECOND),
            "it was noted when it counts from"
        );
    }
    world.now += SECOND;
    world.step(kind, RotationStep::Reissue).unwrap();
}

#[test]
fn a_run_with_a_clock_that_is_behind_shortens_no_wait() {
    let (kind, mut world) = (AuthorityKind::Clients, World::new());
    world.step(kind, RotationStep::Trust).unwrap();
    let right = world.now;
    // A CA is valid from five minutes before it was made.
    for behind in [120, 180, 240] {
        world.now = right - behind * SECOND;
        let error = world.step(kind, RotationStep::Reissue).unwrap_err();
        assert!(error.is_too_early(), "{error}");
    }
    world.now = right;
    let error = world.step(kind, RotationStep::Reissue).unwrap_err();
    assert_eq!(error.left(), Some(world.options.wait()));

    // What is done by a clock that is behind does not count as done long ago either.
    world.now = right - 240 * SECOND;
    world.wait();
    world.step(kind, RotationStep::Reissue).unwrap();
    world.now = right + SECOND;
    let error = world.step(kind, RotationStep::Retire).unwrap_err();
    assert_eq!(error.left(), Some(world.options.wait() - SECOND));
    world.wait();
    world.step(kind, RotationStep::Retire).unwrap();
}

#[test]
fn the_internode_ca_waits_for_a_restart() {
    let (kind, mut world) = (AuthorityKind::Internode, World::new());
    world.step(kind, RotationStep::Trust).unwrap();
    world.wait();
    world.options.servers_restarted = false;
    let before = world.files();

    let error = world.step(kind, RotationStep::Reissue).unwrap_err();
    assert!(error.is_too_early() && error.left().is_none());
    assert!(error.hint().unwrap().contains("restart"), "{error}");
    assert_eq!(world.files(), before);

    world.options.servers_restarted = true;
    world.step(kind, RotationStep::Reissue).unwrap();
}

#[test]
fn a_step_that_is_done_is_left_as_it_is_and_one_that_is_out_of_order_is_refused() {
    let (kind, mut world) = (AuthorityKind::Frontend, World::new());
    for (number, step) in STEPS.into_iter().enumerate() {
        world.step_in_time(kind, step);
        world.wait();
        let before = world.files();
        let again = rotate_authority(&world.layout, kind, step, &world.options, || world.now);
        assert!(again.unwrap().already, "{step}");
        for other in STEPS {
            // The next one, and after the last one the first.
            let in_order = other == step || other == STEPS[(number + 1) % 3];
            if !in_order {
                let error = world.step(kind, other).unwrap_err();
                let out_of_order = matches!(error, RotateError::OutOfOrder { .. });
                assert!(out_of_order, "{other} after {step}: {error}");
            }
        }
        assert_eq!(world.files(), before);
    }
}

#[test]
fn names_and_lifetime_are_kept() {
    let mut world = World::empty();
    let lifetime = Duration::from_secs(36 * 3600);
    init(&InitOptions {
        leaf_lifetime: lifetime,
        frontend_names: ["temporal", "*.example.com", "10.1.2.3", "fd00::1"]
            .map(str::to_owned)
            .into(),
        internode_names: vec!["cluster.example.com".to_owned()],
        ..InitOptions::new(world.dir())
    })
    .unwrap();
    let names = |certificate: &CertificateSummary| {
        (
            certificate.dns_names.clone(),
            certificate.ip_addresses.clone(),
        )
    };
    let whole = |certificate: &CertificateSummary| {
        let span = certificate.not_after.duration_since(certificate.not_before);
        span.unwrap() - BACK_DATED
    };
    for party in Party::ALL {
        let path = world.layout.party(party).certificate;
        let read = || Bundle::read(&path).unwrap().first().summary().clone();
        let before = read();
        let options = LeafOptions::default();
        let rotated = rotate_leaf(&world.layout, party, &options, || world.now).unwrap();
        assert_eq!(rotated.old.as_ref(), Some(&before));
        assert_eq!(rotated.new, read());
        for rotate_again in [false, true] {
            if rotate_again {
                world.complete(party.issued_by());
            }
            let after = read();
            assert_ne!(after.serial, before.serial);
            assert_eq!(after.subject, before.subject);
            assert_eq!(names(&after), names(&before), "{party:?}");
            assert_eq!(after.usages, before.usages);
            assert_eq!(whole(&after), lifetime, "{party:?}");
        }
    }

    let options = LeafOptions {
        lifetime: Some(lifetime * 2),
    };
    let rotated = rotate_leaf(&world.layout, Party::Worker, &options, || world.now).unwrap();
    assert_eq!(whole(&rotated.new), lifetime * 2);
}

#[test]
fn no_leaf_outlives_its_ca_and_none_is_made_by_a_ca_that_has_expired() {
    let mut world = World::new();
    world.options.lifetime = Duration::from_secs(3600);
    world
        .step(AuthorityKind::Clients, RotationStep::Trust)
        .unwrap();
    world.wait();
    let options = &world.options;
    let kind = AuthorityKind::Clients;
    let done = rotate_authority(&world.layout, kind, RotationStep::Reissue, options, || {
        world.now
    })
    .unwrap();
    assert_eq!(done.leaves.len(), kind.holders().count());
    for leaf in done.leaves {
        assert!(leaf.capped);
        assert_eq!(leaf.new.not_after, done.new.not_after);
    }

    world.now += Duration::from_secs(3600);
    let before = world.files();
    let options = LeafOptions::default();
    let error = rotate_leaf(&world.layout, Party::Worker, &options, || world.now).unwrap_err();
    assert!(matches!(error, RotateError::Expired { .. }), "{error}");
    assert_eq!(world.files(), before);
}

#[test]
fn a_lifetime_that_no_certificate_can_have_is_a_usage_error() {
    let world = World::new();
    let before = world.files();
    for lifetime in [Duration::ZERO, Duration::MAX] {
        let options = LeafOptions {
            lifetime: Some(lifetime),
        };
        let error = rotate_leaf(&world.layout, Party::Admin, &options, || world.now).unwrap_err();
        assert!(error.is_usage(), "{error}");
        let mut options = world.options;
        options.lifetime = lifetime;
        let kind = AuthorityKind::Clients;
        let error = rotate_authority(&world.layout, kind, RotationStep::Trust, &options, || {
            world.now
        });
        assert!(error.unwrap_err().is_usage());
    }
    assert_eq!(world.files(), before);
    // A clock that is far off.
    let options = LeafOptions::default();
    let error = rotate_leaf(&world.layout, Party::Admin, &options, || UNIX_EPOCH).unwrap_err();
    assert!(matches!(error, RotateError::NotYetValid { .. }), "{error}");
}

#[test]
fn a_ca_that_is_not_valid_yet_makes_nothing_and_the_old_key_stays() {
    let mut world = World::new();
    let today = world.now;
    world.now += Duration::from_secs(2 * 24 * 3600);
    world
        .step(AuthorityKind::Clients, RotationStep::Trust)
        .unwrap();
    // The clock was wrong, and is set right. The time of the step says nothing then.
    world.now = today;
    let _ = world.step(AuthorityKind::Clients, RotationStep::Reissue);
    world.wait();
    let before = world.files();

    let error = world
        .step(AuthorityKind::Clients, RotationStep::Reissue)
        .unwrap_err();

    assert!(matches!(error, RotateError::NotYetValid { .. }), "{error}");
    assert_eq!(world.files(), before);
}

#[test]
fn absurd_waits_do_no_harm() {
    let mut world = World::new();
    world.options.refresh_interval = Duration::MAX;
    world.options.propagation = Duration::MAX;
    let kind = AuthorityKind::Clients;
    world.step(kind, RotationStep::Trust).unwrap();
    let error = world.step(kind, RotationStep::Reissue).unwrap_err();
    assert!(error.to_string().contains("left"), "{error}");
    next_step(&world.layout, kind, &world.options, world.now).unwrap();
}
