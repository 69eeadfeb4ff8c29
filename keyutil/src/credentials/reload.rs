//! The last good value of one or more files that somebody else replaces.
//!
//! The first load fails hard: a process with a broken credential must not start. Every later load
//! fails soft and loud: the value in use stays, and a person is told once per broken content.
//! Content is compared, not modification times, and symbolic links are followed, so the swap of a
//! mounted Kubernetes secret is seen. Looking at the files about once a second needs no help from
//! the operating system, and sees changes on every kind of file system.

use std::{
    error::Error,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use arc_swap::{ArcSwap, Guard};
use sha2::{Digest, Sha256};
use tokio::{sync::watch, task::JoinHandle, time::MissedTickBehavior};
use tracing::{debug, error, info, warn};

use crate::chain;

/// How often the files are looked at.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// More than any certificate bundle, key or token. A path that was mixed up must not fill memory.
const LARGEST_FILE: u64 = 4 << 20;

/// A value that a person can recognise in a log.
pub trait Credential: Send + Sync + 'static {
    /// What it is, in a word or two: `client certificate`.
    const KIND: &'static str;

    /// What tells this one from the one before: serial, kid. Never a secret.
    fn identify(&self) -> String;

    /// When it stops being of use, if ever.
    fn expires_at(&self) -> Option<SystemTime>;
}

/// The current value of type `T`, read from files. Clones share one value.
pub struct Reloading<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    files: Vec<PathBuf>,
    parse: Box<Parse<T>>,
    current: ArcSwap<T>,
    state: Mutex<State>,
    generation: watch::Sender<u64>,
}

type Parse<T> = dyn Fn(&[Vec<u8>]) -> Result<T, Box<dyn Error + Send + Sync>> + Send + Sync;

/// What looking at the files has shown so far.
#[derive(Default)]
struct State {
    /// Of the content that `current` was made of.
    good: Fingerprint,
    /// Of the broken content that was last reported.
    reported: Option<Fingerprint>,
    /// How many looks in a row have found something broken.
    broken_looks: u32,
    /// How many broken contents have been reported since the start.
    failures: u64,
    last_failure: Option<String>,
    expiry_reported: bool,
}

type Fingerprint = [u8; 32];

/// How reloading has gone, for whoever shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReloadStatus {
    /// How often a new value has replaced the one before.
    pub generation: u64,
    /// How many broken contents were found and not used.
    pub failures: u64,
    /// Why the last one was not used, if the files are still broken.
    pub last_failure: Option<String>,
}

impl<T: Credential> Reloading<T> {
    /// Reads `files` and makes the first value of their contents, which come in the same order.
    ///
    /// # Errors
    /// [`LoadError`] names the file that cannot be read, or says what is wrong with the contents.
    pub fn load(
        files: Vec<PathBuf>,
        parse: impl Fn(&[Vec<u8>]) -> Result<T, Box<dyn Error + Send + Sync>> + Send + Sync + 'static,
    ) -> Result<Self, LoadError> {
        let contents = read_all(&files)?;
        let first = parse(&contents).map_err(|source| LoadError::Content {
            kind: T::KIND,
            files: files.clone(),
            source,
        })?;
        debug!(
            credential = T::KIND,
            loaded = first.identify(),
            "credential loaded"
        );
        Ok(Self {
            shared: Arc::new(Shared {
                files,
                parse: Box::new(parse),
                current: ArcSwap::from_pointee(first),
                state: Mutex::new(State {
                    good: fingerprint(&contents),
                    ..State::default()
                }),
                generation: watch::Sender::new(0),
            }),
        })
    }

    /// The value in use.
    pub fn current(&self) -> Arc<T> {
        self.shared.current.load_full()
    }

    /// The value in use, without touching its reference count: for the path of every call.
    pub fn peek(&self) -> Guard<Arc<T>> {
        self.shared.current.load()
    }

    /// Grows by one with each new value. Waiting on it is waiting for a change.
    pub fn generation(&self) -> watch::Receiver<u64> {
        self.shared.generation.subscribe()
    }

    /// The files that are followed.
    pub fn files(&self) -> &[PathBuf] {
        &self.shared.files
    }

