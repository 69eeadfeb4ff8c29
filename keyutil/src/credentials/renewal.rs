//! A token file that is kept current: the other end of [`TokenSource::file`].
//!
//! For a process that must not hold the signing key, which can sign for every namespace: this one
//! holds it, and gives the other a file with a short-lived token for one role.

use std::{
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use secrecy::{ExposeSecret, SecretString};
use tracing::{error, info};

use super::{Credential, Look, TokenSource, token::TokenError};
use crate::{
    chain,
    files::{
        self, LockError, Mode, WriteError, create_folder, folder_of, is_content, read_regular,
    },
    jwt::{ClaimsTemplate, inspect::Unverified},
    status::{CredentialsStatus, Failure, in_words},
};

/// The shortest token life that suits a file. A third of it is left when a token is renewed: in
/// that time the new one has to be written, and found by readers that look once a second.
pub const SHORTEST_LIFETIME: Duration = Duration::from_secs(15);

/// How long ago the last look may be. More means that a file system hangs.
const LOOK_LIMIT: Duration = Duration::from_secs(30);

/// More than any token.
const LARGEST_FILE: u64 = 4 << 20;

/// Keeps the token of one file current. Clones share one file.
#[derive(Clone, Debug)]
pub struct Renewal {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    source: TokenSource,
    output: PathBuf,
    state: Mutex<State>,
    _lock: File,
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
struct State {
    status: RenewalStatus,
    looked_at: SystemTime,
}

impl Renewal {
    /// Mints with the key of `signing_key`, and writes the first token to `output`, for its owner
    /// alone. Readers see the old token or the new one, never half of either.
    ///
    /// Then [`Look::look`] does the rest: it renews the token at two thirds of its life, at once when
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
            TokenSource::minted(signing_key.clone(), template).map_err(RenewalError::SigningKey)?;
        refuse_what_is_no_token(&output, &signing_key)?;
        let lock = lock(&output)?;
        let now = SystemTime::now();
        let renewal = Self {
            shared: Arc::new(Shared {
                source,
                output,
                state: Mutex::new(State {
                    status: RenewalStatus::default(),
                    looked_at: now,
                }),
                _lock: lock,
            }),
        };
        renewal.renew(now)?;
        Ok(renewal)
    }

    /// How renewing has gone.
    pub fn status(&self) -> RenewalStatus {
        self.state().status.clone()
    }

    /// The token and the key that signs it.
    pub fn credentials(&self) -> CredentialsStatus {
        CredentialsStatus::of_token(&self.shared.source)
    }

    /// Whether readers of the file have a current token at `now`, and will have the next one.
    ///
    /// # Errors
    /// Every reason why not, in words.
    pub fn readiness(&self, now: SystemTime) -> Result<(), Vec<String>> {
        let state = self.state();
        let mut reasons = Vec::new();
        if let Some(failure) = &state.status.last_failure {
            let until = state.status.valid_until.map_or_else(String::new, |until| {
                format!("; the token before expires at {}", in_words(until))
            });
            reasons.push(format!(
                "no token was written since {}: {}{until}",
                in_words(failure.since),
                failure.reason
            ));
        }
        let silent = now.duration_since(state.looked_at).unwrap_or_default();
        if silent > LOOK_LIMIT {
            reasons.push(format!(
                "nobody has looked at the file since {}: its file system hangs",
                in_words(state.looked_at)
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
            minter.key().look();
        }
        if let Err(failure) = self.renew(now) {
            let reason = chain(&failure);
            let mut state = self.state();
            let known = state.status.last_failure.as_ref();
            if known.is_none_or(|known| known.reason != reason) {
                error!(
                    error = reason,
                    "the token could not be renewed: trying again"
                );
            }
            state.status.failures += 1;
            Failure::note(&mut state.status.last_failure, reason, now);
        }
        self.state().looked_at = now;
    }

    fn renew(&self, now: SystemTime) -> Result<(), RenewalError> {
        let Shared { source, output, .. } = &*self.shared;
        source.header(now).map_err(RenewalError::Mint)?;
        let token = source
            .current()
            .ok_or(RenewalError::Mint(TokenError::Empty))?;
        let content = SecretString::from(format!("{}\n", token.text()));
        let written = !holds(output, &content);
        if written {
            write(output, &content)?;
            info!(
                path = %output.display(),
                token = token.identify(),
                expires_at = token.expires_at().map(in_words),
                "token written"
            );
        }
        let status = &mut self.state().status;
        status.writes += u64::from(written);
        status.last_failure = None;
        status.valid_until = token.expires_at();
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let state = self.shared.state.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Look for Renewal {
    fn look(&self) {
        self.look_at(SystemTime::now());
    }
}

/// Whoever mixes up two flags must not lose a key by it.
fn refuse_what_is_no_token(output: &Path, signing_key: &Path) -> Result<(), RenewalError> {
    let path = || output.to_owned();
    let same = |key: PathBuf| output.canonicalize().is_ok_and(|output| output == key);
    if signing_key.canonicalize().is_ok_and(same) {
        return Err(RenewalError::NotAToken { path: path() });
    }
    match read_regular(output, LARGEST_FILE) {
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
    let text = String::from_utf8_lossy(content);
    text.trim().is_empty() || Unverified::parse(text.trim()).is_ok()
}

/// Two that write one file would write over each other's token again and again.
fn lock(output: &Path) -> Result<File, RenewalError> {
    let name = output.file_name().ok_or(RenewalError::NotAPath)?;
    let path = folder_of(output).join(format!(".{}.lock", name.to_string_lossy()));
    let failed = |source| {
        RenewalError::Lock(LockError {
            path: path.clone(),
            source,
        })
    };
    create_folder(folder_of(output)).map_err(failed)?;
    // Never removed: two callers must lock one and the same file.
    let file = File::options()
        .append(true)
        .create(true)
        .open(&path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::Error(source)) => Err(failed(source)),
        Err(TryLockError::WouldBlock) => Err(RenewalError::Taken {
            path: output.to_owned(),
        }),
    }
}

fn holds(output: &Path, content: &SecretString) -> bool {
    let expected = content.expose_secret().as_bytes();
    read_regular(output, LARGEST_FILE).is_ok_and(|found| found == expected)
}

fn write(output: &Path, content: &SecretString) -> Result<(), RenewalError> {
    let content = content.expose_secret().as_bytes();
    files::replace(output, content, Mode::Private).map_err(RenewalError::Write)
}

/// There is no token in the file, or no current one. Never holds a part of one.
#[derive(Debug, thiserror::Error)]
pub enum RenewalError {
    /// The first load of the key.
    #[error("no token can be minted")]
    SigningKey(#[source] super::reload::LoadError),
    /// A token or key in place of the name of a file, or no name at all.
    #[error("`--output` is not the name of a file")]
    NotAPath,
    /// Something else than a token would be lost.
    #[error(
        "refused to write a token over `{}`, which holds something else: name another file, or remove that one",
        path.display()
    )]
    NotAToken {
        /// The file.
        path: PathBuf,
    },
    /// What is there cannot be looked at.
    #[error("failed to read what is at `{}` before a token is written there", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another process is at it.
    #[error("another process renews `{}`: end that one, or name another file", path.display())]
    Taken {
        /// The file.
        path: PathBuf,
    },
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
        matches!(self, Self::NotAPath | Self::NotAToken { .. })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{
        credentials::Token,
        jwt::{Permission, key},
    };

    const LIFETIME: Duration = Duration::from_secs(300);

    struct World {
        folder: tempfile::TempDir,
        renewal: Renewal,
    }

    impl World {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let key = folder.path().join("current.pem");
            write_key(&key);
            let output = folder.path().join("tokens/worker");
            let renewal = Renewal::start(key, template(), output).unwrap();
            Self { folder, renewal }
        }

        fn output(&self) -> &Path {
            &self.renewal.shared.output
        }

        /// What readers get at `now`.
        fn read(&self, now: SystemTime) -> String {
            let content = fs::read(self.output()).unwrap();
            Token::parse_file(&content, now).unwrap().text().to_owned()
        }
    }

    fn template() -> ClaimsTemplate {
        ClaimsTemplate {
            subject: "worker".into(),
            audience: None,
            permissions: vec![Permission::write("default")],
            lifetime: LIFETIME,
        }
    }

    fn write_key(path: &Path) {
        fs::write(path, key::generate_pem().unwrap().expose_secret()).unwrap();
    }

    #[test]
    fn a_token_stays_until_two_thirds_of_its_life_and_is_never_late() {
        let world = World::new();
        let start = SystemTime::now();
        let first = world.read(start);
        for seconds in 1..=195 {
            world.renewal.look_at(start + Duration::from_secs(seconds));
        }
        assert_eq!(world.read(start), first);
        assert_eq!(world.renewal.status().writes, 1);
        let late = start + Duration::from_secs(201);
        world.renewal.look_at(late);
        assert_ne!(world.read(late), first);
        // A machine that slept.
        let woken = start + LIFETIME * 10;
        world.renewal.look_at(woken);
        assert!(world.renewal.readiness(woken).is_ok());
        let token = Token::parse(&world.read(woken), woken).unwrap();
        assert!(token.expires_at().unwrap() > woken + LIFETIME / 2);
    }

    #[test]
    fn a_new_key_signs_the_next_moment() {
        let world = World::new();
        let now = SystemTime::now();
        let first = world.read(now);
        write_key(&world.folder.path().join("current.pem"));
        world.renewal.look_at(now);
        assert_ne!(world.read(now), first);
        // A bad one changes nothing: the key before is kept.
        let second = world.read(now);
        for content in ["", "garbage"] {
            fs::write(world.folder.path().join("current.pem"), content).unwrap();
            world.renewal.look_at(now);
            world.renewal.look_at(now);
            assert_eq!(world.read(now), second);
        }
        assert!(world.renewal.readiness(now).is_ok());
    }

    #[test]
    fn what_somebody_else_does_to_the_file_is_undone() {
        let world = World::new();
        let now = SystemTime::now();
        let token = world.read(now);
        let output = world.output();
        for spoil in [
            || Vec::new(),
            || b"garbage".to_vec(),
            || b"eyJhbGciOiJFUzI1NiJ9.half".to_vec(),
        ] {
            fs::write(output, spoil()).unwrap();
            world.renewal.look_at(now);
            assert_eq!(world.read(now), token);
        }
        fs::remove_dir_all(output.parent().unwrap()).unwrap();
        world.renewal.look_at(now);
        assert_eq!(world.read(now), token);
    }

    #[test]
    fn a_file_that_cannot_be_written_is_told_until_it_can() {
        let world = World::new();
        let now = SystemTime::now();
        fs::remove_file(world.output()).unwrap();
        fs::create_dir(world.output()).unwrap();
        fs::write(world.output().join("inside"), "in the way").unwrap();
        for _ in 0..3 {
            world.renewal.look_at(now);
        }
        let reasons = world.renewal.readiness(now).unwrap_err().join("\n");
        for words in ["failed to write", "tokens/worker", "expires at"] {
            assert!(reasons.contains(words), "{words}: {reasons}");
        }
        assert!(!reasons.contains("eyJ"), "{reasons}");
        assert_eq!(world.renewal.status().failures, 3);

        fs::remove_dir_all(world.output()).unwrap();
        world.renewal.look_at(now);
        assert!(world.renewal.readiness(now).is_ok());
    }

    #[test]
    fn a_file_system_that_hangs_is_told() {
        let world = World::new();
        let now = SystemTime::now() + LOOK_LIMIT + Duration::from_secs(1);
        let reasons = world.renewal.readiness(now).unwrap_err();
        assert!(reasons[0].contains("hangs"), "{reasons:?}");
    }

    #[test]
    fn nothing_but_a_token_is_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("current.pem");
        write_key(&key);
        let start = |output: &Path| Renewal::start(key.clone(), template(), output.to_owned());
        let other = folder.path().join("tls.key");
        write_key(&other);
        for output in [&key, &other] {
            let before = fs::read(output).unwrap();
            let error = start(output).unwrap_err();
            assert!(error.is_usage(), "{error}");
            assert_eq!(fs::read(output).unwrap(), before);
        }
        let link = folder.path().join("link");
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(&key, &link).unwrap();
            assert!(start(&link).unwrap_err().is_usage());
        }
        let output = folder.path().join("token");
        fs::write(&output, "").unwrap();
        let first = start(&output).unwrap();
        let error = start(&output).unwrap_err();
        assert!(matches!(error, RenewalError::Taken { .. }), "{error}");
        drop(first);
        start(&output).unwrap();
    }
}
