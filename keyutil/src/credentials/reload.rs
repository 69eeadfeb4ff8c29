//! The last good value of one or more files that another process replaces.
//!
//! The first load fails hard: a process with an unusable credential must not start. A later load
//! with unusable content keeps the value in use and logs one warning per content.
//!
//! The content is compared, not the modification time, and symbolic links are followed, so the swap
//! of a mounted Kubernetes secret is detected. The files are read about once a second, which works
//! on every kind of file system.
//!
//! A file system may not answer for minutes. Calls and [`Reloading::status`] never wait for it: no
//! lock is held while a file is read, and each credential is read on a thread of its own.

use std::{
    error::Error,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, SystemTime},
};

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use crate::{
    base::{
        chain,
        read::{MAX_FILE_SIZE, read_regular},
        redact::is_content,
        time::{is_near_end, rfc3339_seconds, whole_seconds},
    },
    diagnosis::{Class, Diagnose, Diagnosed, Diagnosis, Step},
    status::{CredentialStatus, Failure, STALL_LIMIT, StalledRead},
    token::signing_key,
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

    /// The start of its validity, if it is a certificate.
    fn valid_from(&self) -> Option<SystemTime> {
        None
    }

    /// The end of its validity, if there is one.
    fn expires_at(&self) -> Option<SystemTime>;

    /// Takes over what must outlast a reload from the value that it is about to replace.
    fn succeed(&mut self, _previous: &Self) {}

    /// The parts of it that are not used at `now`, each with the reason.
    fn warnings(&self, _now: SystemTime) -> Vec<String> {
        Vec::new()
    }
}

/// The current value of type `T`, read from files. Clones share the value.
pub struct Reloading<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    files: Vec<PathBuf>,
    parse: Box<Parse<T>>,
    current: ArcSwap<T>,
    /// Sends after each replacement of `current`.
    replaced: watch::Sender<()>,
    /// Never held while a file is read or a line is logged.
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
    expiry_reported: Option<Expiry>,
    /// The file that is being read.
    reading: Option<StalledRead>,
    stall_reported: bool,
    /// The warnings that were logged.
    warned: Vec<String>,
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
            expiry_reported: None,
            reading: None,
            stall_reported: false,
            warned: Vec::new(),
        }
    }
}

type Fingerprint = [u8; 32];

