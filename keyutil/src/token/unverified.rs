//! The content of a token, read without verification.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::Value;

use super::{Permission, PermissionsClaim, permission};
use crate::base::time::{LAST_SECOND, whole_seconds};

/// The header and the claims of a token in the compact form of RFC 7515. The signature is not
/// verified, so the content must not be trusted.
#[derive(Clone, Debug)]
pub struct UnverifiedToken {
    /// The JOSE header.
    pub header: Value,
    /// The claims.
    pub claims: Value,
    permissions_claim: PermissionsClaim,
}

impl UnverifiedToken {
    /// Parses a token without surrounding white space.
    ///
    /// # Errors
    /// [`MalformedToken`], which never contains a part of the text.
    pub fn parse(token: &str) -> Result<Self, MalformedToken> {
        let parts: Vec<&str> = token.split('.').collect();
        let [header, claims, signature] = parts[..] else {
            return Err(MalformedToken::Parts(parts.len()));
        };
        if BASE64_URL_SAFE_NO_PAD.decode(signature).is_err() {
            return Err(MalformedToken::Part("signature"));
        }
        Ok(Self {
            header: object(header, "header")?,
            claims: object(claims, "claims")?,
            permissions_claim: PermissionsClaim::default(),
        })
    }

    #[cfg(test)]
    pub(crate) fn of_parts(header: Value, claims: Value) -> Self {
        Self {
            header,
            claims,
            permissions_claim: PermissionsClaim::default(),
        }
    }

    /// The same token, with its permissions read from another claim than `permissions`.
    #[must_use]
    pub fn with_permissions_claim(self, name: PermissionsClaim) -> Self {
        Self {
            permissions_claim: name,
            ..self
        }
    }

    /// The name of the claim that the permissions are read from.
    pub fn permissions_claim(&self) -> &PermissionsClaim {
        &self.permissions_claim
    }

    /// `kid` of the header.
    pub fn kid(&self) -> Option<&str> {
        self.header["kid"].as_str()
    }

    /// `sub`.
    pub fn subject(&self) -> Option<&str> {
        self.claims["sub"].as_str()
    }

    /// `aud`, a string or an array.
    pub fn audiences(&self) -> Vec<&str> {
        match &self.claims["aud"] {
            Value::String(one) => vec![one],
            Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }

    /// `exp`, if there is one. The token is valid before it and not at it.
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.time("exp")
    }

    /// The later of `nbf` and `iat`. The server rejects the token before it.
    pub fn valid_from(&self) -> Option<SystemTime> {
        self.time("nbf").max(self.time("iat"))
    }

    /// A NumericDate of RFC 7519, which may have a fraction. Clamped to the range of the date
    /// formatters: milliseconds by mistake are in the year 50000, and `humantime` panics.
    fn time(&self, claim: &str) -> Option<SystemTime> {
        if self.malformed_time(claim) {
            return None;
        }
        let seconds = self.claims[claim].as_f64()?.clamp(0.0, LAST_SECOND as f64);
        UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?)
    }

    /// Whether the claim exists and is not a NumericDate: a number that fits the 64 bits into which
    /// the server parses it.
    pub fn malformed_time(&self, claim: &str) -> bool {
        let fits = |seconds: f64| seconds.abs() < i64::MAX as f64;
        let value = self.claims.get(claim);
        value.is_some_and(|value| !value.as_f64().is_some_and(fits))
    }

    /// The entries of the permissions claim that are strings.
    pub fn permissions(&self) -> Vec<&str> {
        let entries = self.claims[self.permissions_claim.as_str()].as_array();
        entries
            .map(|entries| entries.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default()
    }

    /// The remaining validity at `now`.
    pub fn lifetime(&self, now: SystemTime) -> Lifetime {
        if let Some(from) = self.valid_from()
            && let Ok(early) = from.duration_since(now)
            && !early.is_zero()
        {
            return Lifetime::NotYetValid { left: early };
        }
        match self.expires_at() {
            None if self.malformed_time("exp") => Lifetime::Unreadable,
            None => Lifetime::Unlimited,
            Some(expires) => match expires.duration_since(now) {
                Ok(left) if !left.is_zero() => Lifetime::Valid { left },
                Ok(ago) => Lifetime::Expired { ago },
                Err(since) => Lifetime::Expired {
                    ago: since.duration(),
                },
            },
        }
    }

    /// Warnings about what the server would reject or silently ignore, one sentence each.
    pub fn lint(&self, namespace: Option<&str>) -> Vec<String> {
        let mut warnings = Vec::new();
        match self.header["alg"].as_str() {
            Some("ES256" | "RS256") => {}
            Some(other) => warnings.push(format!(
                "`alg` is `{}`: the server accepts only `ES256` and `RS256`",
                other.escape_debug()
            )),
            None => warnings.push("the header has no `alg`".to_owned()),
        }
        if self.kid().is_none() {
            warnings.push(
                "the header has no `kid`, by which the server finds the key: it rejects a token \
                 without one"
                    .to_owned(),
            );
        }
        for claim in ["exp", "nbf", "iat"] {
            if self.malformed_time(claim) {
                warnings.push(format!(
                    "`{claim}` is not a number of seconds since 1970: the server rejects the \
                     token"
                ));
            }
        }
        if self.subject().is_none() {
            warnings
                .push("the token has no `sub`: the server rejects a token without one".to_owned());
        }
        warnings.extend(self.lint_permissions(namespace));
        warnings
    }

    /// Whether the permissions claim exists and is not an array. The server ignores it then.
    pub fn malformed_permissions(&self) -> bool {
        let value = self.claims.get(self.permissions_claim.as_str());
        value.is_some_and(|value| !value.is_array() && !value.is_null())
    }

    fn lint_permissions(&self, namespace: Option<&str>) -> Vec<String> {
        if self.malformed_permissions() {
            return vec![format!(
                "`{}` is not an array: the server ignores it, and refuses every call",
                self.permissions_claim
            )];
        }
        let mut warnings = Vec::new();
        let mut known = Vec::new();
        for text in self.permissions() {
            match text.parse::<Permission>() {
                Ok(permission) => known.push(permission),
                Err(error) => warnings.push(error.to_string()),
            }
        }
        warnings.extend(permission::lint(&known, namespace));
        warnings
    }
}

