//! A token that can be sent, and the errors of those that cannot.

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

/// A token that was valid as a header when it was parsed: one word, not empty, and not expired if
/// it is a JWT.
#[derive(Clone)]
pub struct Token {
    parsed: Arc<Parsed>,
}

struct Parsed {
    header: MetadataValue<Ascii>,
    /// The content, if it is a JWT.
    content: Option<UnverifiedToken>,
}

impl Token {
    /// Parses the content of a file, in the forms that [`Token::parse`] accepts.
    ///
    /// # Errors
    /// [`TokenError`], which never contains a part of the file.
    pub fn parse_file(content: &[u8], now: SystemTime) -> Result<Self, TokenError> {
        if Detected::of(content) == Detected::Utf16 {
            return Err(TokenError::Utf16);
        }
        let text = std::str::from_utf8(without_byte_order_mark(content));
        Self::parse(text.map_err(|_| TokenError::NotText)?, now)
    }

    /// Parses a JWT, which the server's default claim mapper requires. Surrounding white space and
    /// a leading `Bearer ` are removed.
    ///
    /// # Errors
    /// [`TokenError`], which never contains a part of the token.
    pub fn parse(raw: &str, now: SystemTime) -> Result<Self, TokenError> {
        let raw = trimmed(raw)?;
        let content = UnverifiedToken::parse(raw)?;
        Self::new(raw, Some(content), now)
    }

    /// Parses an API key: a JWT in Temporal Cloud, and any text elsewhere.
    ///
    /// # Errors
    /// [`TokenError`], if the text is empty, cannot be a header, or is an expired JWT.
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

    /// The value of the `authorization` header, marked as sensitive.
    pub fn header(&self) -> &MetadataValue<Ascii> {
        &self.parsed.header
    }

    /// The content, if it is a JWT.
    pub fn content(&self) -> Option<&UnverifiedToken> {
        self.parsed.content.as_ref()
    }

    /// The token itself, which is secret.
    pub fn text(&self) -> &str {
        let header = self.header().to_str().unwrap_or_default();
        header.strip_prefix("Bearer ").unwrap_or(header)
    }

    /// The expiry, if it has passed or will pass before a call made now reaches the server.
    pub(super) fn expired(&self, now: SystemTime) -> Option<SystemTime> {
        self.expires_at()
            .filter(|expires_at| *expires_at <= now + IN_FLIGHT_MARGIN)
    }
}

/// The server has no leeway: it refuses a call whose token expires in transit.
const IN_FLIGHT_MARGIN: Duration = Duration::from_secs(1);

fn trimmed(raw: &str) -> Result<&str, TokenError> {
    let raw = raw.trim();
    // The scheme is not part of the token, but people copy it.
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

/// The reason why there is no token to send. Never contains a part of one.
#[expect(missing_docs, reason = "the message says what a field is")]
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The text is empty.
    #[error("the token is empty")]
    Empty,
    /// The text is the response of an identity provider.
    #[error(
        "this is JSON, and only the token is needed: extract it, for example with `jq -r .access_token`"
    )]
    Json,
    /// The text is a quoted value of JSON or of a shell.
    #[error("the token is in quotes: remove them")]
    Quoted,
    /// The text is a key or a certificate.
    #[error("this is PEM, and a token is needed: a private key belongs in `--signing-key`")]
    Pem,
    /// The text contains several tokens.
    #[error("there are {count} tokens, and one is needed")]
    Several { count: usize },
    /// The text is UTF-16, as PowerShell writes it.
    #[error("the text is UTF-16: save it as UTF-8")]
    Utf16,
    /// The bytes are not UTF-8.
    #[error("the token is not text")]
    NotText,
    /// The text contains white space.
    #[error("the token contains white space")]
    Whitespace,
    /// The text contains characters that are not allowed in a header.
    #[error("the token contains characters that cannot be sent in a header")]
    NotAHeader,
    /// The text is not a JWT.
    #[error(transparent)]
    MalformedToken(#[from] MalformedToken),
    /// The token had expired when it was read.
    #[error("the token expired at {}", humantime::format_rfc3339_seconds(*at))]
    Expired {
        /// `exp`.
        at: SystemTime,
    },
    /// The token in the file expired while it was in use.
    #[error(
        "the token in the file expired at {}, and {why}",
        humantime::format_rfc3339_seconds(*at)
    )]
    FileExpired {
        /// `exp`.
        at: SystemTime,
        /// The reason why there is no newer one.
        why: String,
    },
    /// The fixed token expired while it was in use.
    #[error(
        "the API key expired at {} and is never renewed: use a signing key or a token file in a long-running process",
        humantime::format_rfc3339_seconds(*at)
    )]
    FixedExpired {
        /// `exp`.
        at: SystemTime,
    },
    /// The key failed to sign.
    #[error("failed to mint a token")]
    Mint(#[source] KeyError),
}

impl TokenError {
    fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Expired { .. } => "renew the token; `keyutil token mint` mints one",
            Self::FileExpired { .. } | Self::FixedExpired { .. } | Self::Mint(_) => {
                return None;
            }
            _ => {
                "the file must contain one JWT; white space around it and a leading `Bearer ` are \
                  allowed; `keyutil token mint` mints one"
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
