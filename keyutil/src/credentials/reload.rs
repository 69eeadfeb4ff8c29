//! The last good value of one or more files that somebody else replaces.
//!
//! The first load fails hard: a process with a broken credential must not start. Every later load
//! fails soft and loud: the value in use stays, and a person is told once per broken content.
//! Content is compared, not modification times, and symbolic links are followed, so the swap of a
//! mounted Kubernetes secret is seen. Looking at the files about once a second needs no help from
//! the operating system, and sees changes on every kind of file system.

use std::{
    error::Error,
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::{task::JoinHandle, time::MissedTickBehavior};
use tracing::{debug, error, info, warn};

use crate::{
    base::{
        chain,
        read::{MAX_FILE_SIZE, read_regular},
        redact::is_content,
        time::{rfc3339_seconds, whole_seconds},
    },
    diagnosis::{Class, Diagnose, Diagnosed, Diagnosis, Step},
    status::{CredentialStatus, Failure},
};

/// A value that a person can recognise in a log.
pub trait Credential: Send + Sync + 'static {
    /// What it is, in a word or two: `client certificate`.
    const KIND: &'static str;

    /// What tells this one from the one before: serial, kid. Never a secret.
    fn identify(&self) -> String;

    /// The same for a machine: the serial number of a certificate, the kid of a key or token.
    fn id(&self) -> Option<String> {
        None
    }

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
}

type Parse<T> = dyn Fn(&[Vec<u8>]) -> Result<T, Diagnosed> + Send + Sync;

/// What looking at the files has shown so far.
struct State {
    /// When `current` was taken into use.
    since: SystemTime,
    /// How often it has replaced another.
    generation: u64,
    /// Of the content that `current` was made of.
    good: Fingerprint,
    /// Of the broken content that was last reported.
    reported: Option<Fingerprint>,
    /// How many looks in a row have found something broken, and since when.
    broken_looks: u32,
    broken_since: SystemTime,
    /// How many broken contents have been reported since the start.
    failures: u64,
    last_failure: Option<Failure>,
    expiry_reported: bool,
}

impl State {
    fn new(good: Fingerprint) -> Self {
        let now = SystemTime::now();
        Self {
            since: now,
            generation: 0,
            good,
            reported: None,
            broken_looks: 0,
            broken_since: now,
            failures: 0,
            last_failure: None,
            expiry_reported: false,
        }
    }
}

type Fingerprint = [u8; 32];

/// How reloading has gone, for whoever shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReloadStatus {
    /// When the value in use was taken into use.
    pub since: SystemTime,
    /// How often a new value has replaced the one before.
    pub generation: u64,
    /// How many broken contents were found and not used.
    pub failures: u64,
    /// Why the last one was not used, and since when the files are broken, if they still are.
    pub last_failure: Option<Failure>,
}