/// The validity of a token at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// `nbf` or `iat` is in the future.
    NotYetValid {
        /// The time until then.
        left: Duration,
    },
    /// The token is valid until `exp`.
    Valid {
        /// The time until then.
        left: Duration,
    },
    /// The token has no `exp`.
    Unlimited,
    /// `exp` is not a NumericDate.
    Unreadable,
    /// `exp` has passed.
    Expired {
        /// The time since then; zero at `exp` itself.
        ago: Duration,
    },
}

impl fmt::Display for Lifetime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotYetValid { left } => {
                write!(f, "not valid yet (valid in {})", whole_seconds(*left))
            }
            Self::Valid { left } => write!(f, "valid for another {}", whole_seconds(*left)),
            Self::Unlimited => {
                f.write_str("never expires: only removing the signing key revokes it")
            }
            Self::Unreadable => f.write_str("`exp` cannot be read"),
            Self::Expired { ago } if ago.is_zero() => f.write_str("expired just now"),
            Self::Expired { ago } => write!(f, "expired {} ago", whole_seconds(*ago)),
        }
    }
}

fn object(part: &str, name: &'static str) -> Result<Value, MalformedToken> {
    let bytes = BASE64_URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| MalformedToken::Part(name))?;
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(members)) => Ok(Value::Object(members)),
        _ => Err(MalformedToken::Part(name)),
    }
}

/// Text that is not a token in the compact form of RFC 7515.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedToken {
    /// The number of parts is not three.
    #[error("not a JWT: a signed token has three parts, separated by dots, and this one has {0}")]
    Parts(usize),
    /// A part is not what RFC 7515 requires.
    #[error("not a JWT: its {0} cannot be decoded")]
    Part(&'static str),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lifetimes_read_as_sentences() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        for (claims, words) in [
            (serde_json::json!({"exp": 1300}), "valid for another 5m"),
            (serde_json::json!({"exp": 940}), "expired 1m ago"),
            (serde_json::json!({"exp": 1000}), "expired just now"),
            (
                serde_json::json!({"nbf": 1010, "exp": 2000}),
                "not valid yet (valid in 10s)",
            ),
            (serde_json::json!({}), "never expires"),
            (serde_json::json!({"exp": 1e300}), "`exp` cannot be read"),
            (serde_json::json!({"exp": null}), "`exp` cannot be read"),
        ] {
            let token = UnverifiedToken::of_parts(serde_json::json!({}), claims);
            let found = token.lifetime(at(1000)).to_string();
            assert!(found.starts_with(words), "{words}: {found}");
        }
    }

    #[test]
    fn permissions_that_are_not_an_array_are_reported() {
        let token = UnverifiedToken::of_parts(
            serde_json::json!({"alg": "HS256"}),
            serde_json::json!({"permissions": "default:write"}),
        );
        let warnings = token.lint(None).join("\n");
        for words in ["HS256", "no `kid`", "no `sub`", "not an array"] {
            assert!(warnings.contains(words), "{words}: {warnings}");
        }
    }

    #[test]
    fn permissions_are_read_from_the_claim_that_the_server_reads() {
        let token = UnverifiedToken::of_parts(
            serde_json::json!({"alg": "ES256", "kid": "k"}),
            serde_json::json!({"sub": "s", "roles": ["default:write"]}),
        );
        assert!(token.permissions().is_empty());
        let warnings = token.lint(Some("default"));
        assert!(warnings[0].contains("no permissions"), "{warnings:?}");

        let token = token.with_permissions_claim("roles".parse().unwrap());
        assert_eq!(token.permissions(), ["default:write"]);
        assert_eq!(token.lint(Some("default")), [""; 0]);
    }

    /// Milliseconds by mistake: the year 50000, for which `humantime` panics.
    #[test]
    fn times_beyond_the_calendar_are_clamped() {
        let token = |exp: f64| {
            UnverifiedToken::of_parts(
                serde_json::json!({}),
                serde_json::json!({"exp": exp, "nbf": -exp}),
            )
        };
        for exp in [1.8e12, 9e18] {
            let at = token(exp).expires_at().unwrap();
            let told = humantime::format_rfc3339_seconds(at).to_string();
            assert_eq!(told, "9999-12-31T23:59:59Z");
            assert_eq!(token(exp).valid_from(), Some(UNIX_EPOCH));
        }
        assert_eq!(token(1e300).expires_at(), None);
    }

    proptest! {
        #[test]
        fn arbitrary_text_neither_panics_nor_leaks(text in "[\\PC.]{0,80}") {
            if let Err(error) = UnverifiedToken::parse(&text) {
                prop_assert!(text.len() < 20 || !error.to_string().contains(&text));
            }
        }
    }
}
