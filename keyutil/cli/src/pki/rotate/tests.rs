//! A folder of certificates with a clock, and what holds for them at any moment; tests of waits,
//! lifetimes and names. `tests/interrupted.rs` ends rotations after any of their operations.

mod interrupted;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use secrecy::ExposeSecret;
use tempfile::TempDir;

use crate::{
    files::{Change, Operation},
    pki::{
        Authority, AuthorityKind, AuthorityOptions, InitOptions, Layout, LeafOptions, Party,
        RotateError, RotationStep,
        bundle::Bundle,
        init, list, next_step,
        rotate::{
            self,
            state::{Holder, RotationState, Stage},
            steps::{self, lifetime_of},
        },
        rotate_authority, rotate_leaf,
    },
};
use keyutil::x509::certificate::CertificateSummary;

/// Every file below a folder.
type Files = BTreeMap<PathBuf, Vec<u8>>;

struct World {
    folder: TempDir,
    layout: Layout,
    now: SystemTime,
    options: AuthorityOptions,
}

impl RotateError {
    /// Returns how long until the step is in order, if only time is missing.
    fn left(&self) -> Option<Duration> {
        match self {
            Self::TooEarly { left, .. } => Some(*left),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Leaf(Party),
    Step(AuthorityKind, RotationStep),
}

const STEPS: [RotationStep; 3] = [
    RotationStep::Trust,
    RotationStep::Reissue,
    RotationStep::Retire,
];

impl World {
    /// The folder after `pki init`, which runs once for all tests.
    fn new() -> Self {
        static MADE: OnceLock<Files> = OnceLock::new();
        let world = Self::empty();
        world.restore(MADE.get_or_init(|| {
            let world = Self::empty();
            init(&InitOptions::new(world.dir())).unwrap();
            world.files()
        }));
        world
    }

    fn empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            layout: Layout::new(folder.path()),
            folder,
            now: SystemTime::now(),
            options: AuthorityOptions {
                servers_restarted: true,
                ..AuthorityOptions::default()
            },
        }
    }

    fn dir(&self) -> &Path {
        self.folder.path()
    }

    fn step(&self, kind: AuthorityKind, step: RotationStep) -> Result<(), RotateError> {
        rotate_authority(&self.layout, kind, step, &self.options, || self.now).map(drop)
    }

    /// Does the step once its wait is over.
    fn step_in_time(&mut self, kind: AuthorityKind, step: RotationStep) {
        while let Err(error) = self.step(kind, step) {
            self.now += error
                .left()
                .unwrap_or_else(|| panic!("{kind:?} {step}: {error}"));
        }
    }

    /// Completes the rotation from its current step.
    fn complete(&mut self, kind: AuthorityKind) {
        for _ in STEPS {
            let next = rotate::next_step(&self.layout, kind, &self.options, self.now).unwrap();
            self.step_in_time(kind, next.step);
            if next.step == RotationStep::Retire {
                return;
            }
        }
        panic!("more than three steps");
    }

    /// Returns what an action would write, and whether it would succeed.
    fn plan(&self, action: Action) -> (Change, bool) {
        let planned = match action {
            Action::Leaf(party) => rotate::plan_leaf(&self.layout, party, None, self.now)
                .map(|(change, _)| (change, true)),
            Action::Step(kind, step) => RotationState::read(&self.layout, kind)
                .map(|state| steps::plan(&state, step, &self.options, self.now))
                .map(|(change, result)| (change, result.is_ok())),
        };
        planned.unwrap_or_else(|_| (Change::default(), false))
    }

    /// Performs the first operations of a change, as a process that dies after them.
    fn die_after(&self, change: &Change, count: usize) {
        let mut unpaired = self.unpaired();
        for operation in &change.operations()[..count] {
            if let Operation::Switch { path } = operation {
                for party in Party::ALL {
                    let files = self.layout.party(party);
                    if *path == files.key {
                        unpaired.insert(party.name());
                    } else if *path == files.certificate {
                        unpaired.remove(party.name());
                    }
                }
            }
        }
        change.apply_first(count).unwrap();
        assert_eq!(self.unpaired(), unpaired, "key and certificate");
        self.check();
        // Every command repairs that.
        let _ = list(&self.layout, &self.options, self.now);
        assert_eq!(self.unpaired(), BTreeSet::new(), "after {count} operations");
        let left = self
            .files()
            .into_keys()
            .filter(|path| path.display().to_string().contains("/.new-"));
        assert_eq!(left.collect::<Vec<_>>(), Vec::<PathBuf>::new());
        self.check();
    }

