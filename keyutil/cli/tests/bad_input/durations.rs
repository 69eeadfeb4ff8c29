//! Durations of any length, and the bounds of those that flags take.

use std::time::{Duration, SystemTime};

use keyutil::token::claims::renew_at;
use keyutil_cli::{
    keys::keyring::{Keyring, RotationPolicy, RotationTimes, Schedule},
    pki::{
        AuthorityKind, AuthorityOptions, InitOptions, Layout, LeafOptions, Party, RenewOptions,
        Renewal, RotationStep, Validity, init, list, rotate_authority, rotate_leaf,
    },
};
use proptest::prelude::*;

use super::check::{cases, soon, soon_with_files, told};

fn durations() -> impl Strategy<Value = Duration> {
    let usual = [
        0,
        1,
        2,
        59,
        60,
        300,
        86_400,
        31_557_600,
        253_402_300_799,
        253_402_300_800,
        i64::MAX as u64,
        u64::MAX,
    ];
    prop_oneof![
        3 => (prop::sample::select(usual.to_vec()), 0..1_000_000_000_u32).prop_map(|(seconds, nanos)| Duration::new(seconds, nanos)),
        1 => (0..2_u64).prop_map(Duration::from_nanos),
        1 => any::<Duration>(),
        1 => (0..10_000_u64).prop_map(Duration::from_secs),
    ]
}

proptest! {
    #![proptest_config(cases(1500))]

    #[test]
    fn flags(text in prop_oneof![
        any::<String>(),
        "-?[0-9]{1,25}(ns|us|ms|s|m|h|d|w|M|y|months|century| )?",
        "([0-9]{1,20}[a-zµ]{0,3} ?){0,40}",
    ]) {
        soon(&text, || {
            let parsed = humantime::parse_duration(&text);
            if let Ok(duration) = parsed {
                humantime::format_duration(duration).to_string();
            }
        });
    }

    #[test]
    fn waits_of_signing_keys(
        [refresh_interval, token_lifetime, clock_skew, propagation] in [durations(), durations(), durations(), durations()],
        retire_after in prop::option::of(durations()),
        every in durations(),
    ) {
        let times = RotationTimes { refresh_interval, token_lifetime, clock_skew, propagation };
        let policy = RotationPolicy::new(times, retire_after);
        told(&policy);
        if let Ok(policy) = policy {
            told(&policy.check_interval(every));
            let far = SystemTime::now() + policy.publish_before() + policy.retire_after();
            renew_at(SystemTime::now(), far);
        }
    }

    #[test]
    fn lives_of_certificates(begin in durations(), lifetime in durations()) {
        if let Some(begin) = SystemTime::UNIX_EPOCH.checked_add(begin) {
            told(&Validity::from_time(begin, lifetime));
        }
    }
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn commands(
        times in [durations(), durations(), durations(), durations()],
        retire_after in prop::option::of(durations()),
        [every, authority_lifetime, leaf_lifetime, refresh_interval, propagation] in [durations(), durations(), durations(), durations(), durations()],
    ) {
        let folder = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let options = AuthorityOptions { lifetime: authority_lifetime, refresh_interval, propagation, leaf_lifetime: Some(leaf_lifetime), servers_restarted: true };
        soon_with_files(&(times, every, options), || {
            let [refresh_interval, token_lifetime, clock_skew, propagation] = times;
            let times = RotationTimes { refresh_interval, token_lifetime, clock_skew, propagation };
            let ring = Keyring::at(folder.path().join("signing"));
            ring.generate(false, || now).unwrap();
            if let Ok(policy) = RotationPolicy::new(times, retire_after) {
                for now in [now, now + Duration::from_secs(1 << 36)] {
                    let schedule = Schedule::new(ring.clone(), policy, every);
                    told(&schedule.map(|schedule| told(&schedule.turn(now))));
                    told(&ring.rotate(&policy, || now));
                    let ring = ring.look(now).unwrap();
                    let due = [ring.rotation_allowed(&policy), ring.removal_due(&policy)];
                    let _ = due.map(|due| due.map(humantime::format_rfc3339_seconds).map(|due| due.to_string()));
                }
            }

            let layout = Layout::new(folder.path());
            let asked = InitOptions { authority_lifetime, leaf_lifetime, ..InitOptions::new(folder.path()) };
            if init(&asked).is_err() {
                init(&InitOptions::new(folder.path())).unwrap();
            }
            let lifetime = Some(leaf_lifetime);
            told(&rotate_leaf(&layout, Party::Worker, &LeafOptions { lifetime }, || now));
            for step in [RotationStep::Trust, RotationStep::Reissue, RotationStep::Retire] {
                told(&rotate_authority(&layout, AuthorityKind::Clients, step, &options, || now));
            }
            let renewing = RenewOptions {
                leaf_lifetime: Some(leaf_lifetime),
                authority_lifetime: Some(authority_lifetime),
                refresh_interval,
                propagation,
            };
            told(&renewing.check());
            let renewal = Renewal::new(layout.clone(), renewing);
            for now in [now, now + Duration::from_secs(1 << 36)] {
                let turn = renewal.turn(|| now);
                told(&turn);
                for (_, failure) in turn.into_iter().flat_map(|turn| turn.failed) {
                    told(&Err::<(), _>(failure));
                }
            }
            let listing = list(&layout, &options, now).unwrap();
            for next in listing.authorities.iter().filter_map(|authority| authority.next) {
                humantime::format_rfc3339_seconds(next.due).to_string();
            }
        });
    }
}
