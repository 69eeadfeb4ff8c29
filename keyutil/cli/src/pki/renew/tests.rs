//! An agent with the clock of the test: what is renewed at which time, and what a failure does.

use std::{collections::BTreeMap, fs};

use tempfile::TempDir;

use super::*;
use crate::pki::{InitOptions, init, list};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

struct World {
    _folder: TempDir,
    layout: Layout,
    renewal: Renewal,
    now: SystemTime,
}

impl World {
    fn new(leaf: Duration, authority: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        init(&InitOptions {
            leaf_lifetime: leaf,
            authority_lifetime: authority,
            frontend_names: vec!["temporal".to_owned(), "10.1.2.3".to_owned()],
            ..InitOptions::new(folder.path())
        })
        .unwrap();
        let layout = Layout::new(folder.path());
        let options = RenewOptions {
            refresh_interval: 60 * SECOND,
            propagation: 10 * SECOND,
            ..RenewOptions::default()
        };
        Self {
            _folder: folder,
            renewal: Renewal::new(layout.clone(), options),
            layout,
            now: SystemTime::now(),
        }
    }

    fn turn(&self) -> Turn {
        self.renewal.turn(|| self.now).unwrap()
    }

    /// Performs turns until one of them renews something.
    fn until_renewed(&mut self) -> Turn {
        for _ in 0..100_000 {
            let turn = self.turn();
            if !turn.renewed.is_empty() || !turn.failed.is_empty() {
                return turn;
            }
            self.now = turn.next.max(self.now + SECOND);
        }
        panic!("nothing was renewed");
    }

    fn leaf(&self, party: Party) -> CertificateSummary {
        let bundle = Bundle::read(&self.layout.party(party).certificate);
        bundle.unwrap().first().summary().clone()
    }

    fn authority(&self, kind: AuthorityKind) -> CertificateSummary {
        let bundle = Bundle::read(&self.layout.authority(kind).certificate);
        bundle.unwrap().first().summary().clone()
    }

    /// No pair is broken, expired or near its end, and every verifier trusts every holder.
    fn check(&self) {
        let listing = list(&self.layout, &AuthorityOptions::default(), self.now).unwrap();
        assert_eq!(listing.problems, [""; 0]);
        let ready = self.renewal.reasons_at(self.now, Instant::now());
        assert_eq!(ready, [""; 0]);
    }

    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        for folder in fs::read_dir(self.layout.dir()).unwrap() {
            for file in fs::read_dir(folder.unwrap().path()).unwrap() {
                let path = file.unwrap().path();
                files.insert(path.display().to_string(), fs::read(&path).unwrap());
            }
        }
        files
    }
}

#[test]
fn all_leaves_and_cas_are_renewed_in_time_and_each_in_its_own_moment() {
    let mut world = World::new(HOUR, 10 * HOUR);
    let begun = world.now;
    let before: Vec<_> = Party::ALL.map(|party| (party, world.leaf(party))).into();
    let authorities = AuthorityKind::ALL.map(|kind| (kind, world.authority(kind)));
    assert_eq!(world.turn().renewed, [], "nothing is due");

    let (mut first, mut steps) = (BTreeMap::new(), BTreeMap::<_, Vec<_>>::new());
    let mut restart_asked = None;
    while world.now < begun + 19 * HOUR / 2 {
        for renewed in world.until_renewed().renewed {
            match renewed {
                Renewed::Leaf(LeafRotated { party, old, .. }) => {
                    let left = old.unwrap().not_after.duration_since(world.now).unwrap();
                    assert!(
                        left <= HOUR / 3 && left >= HOUR / 4 - LOOK_INTERVAL,
                        "{left:?}"
                    );
                    first.entry(party.name()).or_insert(world.now);
                }
                Renewed::Authority(rotated) => {
                    let done = steps.entry(rotated.kind.name()).or_default();
                    done.push((rotated.step, world.now));
                }
            }
        }
        world.check();
        let managed = world.renewal.shared.state.lock().managed.clone();
        if managed.iter().any(|managed| managed.restart_needed) {
            restart_asked.get_or_insert(world.now);
        }
        world.now += SECOND;
    }

    let moments: std::collections::BTreeSet<_> = first.values().collect();
    // Two of them may be less than a second apart.
    assert!(moments.len() > 3, "jitter: {first:?}");
    for (party, before) in before {
        let after = world.leaf(party);
        assert_ne!(after.serial, before.serial);
        assert_eq!(after.subject, before.subject);
        assert_eq!(after.names(), before.names());
        assert_eq!(after.usages, before.usages);
        assert_eq!(lifetime_of(&after), HOUR, "{party:?}");
    }
    for (kind, before) in authorities {
        assert_ne!(world.authority(kind).serial, before.serial);
        let done = &steps[kind.name()];
        let names: Vec<_> = done.iter().map(|(step, _)| *step).take(3).collect();
        let in_order = [
            RotationStep::Trust,
            RotationStep::Reissue,
            RotationStep::Retire,
        ];
        assert_eq!(names, in_order, "{kind:?}");
        let waited = done[1].1.duration_since(done[0].1).unwrap();
        assert!(waited >= 70 * SECOND, "{waited:?}");
        if kind == AuthorityKind::Internode {
            // There is time to restart the servers.
            let asked = restart_asked.unwrap();
            assert!(done[1].1.duration_since(asked).unwrap() > HOUR / 2);
        } else {
            assert!(waited < 100 * SECOND, "{waited:?}");
        }
    }
}

