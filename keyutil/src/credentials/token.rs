//! The token that goes with every call: minted here, read from a file, or fixed.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;
use secrecy::{ExposeSecret, SecretString};
use tonic::metadata::{Ascii, MetadataValue};
use tracing::{debug, warn};

use super::reload::{Credential, LoadError, Reloading};
use crate::{
    chain,
    files::without_byte_order_mark,
    jwt::{
        ClaimsTemplate, SigningKey,
        claims::renew_at,
        inspect::{NotAToken, Unverified},
        key::KeyError,
    },
};

/// A token that was usable as a header when it was made: no white space, not empty, and, if it is
/// a JWT, not expired.
#[derive(Clone)]
pub struct Token {
    header: MetadataValue<Ascii>,
    /// What it says, if it is a JWT.
    content: Option<Arc<Unverified>>,
}

impl Token {
    /// A token as the server's default claim mapper wants it: a JWT. White space around it is
    /// taken away, and so is a `Bearer ` before it.
    ///
    /// # Errors
    /// [`TokenError`], which never holds a part of the token.
    pub fn parse(raw: &str, now: SystemTime) -> Result<Self, TokenError> {
        let raw = trimmed(raw)?;
        let content = Unverified::parse(raw)?;
        Self::new(raw, Some(content), now)
    }

    /// An API key, which is a JWT in Temporal Cloud and may be anything elsewhere.
    ///
    /// # Errors
    /// [`TokenError`], for what is empty, cannot be a header, or is a JWT that has expired.
    pub fn parse_api_key(raw: &str, now: SystemTime) -> Result<Self, TokenError> {
        let raw = trimmed(raw)?;
        Self::new(raw, Unverified::parse(raw).ok(), now)
    }

    fn new(raw: &str, content: Option<Unverified>, now: SystemTime) -> Result<Self, TokenError> {
        if let Some(expires_at) = content.as_ref().and_then(Unverified::expires_at)
            && expires_at <= now
        {
            return Err(TokenError::Expired { at: expires_at });
        }
        let mut header: MetadataValue<Ascii> = format!("Bearer {raw}")
            .parse()
            .map_err(|_| TokenError::NotAHeader)?;
        header.set_sensitive(true);
        Ok(Self {
            header,
            content: content.map(Arc::new),
        })
    }

    /// What it says, if it is a JWT.
    pub fn content(&self) -> Option<&Unverified> {
        self.content.as_deref()
    }

    fn expired(&self, now: SystemTime) -> Option<SystemTime> {
        self.expires_at().filter(|expires_at| *expires_at <= now)
    }
}

fn trimmed(raw: &str) -> Result<&str, TokenError> {
    let raw = raw.trim();
    // The scheme is not part of the token, but it is in what people copy.
    let raw = match raw.get(..7) {
        Some(scheme) if scheme.eq_ignore_ascii_case("bearer ") => raw[7..].trim_start(),
        _ => raw,
    };
    match raw {
        "" => Err(TokenError::Empty),
        raw if raw.contains(char::is_whitespace) => Err(TokenError::Whitespace),
        raw => Ok(raw),
    }
}

impl Credential for Token {
    const KIND: &'static str = "token";

    fn identify(&self) -> String {
        let Some(content) = &self.content else {
            return "an opaque key".to_owned();
        };
        format!(
            "kid `{}`, subject `{}`",
            content.kid().unwrap_or("none"),
            content.subject().unwrap_or("none")
        )
    }

    fn expires_at(&self) -> Option<SystemTime> {
        self.content.as_ref()?.expires_at()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Token").field(&self.identify()).finish()
    }
}

/// Where tokens come from. Clones share one cache.
#[derive(Clone, Debug)]
pub enum TokenSource {
    /// Minted in this process.
    Minted(Arc<Minter>),
    /// Read from a file that someone else renews.
    File(Reloading<Token>),
    /// Given once.
    Fixed(Token),
}

impl TokenSource {
    /// Mints with the key of this file, and follows the file.
    ///
    /// # Errors
    /// [`LoadError`], for a file that is missing or holds no usable key.
    pub fn minted(signing_key: PathBuf, template: ClaimsTemplate) -> Result<Self, LoadError> {
        let key = Reloading::load(vec![signing_key], |contents| {
            Ok(SigningKey::from_pem(&contents[0])?)
        })?;
        Ok(Self::Minted(Arc::new(Minter::new(key, template))))
    }

    /// Reads this file, and follows it.
    ///
    /// # Errors
    /// [`LoadError`], for a file that is missing or holds no usable token.
    pub fn file(path: PathBuf) -> Result<Self, LoadError> {
        Reloading::load(vec![path], |contents| {
            let text = std::str::from_utf8(without_byte_order_mark(&contents[0]))
                .map_err(|_| TokenError::NotAHeader)?;
            Ok(Token::parse(text, SystemTime::now())?)
        })
        .map(Self::File)
    }

