//! Keeps a token file current: the counterpart of [`TokenSource::file`].
//!
//! The signing key can sign for every namespace. The agent holds it on behalf of processes that
//! must not, and gives each a file with a short-lived token for one role.
//!
//! One process at a time writes a token file; a lock beside the file enforces it.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use axum::{Router, extract::State, response::Response, routing::get};
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use tracing::{error, info, warn};

use crate::{
    files::{self, LockError, Mode, WriteError, create_folder, folder_of, sweep},
    keys::keyring::Keyring,
};
use keyutil::{
    base::{
        chain,
        read::{MAX_FILE_SIZE, read_regular},
        redact::is_content,
        time::rfc3339,
    },
    credentials::{Credential, Refresh, Token, TokenSource, reload::LoadError, token::TokenError},
    health::{alive, answer, metrics::Numbers, metrics_answer},
    status::{CredentialsStatus, Failure, STALL_LIMIT},
    token::ClaimsTemplate,
};

/// The shortest token lifetime accepted for a file. A token is renewed when a third of it is left:
/// in that time the new token must be written, and found by readers that check once a second.
pub const SHORTEST_LIFETIME: Duration = Duration::from_secs(15);

/// How often a persistent failure is logged again. `/readyz` reports it at once.
const LOG_AGAIN: Duration = Duration::from_secs(60);

/// Keeps the token of one file current. Clones share the file.
#[derive(Clone, Debug)]
pub struct Renewal {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    source: TokenSource,
    /// The key ring of the signing key, if this process can read it, and the lifetime of the
    /// tokens.
    ring: Option<(Keyring, Duration)>,
    output: Output,
    state: Mutex<Progress>,
}

/// Counters and the last failure of a [`Renewal`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RenewalStatus {
    /// Number of times the file was written.
    pub writes: u64,
    /// Number of checks that ended without a current token in the file.
    pub failures: u64,
    /// Why the last check failed, if it did.
    pub last_failure: Option<Failure>,
    /// When the token in the file expires, if this process wrote it.
    pub valid_until: Option<SystemTime>,
}

#[derive(Debug)]
struct Progress {
    status: RenewalStatus,
    /// When the file was last checked, on the monotonic clock.
    checked_at: Instant,
    /// When a failure was last logged.
    logged_at: Option<Instant>,
}

impl Renewal {
    /// Mints a token with the key in `signing_key` and writes it to `output`, readable by the owner
    /// alone. Readers see either the old token or the new one.
    ///
    /// Refreshing what [`watched`](Self::watched) returns then renews the token at two thirds of its
    /// lifetime, when the key changes, and when the file no longer holds it.
    ///
    /// # Errors
    /// [`RenewalError`]. `output` is left unchanged.
    pub fn start(
        signing_key: PathBuf,
        template: ClaimsTemplate,
        output: PathBuf,
    ) -> Result<Self, RenewalError> {
        if is_content(&output) {
            return Err(RenewalError::NotAPath);
        }
        let ring = Keyring::of_signing_key(&signing_key).map(|ring| (ring, template.lifetime));
        let source =
            TokenSource::minted(signing_key, template).map_err(RenewalError::SigningKey)?;
        let output = Output::take(output)?;
        let now = SystemTime::now();
        let renewal = Self {
            shared: Arc::new(Shared {
                source,
                ring,
                output,
                state: Mutex::new(Progress {
                    status: RenewalStatus::default(),
                    checked_at: Instant::now(),
                    logged_at: None,
                }),
            }),
        };
        renewal.renew(now)?;
        Ok(renewal)
    }

    /// Returns counters and the last failure.
    pub fn status(&self) -> RenewalStatus {
        self.shared.state.lock().status.clone()
    }

    /// Returns the state of the token and of the signing key.
    pub fn credentials(&self) -> CredentialsStatus {
        let mut status = CredentialsStatus::default();
        self.shared.source.add_status(&mut status);
        status
    }

    /// Checks that the file holds a current token and that renewal works.
    ///
    /// # Errors
    /// Returns every reason why it is not ready.
    pub fn readiness(&self) -> Result<(), Vec<String>> {
        let mut reasons = self.reasons_at(Instant::now());
        reasons.extend(self.credentials().stalled(SystemTime::now()));
        if reasons.is_empty() {
            Ok(())
        } else {
            Err(reasons)
        }
    }

    fn reasons_at(&self, now: Instant) -> Vec<String> {
        let state = self.shared.state.lock();
        let mut reasons = Vec::new();
        if let Some(failure) = &state.status.last_failure {
            let until = state.status.valid_until.map_or_else(String::new, |until| {
                format!("; the token in the file expires at {}", rfc3339(until))
            });
            reasons.push(format!(
                "no token has been written since {}: {}{until}",
                rfc3339(failure.since),
                failure.reason
            ));
        }
        let silent = now.saturating_duration_since(state.checked_at);
        if silent > STALL_LIMIT {
            reasons.push(format!(
                "the token file has not been checked for {} s: its file system does not answer",
                silent.as_secs()
            ));
        }
        reasons
    }