#[test]
fn a_leaf_that_would_outlive_its_ca_is_renewed_by_the_next_one() {
    let mut world = World::new(9 * HOUR, 10 * HOUR);
    let begun = world.now;
    while world.now < begun + 18 * HOUR {
        world.until_renewed();
        world.check();
        world.now += SECOND;
    }
    for party in Party::ALL {
        // The rotation of the internode CA waits for a restart of the servers.
        let shortest = match party {
            Party::Internode => HOUR,
            _ => 9 * HOUR - 60 * SECOND,
        };
        let lifetime = lifetime_of(&world.leaf(party));
        assert!(lifetime >= shortest, "{party:?}: {lifetime:?}");
    }
}

#[test]
fn a_failure_keeps_the_files_is_told_and_is_retried_at_growing_intervals() {
    let mut world = World::new(HOUR, 10 * HOUR);
    world.turn();
    let key = world.layout.authority(AuthorityKind::Clients).key;
    let kept = fs::read(&key).unwrap();
    fs::remove_file(&key).unwrap();
    fs::write(world.layout.party(Party::Frontend).certificate, "garbage").unwrap();
    world.now += HOUR - HOUR / 4;
    let before = world.files();

    let turn = world.turn();

    let failed: Vec<_> = turn
        .failed
        .iter()
        .map(|(subject, _)| subject.name())
        .collect();
    // The names of an unreadable certificate are not known.
    let expected = ["client-ca", "worker", "starter", "admin", "ui", "frontend"];
    assert_eq!(failed, expected);
    assert!(matches!(&turn.renewed[..], [Renewed::Leaf(leaf)] if leaf.party == Party::Internode));
    let mut after = world.files();
    after.extend(
        before
            .iter()
            .filter(|(path, _)| path.contains("internode"))
            .map(|(path, content)| (path.clone(), content.clone())),
    );
    assert_eq!(after, before);
    let reasons = world.renewal.reasons_at(world.now, Instant::now());
    assert_eq!(reasons.len(), failed.len(), "{reasons:?}");
    assert!(
        reasons[1].starts_with("worker: ") && reasons[1].contains("clients.key"),
        "{reasons:?}"
    );
    assert!(reasons[1].contains("; it expires at "), "{reasons:?}");
    let metrics = world.renewal.render().unwrap();
    for line in [
        "keyutil_ready 0",
        "keyutil_certificate_renewal_failing{credential=\"worker\"} 1",
        "keyutil_certificate_renewal_failing{credential=\"internode\"} 0",
        "keyutil_certificate_renewals_total{credential=\"internode\"} 1",
        "keyutil_certificate_renewal_failures_total{credential=\"client-ca\"} 1",
        "keyutil_credential_expiry_timestamp_seconds{credential=\"frontend-ca\"}",
    ] {
        assert!(metrics.contains(line), "no {line} in {metrics}");
    }

    for (file, content) in [
        (
            "the rules",
            include_str!("../../../../../docker/prometheus/rules.yml"),
        ),
        (
            "docs/operations.md",
            include_str!("../../../../../docs/operations.md"),
        ),
    ] {
        let words =
            content.split(|character: char| !character.is_alphanumeric() && character != '_');
        let names: Vec<_> = words
            .filter(|word| word.starts_with("keyutil_certificate_"))
            .collect();
        assert!(!names.is_empty(), "{file}");
        for name in names {
            assert!(
                metrics.contains(&format!("# TYPE {name} ")),
                "{file}: {name}"
            );
        }
    }

    // After 1, 2, 4 s and so on.
    let mut attempts = Vec::new();
    for second in 0..300 {
        if !world.turn().failed.is_empty() {
            attempts.push(second);
        }
        world.now += SECOND;
    }
    assert_eq!(attempts, [1, 3, 7, 15, 31, 63, 123, 183, 243]);

    fs::write(&key, kept).unwrap();
    world.now += 64 * SECOND;
    let renewed = world.turn().renewed.len();
    assert_eq!(renewed, 4, "the clients");
}

#[test]
fn a_switch_that_was_interrupted_is_finished_by_the_next_turn() {
    let world = World::new(HOUR, 10 * HOUR);
    let party = Party::Worker;
    let before = world.leaf(party);
    let (change, rotated) = rotate::plan_leaf(&world.layout, party, None, world.now).unwrap();
    change.apply_first(3).unwrap();
    let files = world.layout.party(party);
    assert!(!pair::is_pair(&files.certificate, &files.key));

    assert_eq!(world.turn().renewed, []);

    assert_ne!(before, rotated.new);
    assert_eq!(world.leaf(party), rotated.new);
    world.check();
}

#[test]
fn lifetimes_that_leave_no_time_for_the_readers_are_refused() {
    let minute = 60 * SECOND;
    let options = |leaf, authority| RenewOptions {
        leaf_lifetime: Some(leaf),
        authority_lifetime: Some(authority),
        refresh_interval: minute - 10 * SECOND,
        propagation: 10 * SECOND,
    };
    options(4 * minute, 12 * minute).check().unwrap();
    let error = options(4 * minute - SECOND, HOUR).check().unwrap_err();
    assert!(
        error.to_string().contains("`--leaf-lifetime` must be 4m"),
        "{error}"
    );
    let error = options(HOUR, 12 * minute - SECOND).check().unwrap_err();
    assert!(
        error.to_string().contains("`--ca-lifetime` must be 12m"),
        "{error}"
    );
}
