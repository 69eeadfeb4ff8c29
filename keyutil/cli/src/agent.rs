//! A token file that is kept current: the other end of [`TokenSource::file`].
//!
//! For a process that must not hold the signing key, which can sign for every namespace: this one
//! holds it, and gives the other a file with a short-lived token for one role.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use axum::{
    Router,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use tracing::{error, info};

use crate::files::{self, LockError, Mode, WriteError, create_folder, folder_of, sweep};
use keyutil::{
    base::{
        chain,
        read::{MAX_FILE_SIZE, read_regular},
        redact::is_content,
        time::rfc3339,
    },
    credentials::{Credential, Refresh, Token, TokenSource, reload::LoadError, token::TokenError},
    health::{
        alive, answer, broken,
        metrics::{self, Numbers},
    },
    status::{CredentialsStatus, Failure},
    token::ClaimsTemplate,
};

/// The shortest token life that suits a file. A third of it is left when a token is renewed: in
/// that time the new one has to be written, and found by readers that look once a second.
pub const SHORTEST_LIFETIME: Duration = Duration::from_secs(15);

/// How long ago the last look may be. More means that a file system hangs.
const LOOK_LIMIT: Duration = Duration::from_secs(30);

/// How often a failure that stands is told again. Whoever wants to know at once asks `/readyz`.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// Keeps the token of one file current. Clones share one file.
#[derive(Clone, Debug)]
pub struct Renewal {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    source: TokenSource,
    output: Output,
    state: Mutex<Progress>,
}

/// How renewing has gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RenewalStatus {
    /// How often the file was written.
    pub writes: u64,
    /// How many looks have ended without a current token in the file.
    pub failures: u64,
    /// Why, if the last look did.
    pub last_failure: Option<Failure>,
    /// When the token in the file expires, as far as it was written by this process.
    pub valid_until: Option<SystemTime>,
}

#[derive(Debug)]
struct Progress {
    status: RenewalStatus,
    /// By a clock that nobody sets.
    looked_at: Instant,
    /// When a failure was last told.
    told_at: Option<Instant>,
}

impl Renewal {
    /// Mints with the key of `signing_key`, and writes the first token to `output`, for its owner
    /// alone. Readers see the old token or the new one, never half of either.
    ///
    /// Then [`Refresh::refresh`] does the rest: it renews the token at two thirds of its life, at once when
    /// the key changes, and whenever the file holds something else.
    ///
    /// # Errors
    /// [`RenewalError`]. `output` is then as it was.
    pub fn start(
        signing_key: PathBuf,
        template: ClaimsTemplate,
        output: PathBuf,
    ) -> Result<Self, RenewalError> {
        if is_content(&output) {
            return Err(RenewalError::NotAPath);
        }
        let source =
            TokenSource::minted(signing_key, template).map_err(RenewalError::SigningKey)?;
        let output = Output::take(output)?;
        let now = SystemTime::now();
        let renewal = Self {
            shared: Arc::new(Shared {
                source,
                output,
                state: Mutex::new(Progress {
                    status: RenewalStatus::default(),
                    looked_at: Instant::now(),
                    told_at: None,
                }),
            }),
        };
        renewal.renew(now)?;
        Ok(renewal)
    }

    /// How renewing has gone.
    pub fn status(&self) -> RenewalStatus {
        self.shared.state.lock().status.clone()
    }

    /// The token and the key that signs it.
    pub fn credentials(&self) -> CredentialsStatus {
        {
            let mut status = CredentialsStatus::default();
            self.shared.source.add_status(&mut status);
            status
        }
    }

    /// Whether readers of the file have a current token, and will have the next one.
    ///
    /// # Errors
    /// Every reason why not, in words.
    pub fn readiness(&self) -> Result<(), Vec<String>> {
        self.readiness_at(Instant::now())
    }

    fn readiness_at(&self, now: Instant) -> Result<(), Vec<String>> {
        let state = self.shared.state.lock();
        let mut reasons = Vec::new();
        if let Some(failure) = &state.status.last_failure {
            let until = state.status.valid_until.map_or_else(String::new, |until| {
                format!("; the token before expires at {}", rfc3339(until))
            });
            reasons.push(format!(
                "no token was written since {}: {}{until}",
                rfc3339(failure.since),
                failure.reason
            ));
        }
        let silent = now.saturating_duration_since(state.looked_at);
        if silent > LOOK_LIMIT {
            reasons.push(format!(
                "nobody has looked at the file for {} s: its file system hangs",
                silent.as_secs()
            ));
        }
        if reasons.is_empty() {
            Ok(())
        } else {
            Err(reasons)
        }
    }

