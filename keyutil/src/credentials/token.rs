//! A token, as it may be sent; and why there may be none.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tonic::metadata::{Ascii, MetadataValue};

use super::reload::Credential;
use crate::{
    base::{chain, read::without_byte_order_mark},
    diagnosis::{Class, Diagnose, Diagnosis, Step},
    token::{KeyError, MalformedToken, PermissionsClaim, UnverifiedToken},
    x509::pem::Detected,
};

/// A token that was usable as a header when it was made: no white space, not empty, and, if it is
/// a JWT, not expired.
#[derive(Clone)]
pub struct Token {
    parsed: Arc<Parsed>,
}

struct Parsed {
    header: MetadataValue<Ascii>,
    /// What it says, if it is a JWT.
    content: Option<UnverifiedToken>,
}

impl Token {
    /// What a file holds, in any of the forms that a file may have: [`Token::parse`].
    ///
    /// # Errors
    /// [`TokenError`], which never holds a part of the file.
    pub fn parse_file(content: &[u8], now: SystemTime) -> Result<Self, TokenError> {
        if Detected::of(content) == Detected::Utf16 {
            return Err(TokenError::Utf16);
        }
        let text = std::str::from_utf8(without_byte_order_mark(content));
        Self::parse(text.map_err(|_| TokenError::NotText)?, now)
    }

    /// A token as the server's default claim mapper wants it: a JWT. White space around it is
    /// taken away, and so is a `Bearer ` before it.
    ///
    /// # Errors
    /// [`TokenError`], which never holds a part of the token.
    pub fn parse(raw: &str, now: SystemTime) -> Result<Self, TokenError> {
        let raw = trimmed(raw)?;
        let content = UnverifiedToken::parse(raw)?;
        Self::new(raw, Some(content), now)
    }

    /// An API key, which is a JWT in Temporal Cloud and may be anything elsewhere.
    ///
    /// # Errors
    /// [`TokenError`], for what is empty, cannot be a header, or is a JWT that has expired.
    pub fn parse_api_key(raw: &str, now: SystemTime) -> Result<Self, TokenError> {
        let raw = trimmed(raw)?;
        Self::new(raw, UnverifiedToken::parse(raw).ok(), now)
    }

    fn new(
        raw: &str,
        content: Option<UnverifiedToken>,
        now: SystemTime,
    ) -> Result<Self, TokenError> {
        if let Some(expires_at) = content.as_ref().and_then(UnverifiedToken::expires_at)
            && expires_at <= now
        {
            return Err(TokenError::Expired { at: expires_at });
        }
        let mut header: MetadataValue<Ascii> = format!("Bearer {raw}")
            .parse()
            .map_err(|_| TokenError::NotAHeader)?;
        header.set_sensitive(true);
        Ok(Self {
            parsed: Arc::new(Parsed { header, content }),
        })
    }

    /// The same token, with its permissions read from this claim.
    #[must_use]
    pub fn with_permissions_claim(&self, name: &PermissionsClaim) -> Self {
        let content = self.parsed.content.clone();
        Self {
            parsed: Arc::new(Parsed {
                header: self.parsed.header.clone(),
                content: content.map(|content| content.with_permissions_claim(name.clone())),
            }),
        }
    }

    /// The value of the header `authorization`, marked as sensitive.
    pub fn header(&self) -> &MetadataValue<Ascii> {
        &self.parsed.header
    }

    /// What it says, if it is a JWT.
    pub fn content(&self) -> Option<&UnverifiedToken> {
        self.parsed.content.as_ref()
    }

    /// The token itself: a secret.
    pub fn text(&self) -> &str {
        let header = self.header().to_str().unwrap_or_default();
        header.strip_prefix("Bearer ").unwrap_or(header)
    }

