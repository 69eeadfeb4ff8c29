//! The source of tokens: minted in this process, read from a file, or fixed.

use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use tracing::{debug, warn};

use super::{
    reload::{Credential, LoadError, Reloading},
    token::{Token, TokenError},
};
use crate::{
    base::chain,
    status::{CredentialStatus, CredentialsStatus, Failure, MintingStatus},
    token::{ClaimsTemplate, PermissionsClaim, SigningKey, claims::renew_at},
};

/// The source of tokens. Clones share one cache.
#[derive(Clone, Debug)]
pub enum TokenSource {
    /// Minted in this process.
    Minted(Arc<Minter>),
    /// Read from a file that another process renews.
    File(Reloading<Token>),
    /// A fixed token.
    Fixed(Token),
}

impl TokenSource {
    /// Mints tokens with the key in this file, which is reloaded.
    ///
    /// # Errors
    /// [`LoadError`], if the file is missing or contains no usable key.
    pub fn minted(signing_key: PathBuf, template: ClaimsTemplate) -> Result<Self, LoadError> {
        let key = Reloading::load(vec![signing_key], |contents| {
            Ok(SigningKey::from_pem(&contents[0])?)
        })?;
        Ok(Self::Minted(Arc::new(Minter::new(key, template))))
    }

    /// Reads the token from this file, which is reloaded.
    ///
    /// # Errors
    /// [`LoadError`], if the file is missing or contains no usable token.
    pub fn file(path: PathBuf, permissions_claim: PermissionsClaim) -> Result<Self, LoadError> {
        Reloading::load(vec![path], move |contents| {
            let token = Token::parse_file(&contents[0], SystemTime::now())?;
            Ok(token.with_permissions_claim(&permissions_claim))
        })
        .map(Self::File)
    }

    /// The token for a call that is made at `now`. Never an expired one.
    ///
    /// # Errors
    /// [`TokenError`], if there is no valid token.
    pub fn token(&self, now: SystemTime) -> Result<Token, TokenError> {
        match self {
            Self::Minted(minter) => minter.token(now),
            Self::File(file) => {
                let token = file.peek();
                match token.expired(now) {
                    None => Ok(Token::clone(&token)),
                    Some(at) => Err(TokenError::FileExpired {
                        at,
                        why: CredentialStatus::from(file).nothing_newer(),
                    }),
                }
            }
            Self::Fixed(token) => match token.expired(now) {
                None => Ok(token.clone()),
                Some(at) => Err(TokenError::FixedExpired { at }),
            },
        }
    }

    /// The current token, even if it has expired.
    pub fn current(&self) -> Option<Token> {
        match self {
            Self::Minted(minter) => minter.current(),
            Self::File(token) => Some(Token::clone(&token.peek())),
            Self::Fixed(token) => Some(token.clone()),
        }
    }

    /// Adds the token and the key that signs it to the status.
    pub fn add_status(&self, status: &mut CredentialsStatus) {
        match self {
            Self::Minted(minter) => {
                // A new minted token does not count as a reload.
                let minted = CredentialStatus::fixed("minted in this process");
                status.token = Some(match self.current() {
                    None => minted,
                    Some(token) => CredentialStatus {
                        from: minted.from,
                        since: minter.minted_at(),
                        ..CredentialStatus::of(&token)
                    },
                });
                status.signing_key = Some(minter.key().into());
                status.minting = Some(minter.status());
            }
            Self::File(token) => status.token = Some(token.into()),
            Self::Fixed(token) => {
                status.token = Some(CredentialStatus {
                    from: vec!["TEMPORAL_API_KEY".to_owned()],
                    ..CredentialStatus::of(token)
                });
            }
        }
    }
}

impl fmt::Display for TokenSource {
    /// Displays where the tokens come from.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = |files: &[PathBuf]| {
            let path = files.first().map(|path| path.display().to_string());
            path.unwrap_or_default()
        };
        match self {
            Self::Minted(minter) => {
                write!(f, "minted with the key in `{}`", path(minter.key().files()))
            }
            Self::File(token) => write!(f, "from the file `{}`", path(token.files())),
            Self::Fixed(_) => f.write_str("from `TEMPORAL_API_KEY`"),
        }
    }
}

/// Mints tokens, and keeps the last one until it is due for renewal.
#[derive(Debug)]
pub struct Minter {
    key: Reloading<SigningKey>,
    template: ClaimsTemplate,
    cache: ArcSwapOption<Minted>,
    /// Held by the caller that mints. Other callers use the cached token.
    minting: Mutex<()>,
    minted: AtomicU64,
    failures: AtomicU64,
    last_failure: Mutex<Option<Failure>>,
}

