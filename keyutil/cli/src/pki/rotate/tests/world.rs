//! A folder of certificates, a clock, and what must be true of them at any moment.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use secrecy::ExposeSecret;
use tempfile::TempDir;

use crate::{
    files::{Change, Operation},
    pki::{
        Authority, AuthorityKind, AuthorityOptions, InitOptions, Layout, LeafOptions, Party,
        RotateError, RotationStep,
        bundle::Bundle,
        init,
        rotate::{
            self,
            state::{Holder, Stage, State},
            steps,
        },
        rotate_authority,
    },
};

/// Every file below a folder.
pub type Files = BTreeMap<PathBuf, Vec<u8>>;

pub struct World {
    folder: TempDir,
    pub layout: Layout,
    pub now: SystemTime,
    pub options: AuthorityOptions,
}

impl RotateError {
    /// How long until the same will be in order, where time is all that is missing.
    pub fn left(&self) -> Option<Duration> {
        match self {
            Self::TooEarly { left, .. } => Some(*left),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub enum Action {
    Leaf(Party),
    Step(AuthorityKind, RotationStep),
}

pub const STEPS: [RotationStep; 3] = [
    RotationStep::Trust,
    RotationStep::Reissue,
    RotationStep::Retire,
];

impl World {
    /// After `pki init`, which was run once for all.
    pub fn new() -> Self {
        static MADE: OnceLock<Files> = OnceLock::new();
        let world = Self::empty();
        world.restore(MADE.get_or_init(|| {
            let world = Self::empty();
            init(&InitOptions::new(world.dir())).unwrap();
            world.files()
        }));
        world
    }

    pub fn empty() -> Self {
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

    pub fn dir(&self) -> &Path {
        self.folder.path()
    }

    pub fn step(&self, kind: AuthorityKind, step: RotationStep) -> Result<(), RotateError> {
        rotate_authority(&self.layout, kind, step, &self.options, || self.now).map(drop)
    }

    /// Does the step when its time has come.
    pub fn step_in_time(&mut self, kind: AuthorityKind, step: RotationStep) {
        while let Err(error) = self.step(kind, step) {
            self.now += error
                .left()
                .unwrap_or_else(|| panic!("{kind:?} {step}: {error}"));
        }
    }

    /// To the end of the rotation, from wherever it is.
    pub fn complete(&mut self, kind: AuthorityKind) {
        for _ in STEPS {
            let next = rotate::next_step(&self.layout, kind, &self.options, self.now).unwrap();
            self.step_in_time(kind, next.step);
            if next.step == RotationStep::Retire {
                return;
            }
        }
        panic!("more than three steps");
    }

    /// What an action would write, and whether it would succeed.
    pub fn plan(&self, action: Action) -> (Change, bool) {
        let planned = match action {
            Action::Leaf(party) => {
                rotate::plan_leaf(&self.layout, party, &LeafOptions::default(), self.now)
                    .map(|(change, _)| (change, true))
            }
            Action::Step(kind, step) => State::read(&self.layout, kind)
                .map(|state| steps::plan(&state, step, &self.options, self.now))
                .map(|(change, result)| (change, result.is_ok())),
        };
        planned.unwrap_or_else(|_| (Change::default(), false))
    }

    /// What a process leaves behind that dies after so many operations of the change.
    pub fn die_after(&self, change: &Change, count: usize) {
        let mut unpaired = self.unpaired();
        for operation in &change.operations()[..count] {
            if let Operation::Replace { path, .. } = operation {
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
    }

    /// What must be true whatever has happened.
    pub fn check(&self) {
        for kind in AuthorityKind::ALL {
            let state = State::read(&self.layout, kind).unwrap();
            for holder in state.holders.iter().filter(|holder| holder.paired) {
                let chain = holder.chain.as_ref().unwrap();
                for verifier in &state.verifiers {
                    let trusts = chain.leads_to(verifier.bundle.as_ref().unwrap());
                    let (holder, verifier) = (holder.party, verifier.party);
                    assert!(trusts, "{verifier:?} refuses {holder:?}");
                }
            }
            // One CA issues; while its files are being replaced, there is a complete next one.
            let in_place = Authority::read(&self.layout.authority(kind));
            if let Err(error) = in_place {
                assert!(matches!(state.stage, Stage::Promoting { .. }), "{error}");
                Authority::read(&self.layout.next_authority(kind)).unwrap();
            }
        }
    }

    /// What a finished rotation leaves behind.
    pub fn check_clean(&self, kind: AuthorityKind) {
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

    /// The private key of the CA that issues.
    pub fn authority_key(&self, kind: AuthorityKind) -> String {
        let authority = Authority::read(&self.layout.authority(kind)).unwrap();
        authority.key_pem().expose_secret().to_owned()
    }

    pub fn is_on_disk(&self, text: &str) -> bool {
        let found = |content: Vec<u8>| String::from_utf8_lossy(&content).contains(text.trim());
        self.files().into_values().any(found)
    }

    fn unpaired(&self) -> BTreeSet<&'static str> {
        let unpaired = |party: &Party| !Holder::read(&self.layout, *party).unwrap().paired;
        let parties = Party::ALL.into_iter().filter(unpaired);
        parties.map(Party::name).collect()
    }

    /// Without the locks, which are made by looking.
    pub fn files(&self) -> Files {
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

    pub fn restore(&self, files: &Files) {
        for name in self.files().into_keys() {
            fs::remove_file(self.dir().join(name)).unwrap();
        }
        for (name, content) in files {
            let path = self.dir().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
    }

    pub fn wait(&mut self) {
        self.now += self.options.wait() + Duration::from_secs(1);
    }
}