    /// One look: writes the token that is current at `now`, unless the file holds it.
    fn look_at(&self, now: SystemTime) {
        if let TokenSource::Minted(minter) = &self.shared.source {
            minter.key().refresh();
        }
        if let Err(failure) = self.renew(now) {
            let reason = chain(&failure);
            let mut state = self.shared.state.lock();
            let told = state.told_at.is_some_and(|at| at.elapsed() < TELL_AGAIN);
            if !told || state.status.last_failure.is_none() {
                error!(
                    error = reason,
                    "the token could not be renewed: trying again"
                );
                state.told_at = Some(Instant::now());
            }
            state.status.failures += 1;
            Failure::note(&mut state.status.last_failure, reason, now);
        }
        self.shared.state.lock().looked_at = Instant::now();
    }

    fn renew(&self, now: SystemTime) -> Result<(), RenewalError> {
        let Shared { source, output, .. } = &*self.shared;
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
        self.look_at(SystemTime::now());
    }
}

/// There is no token in the file, or no current one. Never holds a part of one.
#[expect(missing_docs, reason = "the message says what a field is")]
#[derive(Debug, thiserror::Error)]
pub enum RenewalError {
    /// The first load of the key.
    #[error("no token can be minted")]
    SigningKey(#[source] LoadError),
    /// A token or key in place of the name of a file, or no name at all.
    #[error("`--output` is not the name of a file")]
    NotAPath,
    /// Something else than a token would be lost.
    #[error(
        "refused to write a token over `{}`, which holds something else: name another file, or remove that one",
        path.display()
    )]
    NotAToken { path: PathBuf },
    /// A rename would put a file in its place, and whoever reads its target would not see that.
    #[error(
        "refused to write a token over the symbolic link `{}`: name the file that it points to",
        path.display()
    )]
    Link { path: PathBuf },
    /// What is there cannot be looked at.
    #[error("failed to read what is at `{}` before a token is written there", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Another process is at it.
    #[error("another process renews `{}`: end that one, or name another file", path.display())]
    Taken { path: PathBuf },
    /// The lock could not be had for another reason.
    #[error(transparent)]
    Lock(LockError),
    /// No token.
    #[error("failed to mint a token")]
    Mint(#[source] TokenError),
    /// A token, and it could not be written.
    #[error(transparent)]
    Write(WriteError),
}

impl RenewalError {
    /// Whether the caller has to ask for something else, rather than the machine to be mended.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::NotAPath | Self::NotAToken { .. } | Self::Link { .. } | Self::Read { .. }
        )
    }
}

/// How long ago what a killed agent has left was written, at least: another one may be writing.
const STALE: Duration = Duration::from_secs(60);

/// The file, and the lock that keeps a second agent from it.
#[derive(Debug)]
struct Output {
    path: PathBuf,
    lock: Mutex<OutputLock>,
}

impl Output {
    /// For this process alone, as long as it holds it.
    fn take(path: PathBuf) -> Result<Self, RenewalError> {
        refuse_what_is_no_token(&path)?;
        let lock = OutputLock::of(&path)?;
        // Tokens of an agent that was killed while it wrote one. Those that stay expire.
        let _ = sweep(folder_of(&path), STALE);
        let lock = Mutex::new(lock);
        Ok(Self { path, lock })
    }

    fn path(&self) -> &Path {
        &self.path
    }

    /// Whoever cleans the folder up takes the lock away, and would make room for a second agent.
    fn keep(&self) -> Result<(), RenewalError> {
        let mut lock = self.lock.lock();
        if !lock.is_in_place() {
            *lock = OutputLock::of(&self.path)?;
        }
        Ok(())
    }

    /// Whether it has this content, and not for everybody.
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

/// Whoever mixes up two flags must not lose a key by it.
fn refuse_what_is_no_token(output: &Path) -> Result<(), RenewalError> {
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

/// An empty file is what `touch` leaves, and expired tokens are what another run has left.
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

/// Two that write one file would write over each other's token again and again.
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
        // Opening a pipe would hang.
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

    /// Whether the next one would find this lock, and not make one of its own.
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

/// Others could keep the next agent away by a lock of their own. Never removed: two callers must
/// lock one and the same file.
fn private() -> fs::OpenOptions {
    let mut options = File::options();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// The routes of an agent: `/healthz`, `/readyz` and `/metrics`.
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
    match render(&renewal, ready) {
        Ok(text) => {
            let content_type = [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)];
            (content_type, text).into_response()
        }
        Err(error) => broken(&error),
    }
}

fn render(renewal: &Renewal, ready: bool) -> prometheus::Result<String> {
    let (status, numbers) = (renewal.status(), Numbers::default());
    numbers.ready(ready)?;
    numbers.credentials(&renewal.credentials())?;
    numbers.count(
        "token_writes_total",
        "How often the token file was written",
        status.writes,
    )?;
    numbers.count(
        "token_write_failures_total",
        "Looks at the token file that have ended without a current token in it",
        status.failures,
    )?;
    numbers.text()
}

#[cfg(test)]
mod tests;