#[derive(Debug)]
struct Minted {
    token: Token,
    key: Arc<SigningKey>,
    minted_at: SystemTime,
    renew_at: SystemTime,
    expires_at: SystemTime,
}

impl Minted {
    /// Judged by the wall clock, because a monotonic clock stands still while a laptop sleeps.
    /// After the clock was set back, the cached token would be from the future, and the server
    /// would reject it.
    fn fresh(&self, now: SystemTime, key: &Arc<SigningKey>) -> bool {
        now < self.renew_at
            && now + TOLERATED_STEP_BACK > self.minted_at
            && Arc::ptr_eq(&self.key, key)
    }

    fn usable(&self, now: SystemTime) -> bool {
        now < self.expires_at
    }
}

/// How far the clock may be set back before a new token is minted. Less than
/// [`BACKDATED`](crate::token::claims::BACKDATED), so the token stays valid.
const TOLERATED_STEP_BACK: Duration = Duration::from_secs(30);

impl Minter {
    /// Mints tokens with this key and these claims.
    pub fn new(key: Reloading<SigningKey>, template: ClaimsTemplate) -> Self {
        Self {
            key,
            template,
            cache: ArcSwapOption::empty(),
            minting: Mutex::new(()),
            minted: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            last_failure: Mutex::new(None),
        }
    }

    /// The key that signs, for the file watcher.
    pub fn key(&self) -> &Reloading<SigningKey> {
        &self.key
    }

    /// The claims of the tokens.
    pub fn template(&self) -> &ClaimsTemplate {
        &self.template
    }

    fn token(&self, now: SystemTime) -> Result<Token, TokenError> {
        if let Some(minted) = &*self.cache.load()
            && minted.fresh(now, &self.key.peek())
        {
            return Ok(minted.token.clone());
        }
        self.renew(now)
    }

    /// The token in use, if one was minted.
    fn current(&self) -> Option<Token> {
        self.cache
            .load()
            .as_ref()
            .map(|minted| minted.token.clone())
    }

    /// The time at which the token in use was minted.
    pub fn minted_at(&self) -> Option<SystemTime> {
        self.cache.load().as_ref().map(|minted| minted.minted_at)
    }

    /// The number of minted tokens and of failures.
    pub fn status(&self) -> MintingStatus {
        MintingStatus {
            minted: self.minted.load(Ordering::Relaxed),
            failed: self.failures.load(Ordering::Relaxed),
            last_failure: self.last_failure.lock().clone(),
        }
    }

    #[cold]
    fn renew(&self, now: SystemTime) -> Result<Token, TokenError> {
        let _minting = match self.minting.try_lock() {
            Some(guard) => guard,
            None => {
                if let Some(minted) = &*self.cache.load()
                    && minted.usable(now)
                {
                    return Ok(minted.token.clone());
                }
                // No usable token: wait until the other caller has minted one.
                self.minting.lock()
            }
        };
        let key = self.key.current();
        let cached = self.cache.load_full();
        if let Some(minted) = &cached
            && minted.fresh(now, &key)
        {
            return Ok(minted.token.clone());
        }
        match self.mint(now, key) {
            Ok(minted) => {
                let token = minted.token.clone();
                self.cache.store(Some(Arc::new(minted)));
                self.minted.fetch_add(1, Ordering::Relaxed);
                *self.last_failure.lock() = None;
                Ok(token)
            }
            Err(error) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                Failure::note(&mut self.last_failure.lock(), chain(&error), now);
                match cached {
                    Some(minted) if minted.usable(now) => {
                        warn!(
                            error = chain(&error),
                            "failed to mint a token: kept the one in use"
                        );
                        Ok(minted.token.clone())
                    }
                    _ => Err(error),
                }
            }
        }
    }

    fn mint(&self, now: SystemTime, key: Arc<SigningKey>) -> Result<Minted, TokenError> {
        let raw: SecretString = key.mint(&self.template.at(now)).map_err(TokenError::Mint)?;
        let token = Token::parse(raw.expose_secret(), now)?
            .with_permissions_claim(&self.template.permissions_claim);
        let expires_at = token.expires_at().unwrap_or(now);
        debug!(kid = key.kid(), lifetime = ?self.template.lifetime, "token minted");
        Ok(Minted {
            token,
            key,
            minted_at: now,
            renew_at: renew_at(now, expires_at),
            expires_at,
        })
    }
}

impl Credential for SigningKey {
    const KIND: &'static str = "signing key";

