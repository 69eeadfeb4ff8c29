//! Any sequence of steps and new leaves, each of which may be interrupted.

use std::time::Duration;

use proptest::prelude::*;

use super::world::{Action, STEPS, World};
use crate::{
    files::Operation,
    pki::{AuthorityKind, LeafOptions, Party, next_step, rotate_leaf},
};

/// What is done, after how many seconds, and after how many operations the process dies.
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
    // As many as not are finished; the longest change has 15 operations.
    let count = prop_oneof![Just(usize::MAX), 0..16_usize];
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
                // A refusal may note a time, and nothing else.
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