    /// How reloading has gone.
    pub fn status(&self) -> ReloadStatus {
        let state = self.state();
        ReloadStatus {
            generation: *self.shared.generation.borrow(),
            failures: state.failures,
            last_failure: state.last_failure.clone(),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // The state is a few counters, each valid on its own: a panic elsewhere spoils none.
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a value that is good, unless it is the one in use.
    fn accept(&self, state: &mut State, found: Fingerprint, value: T) {
        let before = self.peek().identify();
        info!(
            credential = T::KIND,
            before,
            now = value.identify(),
            expires = value.expires_at().map(in_words),
            "credential replaced"
        );
        self.shared.current.store(Arc::new(value));
        state.good = found;
        state.expiry_reported = false;
        self.shared
            .generation
            .send_modify(|generation| *generation += 1);
    }

    fn reject(&self, state: &mut State, found: Fingerprint, failure: &LoadError) {
        state.broken_looks += 1;
        // Between two renames a certificate and its key do not belong together, for a moment.
        // What is still broken at the next look is really broken.
        if state.broken_looks < 2 || state.reported == Some(found) {
            return;
        }
        state.reported = Some(found);
        state.failures += 1;
        let failure = chain(failure);
        let kept = self.peek();
        let left = kept.expires_at().map(left_in_words);
        match &left {
            Some(left) if left == EXPIRED => error!(
                credential = T::KIND,
                kept = kept.identify(),
                expires_in = left,
                error = failure,
                "the new credential is unusable, and the one in use has expired"
            ),
            left => warn!(
                credential = T::KIND,
                kept = kept.identify(),
                expires_in = left,
                error = failure,
                "the new credential is unusable: kept the one in use"
            ),
        }
        state.last_failure = Some(failure);
    }

    fn report_expiry(&self, state: &mut State) {
        let current = self.peek();
        let Some(expires_at) = current.expires_at() else {
            return;
        };
        if expires_at <= SystemTime::now() && !state.expiry_reported {
            state.expiry_reported = true;
            error!(
                credential = T::KIND,
                expired = current.identify(),
                files = ?self.files(),
                "the credential in use has expired, and its files hold no newer one"
            );
        }
    }
}

/// Something whose files can be looked at.
pub trait Look: Send + Sync + 'static {
    /// Looks at the files now, and takes what is new and good.
    fn look(&self);
}

impl<T: Credential> Look for Reloading<T> {
    fn look(&self) {
        let found = read_all(&self.shared.files);
        let mut state = self.state();
        match found {
            Ok(contents) => {
                let print = fingerprint(&contents);
                if print == state.good {
                    state.broken_looks = 0;
                    state.reported = None;
                    state.last_failure = None;
                } else {
                    match (self.shared.parse)(&contents) {
                        Ok(value) => {
                            self.accept(&mut state, print, value);
                            state.broken_looks = 0;
                            state.reported = None;
                            state.last_failure = None;
                        }
                        Err(source) => {
                            let failure = LoadError::Content {
                                kind: T::KIND,
                                files: self.shared.files.clone(),
                                source,
                            };
                            self.reject(&mut state, print, &failure);
                        }
                    }
                }
            }
            Err(failure) => {
                let print = fingerprint(&[chain(&failure).into_bytes()]);
                self.reject(&mut state, print, &failure);
            }
        }
        self.report_expiry(&mut state);
    }
}

impl<T> Clone for Reloading<T> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl<T: Credential> std::fmt::Debug for Reloading<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reloading")
            .field("kind", &T::KIND)
            .field("current", &self.peek().identify())
            .field("files", &self.shared.files)
            .finish()
    }
}

/// Looks at files about once a second, until it is dropped.
#[derive(Debug)]
pub struct Watch {
    task: JoinHandle<()>,
}

impl Watch {
    /// Starts looking. Needs a tokio runtime.
    pub fn start(watched: Vec<Box<dyn Look>>) -> Self {
        Self::every(INTERVAL, watched)
    }

    fn every(interval: Duration, watched: Vec<Box<dyn Look>>) -> Self {
        let watched: Arc<[Box<dyn Look>]> = watched.into();
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(interval);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let watched = watched.clone();
                // A file system that hangs must not hang the calls.
                let looked = tokio::task::spawn_blocking(move || {
                    for one in watched.iter() {
                        one.look();
                    }
                });
                if let Err(failure) = looked.await {
                    error!(%failure, "looking at the credential files failed");
                }
            }
        });
        Self { task }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn read_all(files: &[PathBuf]) -> Result<Vec<Vec<u8>>, LoadError> {
    files
        .iter()
        .map(|path| {
            read(path).map_err(|source| LoadError::Read {
                path: path.clone(),
                source,
            })
        })
        .collect()
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Opening a pipe that nobody writes to would hang.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut content = Vec::new();
    File::open(path)?
        .take(LARGEST_FILE + 1)
        .read_to_end(&mut content)?;
    if content.len() as u64 > LARGEST_FILE {
        return Err(io::Error::other("larger than any credential: 4 MiB"));
    }
    Ok(content)
}

fn fingerprint(contents: &[Vec<u8>]) -> Fingerprint {
    let mut hash = Sha256::new();
    for content in contents {
        hash.update((content.len() as u64).to_be_bytes());
        hash.update(content);
    }
    hash.finalize().into()
}

const EXPIRED: &str = "expired";

fn left_in_words(expires_at: SystemTime) -> String {
    match expires_at.duration_since(SystemTime::now()) {
        Ok(left) => humantime::format_duration(Duration::from_secs(left.as_secs())).to_string(),
        Err(_) => EXPIRED.to_owned(),
    }
}