    fn id(&self) -> Option<String> {
        Some(self.kid().to_owned())
    }

    fn identify(&self) -> String {
        format!("kid {}", self.kid())
    }

    fn expires_at(&self) -> Option<SystemTime> {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
    use secrecy::ExposeSecret;

    use tonic::metadata::{Ascii, MetadataValue};

    use super::*;
    use crate::{
        base::chain,
        credentials::Refresh,
        samples::{LIFETIME, template, write_key},
        token::signing_key,
    };

    fn minting() -> (tempfile::TempDir, TokenSource) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("current.pem");
        write_key(&path);
        let source = TokenSource::minted(path, template()).unwrap();
        (folder, source)
    }

    fn header(source: &TokenSource, at: SystemTime) -> MetadataValue<Ascii> {
        source.token(at).unwrap().header().clone()
    }

    fn raw_token(now: SystemTime) -> String {
        let key = SigningKey::from_pem(
            signing_key::generate_pem()
                .unwrap()
                .expose_secret()
                .as_bytes(),
        );
        let token = key.unwrap().mint(&template().at(now)).unwrap();
        token.expose_secret().to_owned()
    }

    #[test]
    fn one_token_serves_until_two_thirds_of_its_life() {
        let (_folder, source) = minting();
        let start = SystemTime::now();
        let first = header(&source, start);
        assert_eq!(header(&source, start + Duration::from_secs(195)), first);
        let second = header(&source, start + Duration::from_secs(201));
        assert_ne!(second, first);
    }

    #[test]
    fn a_sleep_past_expiry_and_a_clock_set_back_mint_a_new_token() {
        let (_folder, source) = minting();
        let start = SystemTime::now();
        let first = header(&source, start);
        let woken = header(&source, start + LIFETIME * 10);
        assert_ne!(woken, first);
        let set_back = header(&source, start);
        assert_ne!(set_back, woken);
    }

    #[test]
    fn a_new_signing_key_is_used_at_once() {
        let (_folder, source) = minting();
        let TokenSource::Minted(minter) = &source else {
            unreachable!()
        };
        let now = SystemTime::now();
        let before = header(&source, now);
        write_key(&minter.key().files()[0]);
        minter.key().refresh();
        assert_ne!(header(&source, now), before);
        let kid = source
            .current()
            .unwrap()
            .content()
            .unwrap()
            .kid()
            .unwrap()
            .to_owned();
        assert_eq!(kid, minter.key().current().kid());
    }