/// What is reported about the expiry of the value in use. Each is reported once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Expiry {
    /// At most a tenth of its life is left.
    Near,
    Over,
}

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
    /// The file whose file system does not answer, after a second.
    pub stalled: Option<StalledRead>,
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
        let contents = read_all(&files, |_| ())?;
        let first =
            parse(&contents).map_err(|unusable| LoadError::content(T::KIND, &files, unusable))?;
        debug!(
            credential = T::KIND,
            loaded = first.identify(),
            "credential loaded"
        );
        let loaded = Self {
            shared: Arc::new(Shared {
                files,
                parse: Box::new(parse),
                current: ArcSwap::from_pointee(first),
                replaced: watch::Sender::new(()),
                state: Mutex::new(State::new(fingerprint(&contents))),
            }),
        };
        loaded.report_warnings();
        loaded.report_expiry_at(SystemTime::now());
        Ok(loaded)
    }

    /// The value in use.
    pub fn current(&self) -> Arc<T> {
        self.shared.current.load_full()
    }

    /// The value in use, without a change of its reference count: for the path of every call.
    pub fn peek(&self) -> Guard<Arc<T>> {
        self.shared.current.load()
    }

    /// Waits until the current value is no longer `known`.
    pub async fn replaced(&self, known: &Arc<T>) {
        // Subscribed before the comparison, so that no replacement is missed.
        let mut replaced = self.shared.replaced.subscribe();
        while Arc::ptr_eq(&self.peek(), known) {
            // This never fails: the sender lives as long as `self`.
            let _ = replaced.changed().await;
        }
    }

    /// The files that are read.
    pub fn files(&self) -> &[PathBuf] {
        &self.shared.files
    }

    /// The history of the reloads.
    pub fn status(&self) -> ReloadStatus {
        let now = SystemTime::now();
        let state = self.shared.state.lock();
        let stalled = state.reading.as_ref();
        ReloadStatus {
            since: state.since,
            generation: state.generation,
            failures: state.failures,
            last_failure: state.last_failure.clone(),
            // A read on a busy machine takes a moment, too.
            stalled: stalled.filter(|read| read.lasts(now) > INTERVAL).cloned(),
        }
    }

    /// Reads the files: `None` for the content `known`, otherwise the new value or the error.
    fn find(
        &self,
        known: Fingerprint,
    ) -> Result<Option<(Fingerprint, T)>, (Fingerprint, LoadError)> {
        let contents = read_all(&self.shared.files, |path| {
            self.shared.state.lock().reading = Some(StalledRead {
                path: path.display().to_string(),
                since: SystemTime::now(),
            });
        });
        self.report_end_of_stall();
        let contents = contents.map_err(|failure| {
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

    /// Replaces the value, if there is a new one.
    fn accept(&self, known: Fingerprint, found: Option<(Fingerprint, T)>) {
        let mut state = self.shared.state.lock();
        // Another caller has read newer content in the meantime.
        if state.good != known {
            return;
        }
        let recovered = state.reported.take().is_some();
        state.broken_looks = 0;
        state.last_failure = None;
        let Some((print, mut value)) = found else {
            return;
        };
        value.succeed(&self.peek());
        let new = Arc::new(value);
        let old = self.shared.current.swap(new.clone());
        self.shared.replaced.send_replace(());
        state.since = SystemTime::now();
        state.good = print;
        state.expiry_reported = None;
        state.generation += 1;
        drop(state);
        let (before, now) = (old.identify(), new.identify());
        let expires = new.expires_at().map(rfc3339_seconds);
        // A renewed token is logged at DEBUG, because an agent renews a token file about once a
        // minute. Recovery from unusable content is logged at INFO.
        if before == now && !recovered {
            debug!(credential = T::KIND, now, expires, "credential renewed");
        } else {
            let before = (before != now).then_some(before);
            info!(
                credential = T::KIND,
                before, now, expires, "credential replaced"
            );
        }
    }

    fn reject(&self, known: Fingerprint, found: Fingerprint, failure: &LoadError) {
        let mut state = self.shared.state.lock();
        if state.good != known {
            return;
        }
        if state.broken_looks == 0 {
            state.broken_since = SystemTime::now();
        }
        state.broken_looks += 1;
        // Between two renames a certificate and its key do not belong together for a moment.
        // Content that is still unusable at the next read is reported.
        if state.broken_looks < 2 || state.reported == Some(found) {
            return;
        }
        let failure = chain(failure);
        state.reported = Some(found);
        state.failures += 1;
        state.last_failure = Some(Failure {
            reason: failure.clone(),
            since: state.broken_since,
        });
        drop(state);
        let kept = self.peek();
        match expires_in(&**kept) {
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
    }

    /// Logs once that a certificate is near its expiry, and once that a credential has expired.
    fn report_expiry_at(&self, now: SystemTime) {
        let current = self.peek();
        let Some(until) = current.expires_at() else {
            return;
        };
        let is_near = |from| is_near_end(from, until, now);
        let expiry = match current.valid_from().is_some_and(is_near) {
            _ if until <= now => Some(Expiry::Over),
            near => near.then_some(Expiry::Near),
        };
        {
            let mut state = self.shared.state.lock();
            if expiry <= state.expiry_reported {
                return;
            }
            state.expiry_reported = expiry;
        }
        if expiry == Some(Expiry::Over) {
            error!(
                credential = T::KIND,
                expired = current.identify(),
                files = ?self.files(),
                "the credential in use has expired, and its files contain no newer one"
            );
        } else {
            let left = until.duration_since(now).unwrap_or_default();
            warn!(
                credential = T::KIND,
                in_use = current.identify(),
                expires = rfc3339_seconds(until),
                expires_in = whole_seconds(left),
                files = ?self.files(),
                "the credential in use is near its expiry, and its files contain no newer one"
            );
        }
    }

    fn report_warnings(&self) {
        let warnings = self.peek().warnings(SystemTime::now());
        let warned = std::mem::replace(&mut self.shared.state.lock().warned, warnings.clone());
        for warning in warnings.iter().filter(|warning| !warned.contains(warning)) {
            warn!(credential = T::KIND, files = ?self.files(), "{warning}");
        }
    }

    fn report_stall_at(&self, now: SystemTime) {
        let stalled = {
            let mut state = self.shared.state.lock();
            let stalled = state.reading.clone();
            let stalled = stalled.filter(|read| read.lasts(now) >= STALL_LIMIT);
            let known = std::mem::replace(&mut state.stall_reported, stalled.is_some());
            stalled.filter(|_| !known)
        };
        if let Some(stalled) = stalled {
            let kept = self.peek();
            warn!(
                credential = T::KIND,
                kept = kept.identify(),
                expires_in = expires_in(&**kept).flatten().map(whole_seconds),
                "{}: kept the credential in use",
                stalled.reason()
            );
        }
    }

    fn report_end_of_stall(&self) {
        let ended = {
            let mut state = self.shared.state.lock();
            let ended = state.reading.take();
            let reported = std::mem::replace(&mut state.stall_reported, false);
            ended.filter(|_| reported)
        };
        if let Some(StalledRead { path, since }) = ended {
            let since = rfc3339_seconds(since);
            info!(
                credential = T::KIND,
                path, since, "the file system answers again"
            );
        }
    }
}

/// The remaining time, `Some(None)` after the end, and `None` if there is no end.
fn expires_in(credential: &impl Credential) -> Option<Option<Duration>> {
    let at = credential.expires_at()?;
    let left = at.duration_since(SystemTime::now()).ok();
    Some(left.filter(|left| !left.is_zero()))
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
            stalled: status.stalled,
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
            valid_from: credential.valid_from(),
            valid_until: credential.expires_at(),
            warnings: credential.warnings(SystemTime::now()),
            ..Self::fixed("")
        }
    }
}

impl<T: Credential> Refresh for Reloading<T> {
    fn refresh(&self) {
        let known = self.shared.state.lock().good;
        match self.find(known) {
            Ok(found) => self.accept(known, found),
            Err((print, failure)) => self.reject(known, print, &failure),
        }
        self.report_expiry_at(SystemTime::now());
        self.report_warnings();
    }

    fn report_stall(&self) {
        self.report_stall_at(SystemTime::now());
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

fn read_all(files: &[PathBuf], mut next: impl FnMut(&Path)) -> Result<Vec<Vec<u8>>, LoadError> {
    files
        .iter()
        .map(|path| {
            next(path);
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
            Self::Read { path, source } => {
                let hint = signing_key::moved(path).or_else(|| unreadable(source));
                (Step::Files, Class::Usage, hint)
            }
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

    /// Logs that a [`refresh`](Self::refresh) on another thread does not return.
    fn report_stall(&self) {}
}

/// Threads that reload values about once a second, one for each, until it is dropped.
///
/// A value whose file system hangs does not delay the others.
#[derive(Debug)]
pub struct FileWatcher {
    _running: Vec<mpsc::Sender<()>>,
}

impl FileWatcher {
    /// Starts the threads.
    pub fn start(watched: Vec<Box<dyn Refresh>>) -> Self {
        Self::every(INTERVAL, watched)
    }

    fn every(interval: Duration, watched: Vec<Box<dyn Refresh>>) -> Self {
        let watched: Arc<[Box<dyn Refresh>]> = watched.into();
        let refresh = |index: usize| {
            let watched = watched.clone();
            repeat(interval, move || watched[index].refresh())
        };
        let mut running: Vec<_> = (0..watched.len()).map(refresh).collect();
        running.push(repeat(interval, move || {
            watched.iter().for_each(|one| one.report_stall());
        }));
        Self { _running: running }
    }
}

/// Repeats the action on a thread of its own until the sender is dropped.
///
/// Not a blocking task of tokio: the end of a runtime waits for those, and a process whose file
/// system hangs could not be stopped.
fn repeat(interval: Duration, action: impl Fn() + Send + 'static) -> mpsc::Sender<()> {
    let (running, stopped) = mpsc::channel();
    thread::spawn(move || {
        loop {
            if catch_unwind(AssertUnwindSafe(&action)).is_err() {
                error!("failed to reload a credential, retrying");
            }
            if stopped.recv_timeout(interval) != Err(mpsc::RecvTimeoutError::Timeout) {
                return;
            }
        }
    });
    running
}

#[cfg(test)]
mod tests;