    /// The header value for a call that is made at `now`. Never that of an expired token.
    ///
    /// # Errors
    /// [`TokenError`] says why there is none, and what to do.
    pub fn header(&self, now: SystemTime) -> Result<MetadataValue<Ascii>, TokenError> {
        match self {
            Self::Minted(minter) => minter.header(now),
            Self::File(token) => {
                let token = token.peek();
                match token.expired(now) {
                    None => Ok(token.header.clone()),
                    Some(at) => Err(TokenError::FileExpired { at }),
                }
            }
            Self::Fixed(token) => match token.expired(now) {
                None => Ok(token.header.clone()),
                Some(at) => Err(TokenError::FixedExpired { at }),
            },
        }
    }

    /// The token that a call made now would bear, for whoever explains a refusal.
    pub fn current(&self) -> Option<Token> {
        match self {
            Self::Minted(minter) => minter
                .cache
                .load()
                .as_ref()
                .map(|minted| minted.token.clone()),
            Self::File(token) => Some(Token::clone(&token.peek())),
            Self::Fixed(token) => Some(token.clone()),
        }
    }

    /// Where tokens come from, in words.
    pub fn in_words(&self) -> String {
        let path = |files: &[PathBuf]| files.first().map(|path| path.display().to_string());
        match self {
            Self::Minted(minter) => format!(
                "minted with the key in `{}`",
                path(minter.key.files()).unwrap_or_default()
            ),
            Self::File(token) => {
                format!(
                    "from the file `{}`",
                    path(token.files()).unwrap_or_default()
                )
            }
            Self::Fixed(_) => "from `TEMPORAL_API_KEY`".to_owned(),
        }
    }
}

/// Mints tokens, and keeps the last one for as long as it is fresh.
#[derive(Debug)]
pub struct Minter {
    key: Reloading<SigningKey>,
    template: ClaimsTemplate,
    cache: ArcSwapOption<Minted>,
    /// Held by the one caller that mints. The others go on with what there is.
    minting: Mutex<()>,
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
    /// By the wall clock, because a monotonic one stands still while a laptop sleeps; and a clock
    /// that was set back makes a token from the future, which the server would refuse.
    fn fresh(&self, now: SystemTime, key: &Arc<SigningKey>) -> bool {
        now < self.renew_at
            && now + TOLERATED_STEP_BACK > self.minted_at
            && Arc::ptr_eq(&self.key, key)
    }

    fn usable(&self, now: SystemTime) -> bool {
        now < self.expires_at
    }
}

/// How far the clock may be set back before the cached token is minted again: less than tokens
/// are dated back, so that it is valid all along.
const TOLERATED_STEP_BACK: Duration = Duration::from_secs(30);

impl Minter {
    /// Mints with this key what the template says.
    pub fn new(key: Reloading<SigningKey>, template: ClaimsTemplate) -> Self {
        Self {
            key,
            template,
            cache: ArcSwapOption::empty(),
            minting: Mutex::new(()),
        }
    }

    /// The key that signs, for whoever watches its file.
    pub fn key(&self) -> &Reloading<SigningKey> {
        &self.key
    }

    fn header(&self, now: SystemTime) -> Result<MetadataValue<Ascii>, TokenError> {
        if let Some(minted) = &*self.cache.load()
            && minted.fresh(now, &self.key.peek())
        {
            return Ok(minted.token.header.clone());
        }
        self.renew(now)
    }