    /// What must be refreshed to keep the file current: the key and the file, each on its own,
    /// because tokens are still renewed while the file of the key cannot be read.
    pub fn watched(&self) -> Vec<Box<dyn Refresh>> {
        let mut watched: Vec<Box<dyn Refresh>> = vec![Box::new(self.clone())];
        if let TokenSource::Minted(minter) = &self.shared.source {
            watched.push(Box::new(minter.key().clone()));
        }
        watched
    }

    /// Checks the file once: writes the token that is current at `now`, unless the file already
    /// holds it.
    fn check_at(&self, now: SystemTime) {
        if let Err(failure) = self.renew(now) {
            let reason = chain(&failure);
            let mut state = self.shared.state.lock();
            let logged = state.logged_at.is_some_and(|at| at.elapsed() < LOG_AGAIN)
                && state.status.last_failure.is_some();
            if !logged {
                state.logged_at = Some(Instant::now());
            }
            state.status.failures += 1;
            Failure::note(&mut state.status.last_failure, reason.clone(), now);
            drop(state);
            if !logged {
                error!(error = reason, "failed to renew the token, retrying");
            }
        }
        self.shared.state.lock().checked_at = Instant::now();
    }

    fn renew(&self, now: SystemTime) -> Result<(), RenewalError> {
        let Shared {
            source,
            ring,
            output,
            ..
        } = &*self.shared;
        output.keep()?;
        let token = source.token(now).map_err(RenewalError::Mint)?;
        let content = SecretString::from(format!("{}\n", token.text()));
        let written = !output.holds(&content);
        if written {
            output.write(&content)?;
            info!(
                path = %output.path().display(),
                token = token.identify(),
                expires_at = token.expires_at().map(rfc3339),
                "token written"
            );
            let outlived = |(ring, lifetime): &(Keyring, _)| ring.outlived_by(*lifetime);
            if let Some(warning) = ring.as_ref().and_then(outlived) {
                warn!("{warning}");
            }
        }
        let status = &mut self.shared.state.lock().status;
        status.writes += u64::from(written);
        status.last_failure = None;
        status.valid_until = token.expires_at();
        Ok(())
    }
}

impl Refresh for Renewal {
    fn refresh(&self) {
        self.check_at(SystemTime::now());
    }
}

/// The file has no current token. Never holds a part of a token.
#[expect(missing_docs, reason = "the message says what a field is")]
#[derive(Debug, thiserror::Error)]
pub enum RenewalError {
    /// The signing key could not be loaded.
    #[error("no token can be minted")]
    SigningKey(#[source] LoadError),
    /// `--output` is empty, or a token or key instead of a path.
    #[error("`--output` is not a file path")]
    NotAPath,
    /// Overwriting the file would destroy something other than a token.
    #[error(
        "refused to overwrite `{}`, which does not hold a token: name another file, or remove it",
        path.display()
    )]
    NotAToken { path: PathBuf },
    /// A rename would replace the link, and readers of its target would not see the new token.
    #[error(
        "refused to replace the symbolic link `{}`: name the file that it points to",
        path.display()
    )]
    Link { path: PathBuf },
    #[error("failed to read `{}` before writing a token to it", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("another process renews `{}`: stop it, or name another file", path.display())]
    Taken { path: PathBuf },
    #[error(transparent)]
    Lock(LockError),
    #[error("failed to mint a token")]
    Mint(#[source] TokenError),
    #[error(transparent)]
    Write(WriteError),
}

impl RenewalError {
    /// Returns whether the arguments are at fault, rather than the machine.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::NotAPath | Self::NotAToken { .. } | Self::Link { .. } | Self::Read { .. }
        )
    }
}

/// The minimum age of an unfinished file before it is removed: another agent may still be writing
/// it.
const STALE: Duration = Duration::from_secs(60);

/// The token file, and the lock that keeps a second agent from it.
#[derive(Debug)]
struct Output {
    path: PathBuf,
    lock: Mutex<OutputLock>,
}

impl Output {
    /// Takes the lock of the file for this process.
    fn take(path: PathBuf) -> Result<Self, RenewalError> {
        refuse_to_overwrite(&path)?;
        let lock = OutputLock::of(&path)?;
        // Tokens that a killed agent left half written. A failure is harmless: they expire.
        let _ = sweep(folder_of(&path), STALE);
        let lock = Mutex::new(lock);
        Ok(Self { path, lock })
    }

    fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the lock again if its file was deleted; otherwise a second agent could start.
    fn keep(&self) -> Result<(), RenewalError> {
        let mut lock = self.lock.lock();
        if !lock.is_in_place() {
            *lock = OutputLock::of(&self.path)?;
        }
        Ok(())
    }

    /// Returns whether the file has this content and is not readable by everyone.
    fn holds(&self, content: &SecretString) -> bool {
        let expected = content.expose_secret().as_bytes();
        let found = read_regular(&self.path, MAX_FILE_SIZE);
        found.is_ok_and(|found| found == expected) && !is_open_to_all(&self.path)
    }

    fn write(&self, content: &SecretString) -> Result<(), RenewalError> {
        let content = content.expose_secret().as_bytes();
        files::replace(&self.path, content, Mode::Private).map_err(RenewalError::Write)
    }
}

/// Mixed-up flags must not overwrite a key.
fn refuse_to_overwrite(output: &Path) -> Result<(), RenewalError> {
    let path = || output.to_owned();
    if output.is_symlink() {
        return Err(RenewalError::Link { path: path() });
    }
    match read_regular(output, MAX_FILE_SIZE) {
        Ok(content) if is_token(&content) => Ok(()),
        Ok(_) => Err(RenewalError::NotAToken { path: path() }),
        Err(failure) if failure.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(RenewalError::Read {
            path: path(),
            source,
        }),
    }
}

/// An empty file comes from `touch`, an expired token from an earlier run.
fn is_token(content: &[u8]) -> bool {
    content.trim_ascii().is_empty() || Token::parse_file(content, UNIX_EPOCH).is_ok()
}

#[cfg(unix)]
fn is_open_to_all(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).is_ok_and(|found| found.mode() & 0o007 != 0)
}

#[cfg(not(unix))]
fn is_open_to_all(_: &Path) -> bool {
    false
}

/// The lock of a token file. Two agents on one file would overwrite each other's token forever.
#[derive(Debug)]
struct OutputLock {
    path: PathBuf,
    file: File,
}

impl OutputLock {
    fn of(output: &Path) -> Result<Self, RenewalError> {
        let name = output.file_name().ok_or(RenewalError::NotAPath)?;
        let path = folder_of(output).join(format!(".{}.lock", name.to_string_lossy()));
        let failed = |source| {
            RenewalError::Lock(LockError {
                path: path.clone(),
                source,
            })
        };
        create_folder(folder_of(output)).map_err(failed)?;
        // Opening a FIFO would block.
        if fs::metadata(&path).is_ok_and(|found| !found.is_file()) {
            return Err(failed(io::Error::other("not a regular file")));
        }
        let file = private().open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { path, file }),
            Err(TryLockError::Error(source)) => Err(failed(source)),
            Err(TryLockError::WouldBlock) => Err(RenewalError::Taken {
                path: output.to_owned(),
            }),
        }
    }

    /// Returns whether the lock file on disk is still the one that is locked.
    #[cfg(unix)]
    fn is_in_place(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        let id = |found: fs::Metadata| (found.dev(), found.ino());
        match (self.file.metadata(), fs::metadata(&self.path)) {
            (Ok(ours), Ok(there)) => id(ours) == id(there),
            _ => false,
        }
    }

    #[cfg(not(unix))]
    fn is_in_place(&self) -> bool {
        self.path.exists() && self.file.metadata().is_ok()
    }
}

/// Opens the lock file. It is private, so that other users cannot block the agent with a lock of
/// their own, and never deleted, because all callers must lock the same file.
fn private() -> fs::OpenOptions {
    let mut options = File::options();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// The routes of the agent: `/healthz`, `/readyz` and `/metrics`.
pub fn router(renewal: Renewal) -> Router {
    Router::new()
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .route("/metrics", get(numbers))
        .with_state(renewal)
}

async fn ready(State(renewal): State<Renewal>) -> Response {
    answer(renewal.readiness())
}

async fn numbers(State(renewal): State<Renewal>) -> Response {
    let ready = renewal.readiness().is_ok();
    metrics_answer(render(&renewal, ready))
}

fn render(renewal: &Renewal, ready: bool) -> prometheus::Result<String> {
    let (status, numbers) = (renewal.status(), Numbers::default());
    numbers.ready(ready)?;
    numbers.credentials(&renewal.credentials(), SystemTime::now())?;
    numbers.count(
        "token_writes_total",
        "Number of times the token file was written",
        status.writes,
    )?;
    numbers.count(
        "token_write_failures_total",
        "Number of checks that ended without a current token in the file",
        status.failures,
    )?;
    numbers.text()
}

#[cfg(test)]
mod tests;
