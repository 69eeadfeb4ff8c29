//! The last good value of one or more files that another process replaces.
//!
//! The first load fails hard: a process with an unusable credential must not start. A later load
//! with unusable content keeps the value in use and logs one warning per content.
//!
//! The content is compared, not the modification time, and symbolic links are followed, so the swap
//! of a mounted Kubernetes secret is detected. The files are read about once a second, which works
//! on every kind of file system.

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

/// A value that is loaded from files and can be identified in a log.
pub trait Credential: Send + Sync + 'static {
    /// The kind, such as `client certificate`.
    const KIND: &'static str;

    /// Identifies the value for people, by serial or kid. Never a secret.
    fn identify(&self) -> String;

    /// Identifies the value for machines: the serial number of a certificate, the kid of a key or
    /// token.
    fn id(&self) -> Option<String> {
        None
    }

    /// The end of its validity, if there is one.
    fn expires_at(&self) -> Option<SystemTime>;
}

/// The current value of type `T`, read from files. Clones share the value.
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

/// The history of the reloads.
struct State {
    /// The time since which `current` is in use.
    since: SystemTime,
    /// The number of replacements.
    generation: u64,
    /// The fingerprint of the content of `current`.
    good: Fingerprint,
    /// The fingerprint of the unusable content that was reported last.
    reported: Option<Fingerprint>,
    /// The number of consecutive reads with unusable content, and the time of the first.
    broken_looks: u32,
    broken_since: SystemTime,
    /// The number of unusable contents reported since the start.
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

/// The history of the reloads, as plain values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReloadStatus {
    /// The time since which the value is in use.
    pub since: SystemTime,
    /// The number of replacements.
    pub generation: u64,
    /// The number of unusable contents.
    pub failures: u64,
    /// The error, while the files contain something unusable.
    pub last_failure: Option<Failure>,
}

impl<T: Credential> Reloading<T> {
    /// Reads `files` and parses the first value from their contents, which are in the same order.
    ///
    /// # Errors
    /// [`LoadError`], if a file cannot be read or the contents are unusable.
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

    /// The value in use, without a change of its reference count: for the path of every call.
    pub fn peek(&self) -> Guard<Arc<T>> {
        self.shared.current.load()
    }

    /// The files that are read.
    pub fn files(&self) -> &[PathBuf] {
        &self.shared.files
    }

    /// The history of the reloads.
    pub fn status(&self) -> ReloadStatus {
        let state = self.shared.state.lock();
        ReloadStatus {
            since: state.since,
            generation: state.generation,
            failures: state.failures,
            last_failure: state.last_failure.clone(),
        }
    }

    /// Reads the files: `None` for the content `known`, otherwise the new value or the error.
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

    /// Replaces the value.
    fn accept(&self, state: &mut State, found: Fingerprint, value: T) {
        let before = self.peek().identify();
        let now = value.identify();
        let expires = value.expires_at().map(rfc3339_seconds);
        self.shared.current.store(Arc::new(value));
        state.since = SystemTime::now();
        state.good = found;
        state.expiry_reported = false;
        state.generation += 1;
        // A renewed token is logged at DEBUG, because an agent renews a token file about once a
        // minute. Recovery from unusable content is logged at INFO.
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
        // Between two renames a certificate and its key do not belong together for a moment.
        // Content that is still unusable at the next read is reported.
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
                "the credential in use has expired, and its files contain no newer one"
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
    /// The status of this credential, without its history.
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

/// Files that could not be loaded. Never contains a part of their contents.
#[expect(missing_docs, reason = "the message says what a field is")]
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The path may be a secret, so it is not repeated.
    #[error(
        "the setting contains the {kind} itself instead of the name of its file: write it to a file, and set the name of that file"
    )]
    NotAPath {
        /// [`Credential::KIND`].
        kind: &'static str,
    },
    /// The file cannot be read.
    #[error("failed to read `{}`", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The contents are unusable.
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
    /// The step, class and hint of unusable contents are those of the parser's error.
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
            "check the path: a relative path starts at the working directory of the process; for \
             development, `keyutil pki init` and `keyutil key generate` create the files"
        }
        io::ErrorKind::PermissionDenied => {
            "run the process as the owner of the file, or change the owner: only the owner should \
              be able to read a key"
        }
        io::ErrorKind::IsADirectory => "set the path of the file, not of its directory",
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

/// The interval between two reads of the files.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// A value that can be reloaded.
pub trait Refresh: Send + Sync + 'static {
    /// Reads the files now, and takes over new content that is usable.
    fn refresh(&self);
}

/// A task that reloads values about once a second, until it is dropped.
#[derive(Debug)]
pub struct FileWatcher {
    task: JoinHandle<()>,
}

impl FileWatcher {
    /// Starts the task. Needs a tokio runtime.
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
                // A file system that hangs must not block the runtime.
                let looked = tokio::task::spawn_blocking(move || {
                    for one in watched.iter() {
                        one.refresh();
                    }
                });
                match looked.await {
                    // The runtime is shutting down.
                    Err(failure) if failure.is_cancelled() => return,
                    Err(failure) => error!(%failure, "failed to reload the credential files"),
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