    /// When it expired, or will before a call that is made now has reached the server.
    pub(super) fn expired(&self, now: SystemTime) -> Option<SystemTime> {
        self.expires_at()
            .filter(|expires_at| *expires_at <= now + IN_FLIGHT_MARGIN)
    }
}

/// The server has no leeway: a call whose token expires on the way is refused.
const IN_FLIGHT_MARGIN: Duration = Duration::from_secs(1);

fn trimmed(raw: &str) -> Result<&str, TokenError> {
    let raw = raw.trim();
    // The scheme is not part of the token, but it is in what people copy.
    let raw = match raw.split_once(char::is_whitespace) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("bearer") => rest.trim_start(),
        _ if raw.eq_ignore_ascii_case("bearer") => "",
        _ => raw,
    };
    if raw.is_empty() {
        return Err(TokenError::Empty);
    }
    if raw.starts_with(['{', '[']) {
        return Err(TokenError::Json);
    }
    if raw.starts_with(['"', '\'']) {
        return Err(TokenError::Quoted);
    }
    if raw.contains("-----BEGIN ") {
        return Err(TokenError::Pem);
    }
    let mut words = raw.split_whitespace();
    if words.clone().nth(1).is_none() {
        Ok(raw)
    } else if words.all(|word| UnverifiedToken::parse(word).is_ok()) {
        Err(TokenError::Several {
            count: raw.split_whitespace().count(),
        })
    } else {
        Err(TokenError::Whitespace)
    }
}

impl Credential for Token {
    const KIND: &'static str = "token";

    fn identify(&self) -> String {
        let Some(content) = self.content() else {
            return "an opaque key".to_owned();
        };
        format!(
            "kid `{}`, subject `{}`",
            content.kid().unwrap_or("none"),
            content.subject().unwrap_or("none")
        )
    }

    fn id(&self) -> Option<String> {
        Some(self.content()?.kid()?.to_owned())
    }

    fn expires_at(&self) -> Option<SystemTime> {
        self.content()?.expires_at()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Token").field(&self.identify()).finish()
    }
}

/// Why there is no token to send. Never holds a part of one.
#[expect(missing_docs, reason = "the message says what a field is")]
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Nothing there.
    #[error("the token is empty")]
    Empty,
    /// What an identity provider answers.
    #[error(
        "this is JSON, and the token alone is needed: take it out, as with `jq -r .access_token`"
    )]
    Json,
    /// A value of JSON or of a shell.
    #[error("the token stands in quotes: take them away")]
    Quoted,
    /// The signing key, or a certificate.
    #[error(
        "this is PEM, and a token is needed: a private key that mints tokens is for `--signing-key`"
    )]
    Pem,
    /// One by line, or the old one with the new.
    #[error("there are {count} tokens, and one is needed")]
    Several { count: usize },
    /// As PowerShell writes it.
    #[error("the text is UTF-16: save it as UTF-8")]
    Utf16,
    /// Bytes that are no text.
    #[error("the token is not text")]
    NotText,
    /// Something between.
    #[error("the token has white space in it: it must be one word")]
    Whitespace,
    /// Bytes that no header may have.
    #[error("the token has characters that cannot be sent in a header")]
    NotAHeader,
    /// Not a JWT.
    #[error(transparent)]
    MalformedToken(#[from] MalformedToken),
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

impl TokenError {
    fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Expired { .. } => {
                "have the token renewed, by whoever writes the file; `keyutil token mint` makes one"
            }
            Self::FileExpired { .. } | Self::FixedExpired { .. } | Self::Mint(_) => {
                return None;
            }
            _ => {
                "the file must hold one JWT and nothing else but white space and `Bearer ` around it: \
                 `keyutil token mint` makes one"
            }
        })
    }
}

impl Diagnose for TokenError {
    fn diagnosis(&self) -> Diagnosis {
        Diagnosis {
            step: Step::Token,
            class: Class::Token,
            cause: chain(self),
            hint: self.hint().map(str::to_owned),
        }
    }
}
