//! Each step of each CA, and each leaf, ended after each of its operations.

use super::world::{Action, STEPS, World};
use crate::pki::{AuthorityKind, Existing, InitOptions, Party, RotationStep, bundle::Bundle, init};

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
    // Without `--step`, the files alone say which step it was.
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
        let (change, in_order) = world.plan(Action::Leaf(party));
        assert!(in_order && change.operations().len() == 2);
        world.die_after(&change, 1);
        let (change, in_order) = world.plan(Action::Leaf(party));
        assert!(in_order);
        world.die_after(&change, 2);
        world.check_clean(party.issued_by());
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