    /// Checks what holds at any moment.
    fn check(&self) {
        for kind in AuthorityKind::ALL {
            let state = RotationState::read(&self.layout, kind).unwrap();
            for holder in state.holders.iter().filter(|holder| holder.paired) {
                let chain = holder.chain.as_ref().unwrap();
                for verifier in &state.verifiers {
                    let trusts = chain.leads_to(verifier.bundle.as_ref().unwrap());
                    let (holder, verifier) = (holder.party, verifier.party);
                    assert!(trusts, "{verifier:?} refuses {holder:?}");
                }
            }
            // One CA issues; while its files are being replaced, a complete next one exists.
            let in_place = Authority::read(&self.layout.authority(kind));
            if let Err(error) = in_place {
                assert!(matches!(state.stage, Stage::Promoting { .. }), "{error}");
                Authority::read(&self.layout.next_authority(kind)).unwrap();
            }
        }
    }

    /// Checks what a finished rotation leaves behind.
    fn check_clean(&self, kind: AuthorityKind) {
        self.check();
        let authority = Authority::read(&self.layout.authority(kind)).unwrap();
        let alone = Bundle::parse(authority.certificate_pem().as_bytes()).unwrap();
        for party in kind.verifiers() {
            let bundle = Bundle::read(&self.layout.party(party).trust).unwrap();
            assert_eq!(bundle, alone, "{party:?}");
        }
        for party in kind.holders() {
            let holder = Holder::read(&self.layout, party).unwrap();
            assert!(holder.paired, "{party:?}");
            assert!(holder.chain.unwrap().leads_to(&alone), "{party:?}");
        }
        let next = self.layout.next_authority(kind);
        let previous = self.layout.previous_authority(kind);
        for path in [next.certificate, next.key, previous] {
            assert!(!path.exists(), "{}", path.display());
        }
    }

    /// Returns the private key of the issuing CA.
    fn authority_key(&self, kind: AuthorityKind) -> String {
        let authority = Authority::read(&self.layout.authority(kind)).unwrap();
        authority.key_pem().expose_secret().to_owned()
    }

    fn is_on_disk(&self, text: &str) -> bool {
        let found = |content: Vec<u8>| String::from_utf8_lossy(&content).contains(text.trim());
        self.files().into_values().any(found)
    }

    fn leaf(&self, party: Party) -> CertificateSummary {
        let bundle = Bundle::read(&self.layout.party(party).certificate);
        bundle.unwrap().first().summary().clone()
    }

    fn unpaired(&self) -> BTreeSet<&'static str> {
        let unpaired = |party: &Party| !Holder::read(&self.layout, *party).unwrap().paired;
        let parties = Party::ALL.into_iter().filter(unpaired);
        parties.map(Party::name).collect()
    }

    /// Returns all files but the locks, which reading creates.
    fn files(&self) -> Files {
        let mut files = Files::new();
        for folder in fs::read_dir(self.dir()).unwrap() {
            for file in fs::read_dir(folder.unwrap().path()).unwrap() {
                let path = file.unwrap().path();
                if !path.ends_with(".lock") {
                    let name = path.strip_prefix(self.dir()).unwrap().to_owned();
                    files.insert(name, fs::read(&path).unwrap());
                }
            }
        }
        files
    }

    fn restore(&self, files: &Files) {
        for name in self.files().into_keys() {
            fs::remove_file(self.dir().join(name)).unwrap();
        }
        for (name, content) in files {
            let path = self.dir().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
    }

    fn wait(&mut self) {
        self.now += self.options.wait() + Duration::from_secs(1);
    }
}

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

    // A step done by a clock that is behind does not count as done long ago either.
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
            // The next step, and after the last step the first.
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
            assert_eq!(lifetime_of(&after), lifetime, "{party:?}");
        }
    }

    let options = LeafOptions {
        lifetime: Some(lifetime * 2),
    };
    let rotated = rotate_leaf(&world.layout, Party::Worker, &options, || world.now).unwrap();
    assert_eq!(lifetime_of(&rotated.new), lifetime * 2);
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
    // The clock was wrong, and is corrected. The time of the step is ignored then.
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
