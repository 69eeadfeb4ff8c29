//! Verifies tokens by the rules of the server.

use std::time::SystemTime;

use jsonwebtoken::{Algorithm, DecodingKey, Validation, errors::ErrorKind};
use serde_json::Value;

use super::jwks::{self, JwksError};
use keyutil::{
    base::chain,
    diagnosis::{Class, Diagnosis, Step},
    token::{MalformedToken, UnverifiedToken},
};

/// Checks signature and times as the server does: `ES256` and `RS256` only, the key selected by
/// `kid`, no leeway, and the audience if one is given.
///
/// # Errors
/// [`VerifyError`], the first check that failed.
pub fn verify(token: &str, key_set: &[u8], audience: Option<&str>) -> Result<(), VerifyError> {
    let unverified = UnverifiedToken::parse(token)?;
    let kid = unverified.kid().ok_or(VerifyError::NoKid)?;
    let algorithm = match unverified.header["alg"].as_str() {
        Some("ES256") => Algorithm::ES256,
        Some("RS256") => Algorithm::RS256,
        other => {
            return Err(VerifyError::Algorithm {
                found: other.unwrap_or("none").to_owned(),
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

/// The server would refuse the token.
#[expect(missing_docs, reason = "the message says what a field is")]
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Not a JWT.
    #[error(transparent)]
    MalformedToken(#[from] MalformedToken),
    /// The key set cannot be read.
    #[error(transparent)]
    Jwks(#[from] JwksError),
    #[error("the header of the token has no `kid`")]
    NoKid,
    #[error("the token has no `sub` claim")]
    NoSubject,
    /// The server knows only two algorithms.
    #[error("the algorithm is `{}`, and the server accepts only `ES256` and `RS256`", found.escape_debug())]
    Algorithm { found: String },
    #[error("kid `{}` is not in the key set, which has `{}`", kid.escape_debug(), published.escape_debug())]
    UnknownKid { kid: String, published: String },
    #[error("the published key is unusable")]
    Key(#[source] jsonwebtoken::errors::Error),
    /// Another key than the published one signed it.
    #[error("the signature does not match the published key")]
    Signature,
    /// RFC 7519 section 2.
    #[error("`exp`, `nbf` or `iat` is not a number of seconds since 1970")]
    NotANumericDate,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYetValid,
    #[error("the audience is `{}`, expected `{expected}`", found.escape_debug())]
    Audience {
        /// `aud` of the token.
        found: String,
        expected: String,
    },
    /// Any other error of the library.
    #[error("the token is not valid")]
    Other(#[source] jsonwebtoken::errors::Error),
}

impl VerifyError {
    /// Returns the diagnosis of errors that concern the key set. [`explain`](keyutil::explain)
    /// explains times and audience in more detail.
    pub fn key_set_diagnosis(&self) -> Option<Diagnosis> {
        let hint = match self {
            Self::UnknownKid { .. } => {
                "publish the key before it signs, as `keyutil key rotate` does, or sign with a published \
                 key"
            }
            Self::Signature => {
                "two keys have the same `kid`: publish the key that signs; the `kid`s of `keyutil key` are \
                 thumbprints, and therefore unique"
            }
            Self::Jwks(_) | Self::Key(_) => {
                "serve the public keys from the JWKS endpoint, for example with `keyutil jwks serve`"
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
            ("x".to_owned(), None, "this one has 1"),
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