fn in_words(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// Files that could not be loaded. Never holds a part of their contents.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file that cannot be read.
    #[error("failed to read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Contents that are not what they must be.
    #[error("unusable {kind} in {}", names(files))]
    Content {
        /// [`Credential::KIND`].
        kind: &'static str,
        /// Where it was read from.
        files: Vec<PathBuf>,
        /// What is wrong with it.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

fn names(files: &[PathBuf]) -> String {
    let quoted: Vec<_> = files
        .iter()
        .map(|path| format!("`{}`", path.display()))
        .collect();
    quoted.join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Number(u32);

    impl Credential for Number {
        const KIND: &'static str = "number";

        fn identify(&self) -> String {
            self.0.to_string()
        }

        fn expires_at(&self) -> Option<SystemTime> {
            None
        }
    }

    /// The two files must hold the same number, as a certificate and its key belong together.
    fn load(folder: &Path) -> Result<Reloading<Number>, LoadError> {
        Reloading::load(vec![folder.join("a"), folder.join("b")], |contents| {
            let [a, b] = [&contents[0], &contents[1]].map(|text| String::from_utf8_lossy(text));
            if a != b {
                return Err("a and b do not belong together".into());
            }
            Ok(Number(a.trim().parse()?))
        })
    }

    fn write(folder: &Path, a: &str, b: &str) {
        fs::write(folder.join("a"), a).unwrap();
        fs::write(folder.join("b"), b).unwrap();
    }

    #[test]
    fn the_first_load_fails_hard_and_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let missing = chain(&load(folder.path()).unwrap_err());
        assert!(missing.contains("/a`: No such file"), "{missing}");
        write(folder.path(), "1", "2");
        let mismatch = chain(&load(folder.path()).unwrap_err());
        assert!(mismatch.contains("do not belong together"), "{mismatch}");
    }

    #[test]
    fn a_good_change_is_taken_and_a_bad_one_is_counted_once() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "1", "1");
        let value = load(folder.path()).unwrap();

        write(folder.path(), "2", "2");
        value.look();
        assert_eq!(value.current().0, 2);
        assert_eq!(value.status().generation, 1);

        write(folder.path(), "3", "2");
        for _ in 0..4 {
            value.look();
        }
        assert_eq!(value.current().0, 2);
        let status = value.status();
        assert_eq!((status.generation, status.failures), (1, 1));
        assert!(status.last_failure.unwrap().contains("belong together"));

        write(folder.path(), "3", "3");
        value.look();
        assert_eq!(value.current().0, 3);
        assert_eq!(value.status().last_failure, None);
    }

    #[test]
    fn the_moment_between_two_renames_is_not_reported() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "1", "1");
        let value = load(folder.path()).unwrap();
        fs::write(folder.path().join("a"), "2").unwrap();
        value.look();
        fs::write(folder.path().join("b"), "2").unwrap();
        value.look();
        assert_eq!(value.current().0, 2);
        assert_eq!(value.status().failures, 0);
    }

    #[test]
    fn files_that_vanish_keep_the_last_good_value() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "1", "1");
        let value = load(folder.path()).unwrap();
        fs::remove_file(folder.path().join("a")).unwrap();
        fs::create_dir(folder.path().join("a")).unwrap();
        value.look();
        value.look();
        assert_eq!(value.current().0, 1);
        let failure = value.status().last_failure.unwrap();
        assert!(failure.contains("not a regular file"), "{failure}");
    }

    #[cfg(unix)]
    #[test]
    fn the_swap_of_a_mounted_secret_is_seen() {
        use std::os::unix::fs::symlink;
        // As the kubelet does it: files link to `..data/…`, and `..data` is replaced by a rename.
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for (version, number) in [("v1", "1"), ("v2", "2")] {
            fs::create_dir(path(version)).unwrap();
            write(&path(version), number, number);
        }
        symlink("v1", path("..data")).unwrap();
        symlink("..data/a", path("a")).unwrap();
        symlink("..data/b", path("b")).unwrap();
        let value = load(folder.path()).unwrap();

        symlink("v2", path("..new")).unwrap();
        fs::rename(path("..new"), path("..data")).unwrap();
        value.look();

        assert_eq!(value.current().0, 2);
    }

    #[tokio::test]
    async fn a_watch_sees_a_change_and_ends_with_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "1", "1");
        let value = load(folder.path()).unwrap();
        let mut generation = value.generation();
        let watch = Watch::every(Duration::from_millis(5), vec![Box::new(value.clone())]);

        write(folder.path(), "2", "2");
        generation.wait_for(|seen| *seen == 1).await.unwrap();
        assert_eq!(value.current().0, 2);

        let task = watch.task.abort_handle();
        drop(watch);
        while !task.is_finished() {
            tokio::task::yield_now().await;
        }
    }
}
