//! Whether the server would trust a token.

use std::time::SystemTime;

use jsonwebtoken::{Algorithm, DecodingKey, Validation, errors::ErrorKind};
use serde_json::Value;

use super::jwks::{self, JwksError};
use keyutil::{
    base::chain,
    diagnosis::{Class, Diagnosis, Step},
    token::{MalformedToken, UnverifiedToken},
};

/// Checks the signature and the times by the rules of the server: `ES256` and `RS256` alone, the
/// key found by `kid`, no leeway, and the audience when one is named.
///
/// # Errors
/// [`VerifyError`] says which check failed.
pub fn verify(token: &str, key_set: &[u8], audience: Option<&str>) -> Result<(), VerifyError> {
    let unverified = UnverifiedToken::parse(token)?;
    let kid = unverified.kid().ok_or(VerifyError::NoKid)?;
    let algorithm = match unverified.header["alg"].as_str() {
        Some("ES256") => Algorithm::ES256,
        Some("RS256") => Algorithm::RS256,
        other => {
            return Err(VerifyError::Algorithm {
                found: other.unwrap_or("none at all").to_owned(),
            });
        }
    };
    let Some(jwk) = jwks::find(key_set, kid)? else {
        return Err(VerifyError::UnknownKid {
            kid: kid.to_owned(),
            published: jwks::kids(key_set)?.join("`, `"),
        });
    };
    let key = DecodingKey::from_jwk(&jwk).map_err(VerifyError::Key)?;
    let mut validation = Validation::new(algorithm);
    validation.leeway = 0;
    validation.validate_nbf = true;
    validation.required_spec_claims.clear();
    match audience {
        Some(audience) => validation.set_audience(&[audience]),
        None => validation.validate_aud = false,
    }
    jsonwebtoken::decode::<Value>(token, &key, &validation)
        .map_err(|error| VerifyError::from_library(error, &unverified, audience))?;
    if audience.is_some() && unverified.audiences().is_empty() {
        return Err(VerifyError::Audience {
            found: "none".to_owned(),
            expected: audience.unwrap_or_default().to_owned(),
        });
    }
    if unverified.subject().is_none() {
        return Err(VerifyError::NoSubject);
    }
    if ["exp", "nbf", "iat"]
        .iter()
        .any(|claim| unverified.malformed_time(claim))
    {
        return Err(VerifyError::NotANumericDate);
    }
    if unverified.valid_from() > Some(SystemTime::now()) {
        return Err(VerifyError::NotYetValid);
    }
    Ok(())
}