impl<T: Credential> Reloading<T> {
    /// Reads `files` and makes the first value of their contents, which come in the same order.
    ///
    /// # Errors
    /// [`LoadError`] names the file that cannot be read, or says what is wrong with the contents.
    pub fn load(
        files: Vec<PathBuf>,
        parse: impl Fn(&[Vec<u8>]) -> Result<T, Diagnosed> + Send + Sync + 'static,
    ) -> Result<Self, LoadError> {
        if files.iter().any(|path| is_content(path)) {
            return Err(LoadError::NotAPath { kind: T::KIND });
        }
        let contents = read_all(&files)?;
        let first =
            parse(&contents).map_err(|unusable| LoadError::content(T::KIND, &files, unusable))?;
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
                state: Mutex::new(State::new(fingerprint(&contents))),
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

    /// The files that are followed.
    pub fn files(&self) -> &[PathBuf] {
        &self.shared.files
    }

    /// How reloading has gone.
    pub fn status(&self) -> ReloadStatus {
        let state = self.shared.state.lock();
        ReloadStatus {
            since: state.since,
            generation: state.generation,
            failures: state.failures,
            last_failure: state.last_failure.clone(),
        }
    }

    /// What the files hold now: nothing else than `known`, a value, or something broken.
    fn find(
        &self,
        known: Fingerprint,
    ) -> Result<Option<(Fingerprint, T)>, (Fingerprint, LoadError)> {
        let contents = read_all(&self.shared.files).map_err(|failure| {
            let print = fingerprint(&[chain(&failure).into_bytes()]);
            (print, failure)
        })?;
        let print = fingerprint(&contents);
        if print == known {
            return Ok(None);
        }
        match (self.shared.parse)(&contents) {
            Ok(value) => Ok(Some((print, value))),
            Err(unusable) => {
                let failure = LoadError::content(T::KIND, &self.shared.files, unusable);
                Err((print, failure))
            }
        }
    }

    /// Takes a value that is good.
    fn accept(&self, state: &mut State, found: Fingerprint, value: T) {
        let before = self.peek().identify();
        let now = value.identify();
        let expires = value.expires_at().map(rfc3339_seconds);
        self.shared.current.store(Arc::new(value));
        state.since = SystemTime::now();
        state.good = found;
        state.expiry_reported = false;
        state.generation += 1;
        // A token file is renewed once a minute, and an operator who replaced something waits for
        // a line about it. A broken file that is good again gets a line, too.
        if before == now && state.reported.is_none() {
            debug!(credential = T::KIND, now, expires, "credential renewed");
        } else {
            let before = (before != now).then_some(before);
            info!(
                credential = T::KIND,
                before, now, expires, "credential replaced"
            );
        }
    }

    fn reject(&self, state: &mut State, found: Fingerprint, failure: &LoadError) {
        if state.broken_looks == 0 {
            state.broken_since = SystemTime::now();
        }
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
        let expires_in = kept
            .expires_at()
            .map(|at| at.duration_since(SystemTime::now()).ok());
        match expires_in {
            Some(None) => error!(
                credential = T::KIND,
                kept = kept.identify(),
                expires_in = "expired",
                error = failure,
                "the new credential is unusable, and the one in use has expired"
            ),
            left => warn!(
                credential = T::KIND,
                kept = kept.identify(),
                expires_in = left.flatten().map(whole_seconds),
                error = failure,
                "the new credential is unusable: kept the one in use"
            ),
        }
        state.last_failure = Some(Failure {
            reason: failure,
            since: state.broken_since,
        });
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

impl<T: Credential> From<&Reloading<T>> for CredentialStatus {
    fn from(reloading: &Reloading<T>) -> Self {
        let (status, current) = (reloading.status(), reloading.current());
        let from = reloading.files().iter();
        Self {
            from: from.map(|path| path.display().to_string()).collect(),
            since: Some(status.since),
            reloads: status.generation,
            failed_reloads: status.failures,
            last_failure: status.last_failure,
            ..Self::of(&*current)
        }
    }
}

impl CredentialStatus {
    /// Of this credential alone, without its history.
    pub fn of(credential: &impl Credential) -> Self {
        Self {
            in_use: Some(credential.identify()),
            id: credential.id(),
            from: Vec::new(),
            valid_until: credential.expires_at(),
            ..Self::fixed("")
        }
    }
}

impl<T: Credential> Refresh for Reloading<T> {
    fn refresh(&self) {
        let mut state = self.shared.state.lock();
        match self.find(state.good) {
            Ok(found) => {
                if let Some((print, value)) = found {
                    self.accept(&mut state, print, value);
                }
                state.broken_looks = 0;
                state.reported = None;
                state.last_failure = None;
            }
            Err((print, failure)) => self.reject(&mut state, print, &failure),
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

fn read_all(files: &[PathBuf]) -> Result<Vec<Vec<u8>>, LoadError> {
    files
        .iter()
        .map(|path| {
            read_regular(path, MAX_FILE_SIZE).map_err(|source| LoadError::Read {
                path: path.clone(),
                source,
            })
        })
        .collect()
}

fn fingerprint(contents: &[Vec<u8>]) -> Fingerprint {
    let mut hash = Sha256::new();
    for content in contents {
        hash.update((content.len() as u64).to_be_bytes());
        hash.update(content);
    }
    hash.finalize().into()
}

/// Files that could not be loaded. Never holds a part of their contents.
#[expect(missing_docs, reason = "the message says what a field is")]
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A secret, perhaps, so it is not repeated.
    #[error(
        "the {kind} itself stands where the name of its file should: write it to a file, and give the name of that"
    )]
    NotAPath {
        /// [`Credential::KIND`].
        kind: &'static str,
    },
    /// A file that cannot be read.
    #[error("failed to read `{}`", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Contents that are not what they must be.
    #[error("unusable {kind} in {}", names(files))]
    Content {
        /// [`Credential::KIND`].
        kind: &'static str,
        files: Vec<PathBuf>,
        #[source]
        source: Box<dyn Error + Send + Sync>,
        diagnosis: Box<Diagnosis>,
    },
}

impl LoadError {
    fn content(kind: &'static str, files: &[PathBuf], unusable: Diagnosed) -> Self {
        Self::Content {
            kind,
            files: files.to_owned(),
            source: unusable.error,
            diagnosis: Box::new(unusable.diagnosis),
        }
    }
}

impl Diagnose for LoadError {
    /// Contents keep the step and the class of what is wrong with them.
    fn diagnosis(&self) -> Diagnosis {
        let (step, class, hint) = match self {
            Self::NotAPath { .. } => (Step::Files, Class::Usage, None),
            Self::Read { source, .. } => (Step::Files, Class::Usage, unreadable(source)),
            Self::Content { diagnosis, .. } => {
                (diagnosis.step, diagnosis.class, diagnosis.hint.clone())
            }
        };
        Diagnosis {
            step,
            class,
            cause: chain(self),
            hint,
        }
    }
}

fn unreadable(error: &io::Error) -> Option<String> {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => {
            "check the path, and whether it is relative to another folder than this process runs \
             in; for development `keyutil pki init` and `keyutil key generate` make the files"
        }
        io::ErrorKind::PermissionDenied => {
            "run as the owner of the file, or have its owner changed: keys are for their owner alone"
        }
        io::ErrorKind::IsADirectory => "name the file in the folder, not the folder",
        _ => return None,
    };
    Some(hint.to_owned())
}

fn names(files: &[PathBuf]) -> String {
    let quoted: Vec<_> = files
        .iter()
        .map(|path| format!("`{}`", path.display()))
        .collect();
    quoted.join(" and ")
}

/// How often the files are looked at.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// Something whose files can be looked at.
pub trait Refresh: Send + Sync + 'static {
    /// Looks at the files now, and takes what is new and good.
    fn refresh(&self);
}

/// Looks at files about once a second, until it is dropped.
#[derive(Debug)]
pub struct FileWatcher {
    task: JoinHandle<()>,
}

impl FileWatcher {
    /// Starts looking. Needs a tokio runtime.
    pub fn start(watched: Vec<Box<dyn Refresh>>) -> Self {
        Self::every(INTERVAL, watched)
    }

    fn every(interval: Duration, watched: Vec<Box<dyn Refresh>>) -> Self {
        let watched: Arc<[Box<dyn Refresh>]> = watched.into();
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(interval);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let watched = watched.clone();
                // A file system that hangs must not hang the calls.
                let looked = tokio::task::spawn_blocking(move || {
                    for one in watched.iter() {
                        one.refresh();
                    }
                });
                match looked.await {
                    // The runtime ends, and with it the program.
                    Err(failure) if failure.is_cancelled() => return,
                    Err(failure) => error!(%failure, "looking at the credential files failed"),
                    Ok(()) => {}
                }
            }
        });
        Self { task }
    }
}

impl Drop for FileWatcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests;