    #[cold]
    fn renew(&self, now: SystemTime) -> Result<MetadataValue<Ascii>, TokenError> {
        let _minting = match self.minting.try_lock() {
            Ok(guard) => guard,
            Err(std::sync::TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(std::sync::TryLockError::WouldBlock) => {
                if let Some(minted) = &*self.cache.load()
                    && minted.usable(now)
                {
                    return Ok(minted.token.header.clone());
                }
                // Nothing to go on with: wait for the other one's token.
                self.minting
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
            }
        };
        let key = self.key.current();
        let cached = self.cache.load_full();
        if let Some(minted) = &cached
            && minted.fresh(now, &key)
        {
            return Ok(minted.token.header.clone());
        }
        match self.mint(now, key) {
            Ok(minted) => {
                let header = minted.token.header.clone();
                self.cache.store(Some(Arc::new(minted)));
                Ok(header)
            }
            Err(error) => match cached {
                Some(minted) if minted.usable(now) => {
                    warn!(
                        error = chain(&error),
                        "minting failed: kept the token in use"
                    );
                    Ok(minted.token.header.clone())
                }
                _ => Err(error),
            },
        }
    }

    fn mint(&self, now: SystemTime, key: Arc<SigningKey>) -> Result<Minted, TokenError> {
        let raw: SecretString = key.mint(&self.template.at(now)).map_err(TokenError::Mint)?;
        let token = Token::parse(raw.expose_secret(), now)?;
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

    fn identify(&self) -> String {
        format!("kid {}", self.kid())
    }

    fn expires_at(&self) -> Option<SystemTime> {
        None
    }
}

/// Why there is no token to send. Never holds a part of one.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Nothing there.
    #[error("the token is empty")]
    Empty,
    /// Something between.
    #[error("the token has white space in it: it must be one word")]
    Whitespace,
    /// Bytes that no header may have.
    #[error("the token has characters that cannot be sent in a header")]
    NotAHeader,
    /// Not a JWT.
    #[error(transparent)]
    NotAToken(#[from] NotAToken),
    /// Too late when it was read.
    #[error("the token expired at {}", humantime::format_rfc3339_seconds(*at))]
    Expired {
        /// `exp`.
        at: SystemTime,
    },
    /// Too late when it was needed.
    #[error(
        "the token in the file expired at {}, and no newer one was found there: see to it that whoever renews the file is running",
        humantime::format_rfc3339_seconds(*at)
    )]
    FileExpired {
        /// `exp`.
        at: SystemTime,
    },
    /// Too late when it was needed.
    #[error(
        "the API key expired at {}, and a fixed one is never renewed: use a signing key or a token file in a process that lives long",
        humantime::format_rfc3339_seconds(*at)
    )]
    FixedExpired {
        /// `exp`.
        at: SystemTime,
    },
    /// The key would not sign.
    #[error("failed to mint a token")]
    Mint(#[source] KeyError),
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{
        credentials::reload::Look,
        jwt::{Permission, key},
    };

    const LIFETIME: Duration = Duration::from_secs(300);

    fn template() -> ClaimsTemplate {
        ClaimsTemplate {
            subject: "worker".into(),
            audience: None,
            permissions: vec![Permission::write("default")],
            lifetime: LIFETIME,
        }
    }

    fn write_key(path: &std::path::Path) {
        fs::write(path, key::generate_pem().unwrap().expose_secret()).unwrap();
    }

    fn minting() -> (tempfile::TempDir, TokenSource) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("current.pem");
        write_key(&path);
        let source = TokenSource::minted(path, template()).unwrap();
        (folder, source)
    }

    fn raw_token(now: SystemTime) -> String {
        let key = SigningKey::from_pem(key::generate_pem().unwrap().expose_secret().as_bytes());
        let token = key.unwrap().mint(&template().at(now)).unwrap();
        token.expose_secret().to_owned()
    }

    #[test]
    fn one_token_serves_until_two_thirds_of_its_life() {
        let (_folder, source) = minting();
        let start = SystemTime::now();
        let first = source.header(start).unwrap();
        assert_eq!(
            source.header(start + Duration::from_secs(195)).unwrap(),
            first
        );
        let second = source.header(start + Duration::from_secs(201)).unwrap();
        assert_ne!(second, first);
    }

    #[test]
    fn a_sleep_past_expiry_and_a_clock_set_back_mint_anew() {
        let (_folder, source) = minting();
        let start = SystemTime::now();
        let first = source.header(start).unwrap();
        let woken = source.header(start + LIFETIME * 10).unwrap();
        assert_ne!(woken, first);
        let set_back = source.header(start).unwrap();
        assert_ne!(set_back, woken);
    }

    #[test]
    fn a_new_signing_key_is_used_at_once() {
        let (_folder, source) = minting();
        let TokenSource::Minted(minter) = &source else {
            unreachable!()
        };
        let now = SystemTime::now();
        let before = source.header(now).unwrap();
        write_key(&minter.key().files()[0]);
        minter.key().look();
        assert_ne!(source.header(now).unwrap(), before);
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
            let source = TokenSource::file(path.clone()).unwrap();
            let header = source.header(now).unwrap();
            assert_eq!(header.to_str().unwrap(), format!("Bearer {good}"));
        }
        for (content, words) in [
            (String::new(), "empty"),
            ("  \n".to_owned(), "empty"),
            ("Bearer \n".to_owned(), "not a JWT"),
            (format!("{good} {good}"), "white space"),
            ("secret".to_owned(), "not a JWT"),
            (raw_token(now - LIFETIME * 2), "expired at"),
        ] {
            fs::write(&path, &content).unwrap();
            let error = chain(&TokenSource::file(path.clone()).unwrap_err());
            assert!(error.contains(words), "{words}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn an_expired_token_is_never_sent() {
        let now = SystemTime::now();
        let fixed = TokenSource::Fixed(Token::parse(&raw_token(now), now).unwrap());
        assert!(fixed.header(now).is_ok());
        let error = fixed.header(now + LIFETIME).unwrap_err().to_string();
        assert!(error.contains("never renewed"), "{error}");
    }

    #[test]
    fn tokens_and_sources_print_no_token() {
        let now = SystemTime::now();
        let (_folder, minted) = minting();
        minted.header(now).unwrap();
        let fixed = TokenSource::Fixed(Token::parse_api_key("opaque-secret", now).unwrap());
        let header = fixed.header(now).unwrap();
        for shown in [format!("{minted:?}"), format!("{fixed:?} {header:?}")] {
            assert!(
                !shown.contains("eyJ") && !shown.contains("secret"),
                "{shown}"
            );
        }
    }
}
