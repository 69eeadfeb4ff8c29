//! What must hold for every input.

use std::{
    collections::{BTreeMap, HashSet},
    error::Error,
    fmt::Debug,
    fs,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use keyutil::chain;
use proptest::test_runner::Config;

/// For what only parses. A machine may be busy, so it is the best of three.
const LONGEST: Duration = Duration::from_secs(2);

/// For what writes files, too, and waits for the disk.
const LONGEST_WITH_FILES: Duration = Duration::from_secs(10);

/// When a case is taken for one that never ends.
const FOR_EVER: Duration = Duration::from_secs(60);

/// The number of cases, unless `PROPTEST_CASES` says otherwise. Nothing is left in the source tree.
pub fn cases(cases: u32) -> Config {
    let default = Config::default();
    let asked = std::env::var_os("PROPTEST_CASES").map(|_| default.cases);
    Config {
        cases: asked.unwrap_or(cases),
        failure_persistence: None,
        max_shrink_iters: 500,
        // In milliseconds: what hangs does so at every try.
        max_shrink_time: 20_000,
        ..default
    }
}

/// Does it, soon.
pub fn soon<T>(input: &(dyn Debug + Sync), mut action: impl FnMut() -> T) -> T {
    let mut tries = 0;
    loop {
        tries += 1;
        let (done, took) = timed(input, &mut action);
        if took < LONGEST {
            return done;
        }
        assert!(tries < 3, "it takes {took:?}");
    }
}

/// Does it once, in the time that files may take.
pub fn soon_with_files<T>(input: &(dyn Debug + Sync), action: impl FnOnce() -> T) -> T {
    let (done, took) = timed(input, action);
    assert!(took < LONGEST_WITH_FILES, "it takes {took:?}");
    done
}

fn timed<T>(input: &(dyn Debug + Sync), action: impl FnOnce() -> T) -> (T, Duration) {
    let (done, waiting) = mpsc::channel::<()>();
    let began = Instant::now();
    let result = thread::scope(|scope| {
        // A thread cannot be ended from outside, so a call that hangs ends the process.
        scope.spawn(move || {
            if waiting.recv_timeout(FOR_EVER) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("it does not end: {input:?}");
                std::process::exit(101);
            }
        });
        // Also dropped by a panic, so that the scope ends.
        let _done = done;
        action()
    });
    (result, began.elapsed())
}

/// All that is ever printed of a result.
pub fn told<T: Debug, E: Error + 'static>(result: &Result<T, E>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(error) => format!("{}\n{error}\n{error:?}\n{error:#?}", chain(error)),
    }
}

/// What must not be printed.
pub struct Secrets(HashSet<Vec<u8>>);

/// This many bytes of a secret are a leak.
const RUN: usize = 12;

impl Secrets {
    /// Texts and bytes.
    pub fn new<S: AsRef<[u8]>>(secrets: impl IntoIterator<Item = S>) -> Self {
        let mut runs = HashSet::new();
        for secret in secrets {
            runs.extend(secret.as_ref().windows(RUN).map(<[u8]>::to_vec));
        }
        Self(runs)
    }

    pub fn are_in(&self, text: &[u8]) -> bool {
        let has = |text: &[u8]| text.windows(RUN).any(|run| self.0.contains(run));
        has(text) || has(&listed(text))
    }

    #[track_caller]
    pub fn check(&self, told: &str) {
        assert!(!self.are_in(told.as_bytes()), "a secret is told: {told}");
    }
}

/// The bytes of lists such as `[77, 73, 71]`, which is how Rust prints them.
fn listed(text: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(text);
    let numbers = text.split(|character: char| !character.is_ascii_digit());
    numbers.filter_map(|number| number.parse().ok()).collect()
}

/// The files of a folder and of those in it, without the locks.
pub type Files = BTreeMap<PathBuf, Vec<u8>>;

pub fn files(folder: &Path) -> Files {
    let mut files = Files::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(folder).unwrap().to_owned();
        if path.is_dir() {
            let inside = self::files(&path).into_iter();
            files.extend(inside.map(|(path, content)| (name.join(path), content)));
        } else if name.as_os_str() != ".lock" {
            files.insert(name, fs::read(path).unwrap());
        }
    }
    files
}

pub fn write(folder: &Path, files: &Files) {
    for (name, content) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

#[test]
fn a_secret_is_found_however_it_is_printed() {
    let secrets = Secrets::new(["0123456789abcdef"]);
    for told in [
        "x 456789abcdef",
        "[52, 53, 54, 55, 56, 57, 97, 98, 99, 100, 101, 102]",
    ] {
        assert!(secrets.are_in(told.as_bytes()), "{told}");
    }
    assert!(!secrets.are_in(b"0123456789a 9abcdef"));
}