    #[test]
    fn a_file_is_trimmed_and_checked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let now = SystemTime::now();
        let good = raw_token(now);
        for content in [
            good.clone(),
            format!("{good}\r\n"),
            format!("\u{feff}  {good}\n\n"),
            format!("Bearer {good}\n"),
        ] {
            fs::write(&path, content).unwrap();
            let source = TokenSource::file(path.clone(), PermissionsClaim::default()).unwrap();
            let header = header(&source, now);
            assert_eq!(header.to_str().unwrap(), format!("Bearer {good}"));
        }
        for (content, words) in [
            (String::new(), "empty"),
            ("  \n".to_owned(), "empty"),
            ("Bearer \n".to_owned(), "empty"),
            (format!("{good} secret"), "white space"),
            (format!("{good}\n{good}\n"), "there are 2 tokens"),
            (format!(r#"{{"access_token": "{good}"}}"#), "JSON"),
            (format!("\"{good}\""), "quotes"),
            ("-----BEGIN PRIVATE KEY-----\nsecret".to_owned(), "PEM"),
            ("secret".to_owned(), "not a JWT"),
            (raw_token(now - LIFETIME * 2), "expired at"),
        ] {
            fs::write(&path, &content).unwrap();
            let error =
                chain(&TokenSource::file(path.clone(), PermissionsClaim::default()).unwrap_err());
            assert!(error.contains(words), "{words}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_not_text_is_explained() {
        let now = SystemTime::now();
        let good = raw_token(now);
        for to_bytes in [u16::to_le_bytes, u16::to_be_bytes] {
            for text in [good.clone(), format!("\u{feff}{good}\r\n")] {
                let wide: Vec<_> = text.encode_utf16().flat_map(to_bytes).collect();
                let error = Token::parse_file(&wide, now).unwrap_err().to_string();
                assert!(error.contains("UTF-16"), "{error}");
            }
        }
        let error = Token::parse_file(b"\x80secret", now).unwrap_err();
        assert!(error.to_string().contains("not text"), "{error}");
    }

    /// A message with the path would print the token or the key.
    #[test]
    fn a_credential_given_instead_of_a_file_name_is_not_repeated() {
        let token = raw_token(SystemTime::now());
        let key = signing_key::generate_pem().unwrap();
        let key = key.expose_secret();
        let refused = [
            TokenSource::file(token.clone().into(), PermissionsClaim::default()),
            TokenSource::file(
                format!("Bearer {token}").into(),
                PermissionsClaim::default(),
            ),
            TokenSource::minted(key.into(), template()),
        ];
        for (refused, secret) in refused.into_iter().zip([&token, &token, key]) {
            let error = refused.unwrap_err();
            let told = format!("{} {error:?}", chain(&error));
            assert!(told.contains("the name of its file"), "{told}");
            assert!(!told.contains(&secret[40..60]), "{told}");
        }
    }

    /// Regression test: such a token is valid, and logging its expiry panicked.
    #[test]
    fn a_token_whose_expiry_is_in_milliseconds_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        fs::write(&path, raw_token(SystemTime::now())).unwrap();
        let source = TokenSource::file(path.clone(), PermissionsClaim::default()).unwrap();
        let part = |value: &str| BASE64_URL_SAFE_NO_PAD.encode(value);
        let [header, claims] = [r#"{"alg":"ES256"}"#, r#"{"exp":1800000000000}"#].map(part);
        fs::write(&path, format!("{header}.{claims}.AAAA")).unwrap();
        let TokenSource::File(token) = &source else {
            unreachable!()
        };
        token.refresh();
        assert_eq!(token.status().generation, 1);
    }

    #[test]
    fn an_expired_token_is_never_sent() {
        let now = SystemTime::now();
        let fixed = TokenSource::Fixed(Token::parse(&raw_token(now), now).unwrap());
        assert!(fixed.token(now).is_ok());
        // Nor a token that would expire in transit.
        for late in [LIFETIME, LIFETIME - Duration::from_millis(500)] {
            let error = fixed.token(now + late).unwrap_err().to_string();
            assert!(error.contains("never renewed"), "{error}");
        }
    }

    #[test]
    fn tokens_and_sources_print_no_token() {
        let now = SystemTime::now();
        let (_folder, minted) = minting();
        header(&minted, now);
        let fixed = TokenSource::Fixed(Token::parse_api_key("opaque-secret", now).unwrap());
        let header = header(&fixed, now);
        for shown in [format!("{minted:?}"), format!("{fixed:?} {header:?}")] {
            assert!(
                !shown.contains("eyJ") && !shown.contains("secret"),
                "{shown}"
            );
        }
    }

    fn status_of(source: &TokenSource) -> CredentialsStatus {
        let mut status = CredentialsStatus::default();
        source.add_status(&mut status);
        status
    }

    #[test]
    fn the_status_has_the_token_and_its_key_but_no_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("current.pem");
        write_key(&path);
        let source = TokenSource::minted(path.clone(), template()).unwrap();
        let status = || status_of(&source);
        assert_eq!(status().token.unwrap().in_use, None);

        source.token(SystemTime::now()).unwrap();
        let first = status();
        write_key(&path);
        let TokenSource::Minted(minter) = &source else {
            unreachable!()
        };
        minter.key().refresh();
        source.token(SystemTime::now()).unwrap();
        fs::write(&path, "-----BEGIN PRIVATE KEY----- tops3cret").unwrap();
        minter.key().refresh();
        minter.key().refresh();

        let second = status();
        assert_eq!(second.minting.as_ref().unwrap().minted, 2);
        let (token, key) = (
            second.token.clone().unwrap(),
            second.signing_key.clone().unwrap(),
        );
        assert_ne!(token.in_use, first.token.unwrap().in_use);
        assert!(token.since.is_some() && token.valid_until > token.since);
        assert_eq!((key.reloads, key.failed_reloads), (1, 1));
        let kid = key.in_use.unwrap().replace("kid ", "");
        assert!(token.in_use.unwrap().contains(&kid));
        let shown = serde_json::to_string(&second).unwrap();
        assert!(shown.contains(&kid), "{shown}");
        for secret in ["eyJ", "PRIVATE KEY---", "tops3cret"] {
            assert!(!shown.contains(secret), "{secret}: {shown}");
        }
    }

    #[test]
    fn a_fixed_key_is_not_shown() {
        let token = Token::parse_api_key("tops3cret", SystemTime::now()).unwrap();
        let source = TokenSource::Fixed(token);
        let status = status_of(&source);
        let shown = serde_json::to_string(&status).unwrap();
        assert!(shown.contains("an opaque key"), "{shown}");
        assert!(!shown.contains("tops3cret"), "{shown}");
    }
}