/// Why the server would refuse the token.
#[expect(missing_docs, reason = "the message says what a field is")]
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Not a token.
    #[error(transparent)]
    MalformedToken(#[from] MalformedToken),
    /// The key set cannot be read.
    #[error(transparent)]
    Jwks(#[from] JwksError),
    /// No `kid` in the header.
    #[error("the header has no `kid`")]
    NoKid,
    /// No `sub` in the claims.
    #[error("there is no `sub` claim")]
    NoSubject,
    /// Another algorithm than the two that the server knows.
    #[error("the algorithm is `{}`, and the server accepts `ES256` and `RS256` alone", found.escape_debug())]
    Algorithm { found: String },
    /// The key set has other keys.
    #[error("kid `{}` is not in the key set, which has `{}`", kid.escape_debug(), published.escape_debug())]
    UnknownKid { kid: String, published: String },
    /// The published key cannot be used.
    #[error("the published key cannot be used")]
    Key(#[source] jsonwebtoken::errors::Error),
    /// Signed by another key than the published one.
    #[error("the signature is not that of the published key")]
    Signature,
    /// RFC 7519 section 2.
    #[error("`exp`, `nbf` or `iat` is not a number of seconds since 1970")]
    NotANumericDate,
    /// Too late.
    #[error("the token has expired")]
    Expired,
    /// Too early.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// For somebody else.
    #[error("the audience is `{}`, and `{expected}` was expected", found.escape_debug())]
    Audience {
        /// `aud` of the token.
        found: String,
        expected: String,
    },
    /// Something else that the library does not like.
    #[error("the token is not valid")]
    Other(#[source] jsonwebtoken::errors::Error),
}

impl VerifyError {
    /// What the key set tells of a token that nothing else tells; times and audience are told in
    /// more words by [`explain`](keyutil::explain).
    pub fn of_the_key_set(&self) -> Option<Diagnosis> {
        let hint = match self {
            Self::UnknownKid { .. } => {
                "publish the key before it signs (`keyutil key rotate` does), or sign with one of \
                 those that are published"
            }
            Self::Signature => {
                "two keys have the same `kid`: publish the one that signs; `keyutil key` names \
                 keys by their thumbprint, so that no two are named alike"
            }
            Self::Jwks(_) | Self::Key(_) => {
                "have the JWKS endpoint serve the public keys: `keyutil jwks serve` never serves \
                 anything else"
            }
            _ => return None,
        };
        Some(Diagnosis {
            step: Step::Jwks,
            class: Class::Token,
            cause: chain(self),
            hint: Some(hint.to_owned()),
        })
    }

    fn from_library(
        error: jsonwebtoken::errors::Error,
        token: &UnverifiedToken,
        audience: Option<&str>,
    ) -> Self {
        match error.kind() {
            ErrorKind::InvalidSignature => Self::Signature,
            ErrorKind::ExpiredSignature => Self::Expired,
            ErrorKind::ImmatureSignature => Self::NotYetValid,
            ErrorKind::InvalidAudience => Self::Audience {
                found: token.audiences().join("`, `"),
                expected: audience.unwrap_or_default().to_owned(),
            },
            _ => Self::Other(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use secrecy::ExposeSecret;

    use super::*;
    use crate::keys::Jwks;
    use keyutil::token::{ClaimsTemplate, Permission, SigningKey, signing_key::generate_pem};

    fn key() -> SigningKey {
        SigningKey::from_pem(generate_pem().unwrap().expose_secret().as_bytes()).unwrap()
    }

    fn mint(key: &SigningKey, at: SystemTime, audience: Option<&str>) -> String {
        let template = ClaimsTemplate {
            subject: "worker".into(),
            permissions_claim: Default::default(),
            audience: audience.map(str::to_owned),
            permissions: vec![Permission::write("default")],
            lifetime: Duration::from_secs(300),
        };
        let token = key.mint(&template.at(at)).unwrap();
        token.expose_secret().to_owned()
    }

    #[test]
    fn a_minted_token_verifies_and_others_do_not() {
        let (key, other) = (key(), key());
        let now = SystemTime::now();
        let hour = Duration::from_secs(3600);
        let jwks = Jwks::publishing([&key]).unwrap().document();
        verify(&mint(&key, now, Some("temporal")), &jwks, Some("temporal")).unwrap();
        verify(&mint(&key, now, None), &jwks, None).unwrap();
        for (token, audience, words) in [
            (mint(&other, now, None), None, "is not in the key set"),
            (mint(&key, now - hour, None), None, "expired"),
            (mint(&key, now + hour, None), None, "not valid yet"),
            (
                mint(&key, now, Some("x")),
                Some("temporal"),
                "audience is `x`",
            ),
            (mint(&key, now, None), Some("temporal"), "audience"),
            ("x".to_owned(), None, "1 part"),
        ] {
            let error = verify(&token, &jwks, audience).unwrap_err().to_string();
            assert!(error.contains(words), "{words}: {error}");
        }
        let mut forged = mint(&key, now, None);
        let end = forged.len() - 8;
        let tail = if forged.ends_with("AAAAAAAA") {
            "BBBBBBBB"
        } else {
            "AAAAAAAA"
        };
        forged.replace_range(end.., tail);
        let error = verify(&forged, &jwks, None).unwrap_err().to_string();
        assert!(error.contains("signature"), "{error}");
    }
}
