//! Verifies tokens by the rules of the server.

mod go_jose;

use std::time::SystemTime;

use jsonwebtoken::{Algorithm, DecodingKey, Validation, errors::ErrorKind};
use serde_json::Value;

use self::go_jose::Numbers;
pub use self::go_jose::PublicKey;
use super::jwks::{self, JwksError};
use keyutil::{
    base::chain,
    diagnosis::{Class, Diagnosis, Step},
    token::{MalformedToken, UnverifiedToken},
};

/// Returns the keys that the server knows after it has read this key set.
///
/// # Errors
/// [`VerifyError::Jwks`] and [`VerifyError::Unparsable`]: the server refuses the whole set, and
/// keeps the keys of its last successful fetch.
pub fn server_keys(key_set: &[u8]) -> Result<Vec<PublicKey>, VerifyError> {
    let keys = jwks::values(key_set)?;
    go_jose::public_keys(&keys).map_err(|(kid, reason)| VerifyError::Unparsable { kid, reason })
}

/// Returns a `kid` under which the set has two keys of one kind.
pub fn kid_of_two_keys(key_set: &[u8]) -> Option<String> {
    let known = server_keys(key_set).ok()?;
    let kind = |key: &PublicKey| std::mem::discriminant(&key.numbers);
    let twice = known.iter().enumerate().find(|(index, key)| {
        let before = &known[..*index];
        before
            .iter()
            .any(|other| other.kid == key.kid && kind(other) == kind(key))
    });
    twice.map(|(_, key)| key.kid.clone())
}

impl PublicKey {
    /// Whether the server looks here for the key of a token that is signed so.
    fn is_for(&self, algorithm: Algorithm) -> bool {
        matches!(self.numbers, Numbers::Rsa { .. }) == (algorithm == Algorithm::RS256)
    }

    fn decoding_key(&self) -> Result<DecodingKey, VerifyError> {
        match &self.numbers {
            Numbers::Rsa { n, e } => {
                let first = n.iter().position(|byte| *byte != 0).unwrap_or(n.len());
                let bits = (n.len() - first) * 8;
                if bits < SHORTEST_RSA {
                    let kid = self.kid.clone();
                    return Err(VerifyError::ShortRsa { kid, bits });
                }
                Ok(DecodingKey::from_rsa_raw_components(n, e))
            }
            Numbers::Ec { curve, point } if curve == "P-256" => Ok(DecodingKey::from_ec_der(point)),
            Numbers::Ec { curve, .. } => Err(VerifyError::Curve {
                kid: self.kid.clone(),
                curve: curve.clone(),
            }),
        }
    }

    /// Whether this key has signed the token.
    fn has_signed(&self, token: &str, algorithm: Algorithm) -> bool {
        let mut validation = Validation::new(algorithm);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        self.decoding_key()
            .is_ok_and(|key| jsonwebtoken::decode::<Value>(token, &key, &validation).is_ok())
    }
}

/// The smallest RSA key that is accepted here, in bits.
const SHORTEST_RSA: usize = 2048;

/// Checks signature and times as the server does: `ES256` and `RS256` only, the key selected by
/// `kid`, the last of several, no leeway, and the audience if one is given.
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
    let known = server_keys(key_set)?;
    let mut usable = known.iter().rev().filter(|key| key.is_for(algorithm));
    let Some(key) = usable.clone().find(|key| key.kid == kid) else {
        let kid = kid.to_owned();
        if let Some(other) = usable.find(|key| key.has_signed(token, algorithm)) {
            let published = other.kid.clone();
            return Err(VerifyError::OtherKid { kid, published });
        }
        return Err(VerifyError::UnknownKid {
            kid,
            published: jwks::kids(key_set)?.join("`, `"),
        });
    };
    let key = key.decoding_key()?;
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
    /// The server compares `kid`s byte for byte.
    #[error("kid `{}` is not in the key set: the key that signed the token is published there as `{}`", kid.escape_debug(), published.escape_debug())]
    OtherKid { kid: String, published: String },
    /// The server keeps the keys of its last successful fetch.
    #[error("the server refuses the whole key set, because it cannot parse key `{}`: {}", kid.escape_debug(), reason.escape_debug())]
    Unparsable { kid: String, reason: String },
    #[error("the published RSA key `{}` has {bits} bits, and is too short: 2048 are needed", kid.escape_debug())]
    ShortRsa { kid: String, bits: usize },
    #[error("the published key `{}` is of the curve {curve}, and `ES256` needs P-256", kid.escape_debug())]
    Curve { kid: String, curve: String },
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
            Self::OtherKid { published, .. } => {
                return Some(self.of_key_set(format!(
                    "publish the key under the `kid` of the token, or mint with `--kid {}`",
                    published.escape_debug()
                )));
            }
            Self::Unparsable { .. } => {
                "remove the key from the set, or publish the keys for the server in a set of their own; \
                 the server keeps the keys of its last successful fetch, and has none after a restart"
            }
            Self::ShortRsa { .. } | Self::Curve { .. } => {
                "sign with a P-256 key or an RSA key of 2048 bits or more; `keyutil key generate` \
                 makes one"
            }
            Self::Jwks(_) => {
                "serve the public keys from the JWKS endpoint, for example with `keyutil jwks serve`"
            }
            _ => return None,
        };
        Some(self.of_key_set(hint.to_owned()))
    }

    fn of_key_set(&self, hint: String) -> Diagnosis {
        Diagnosis {
            step: Step::Jwks,
            class: Class::Token,
            cause: chain(self),
            hint: Some(hint),
        }
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
            kid: None,
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

    /// A key set of these keys.
    fn set(keys: &[Value]) -> Vec<u8> {
        serde_json::json!({ "keys": keys }).to_string().into_bytes()
    }

    fn published(key: &SigningKey) -> Value {
        serde_json::to_value(key.public()).unwrap()
    }

    #[test]
    fn one_key_that_the_server_cannot_parse_drops_the_whole_set() {
        let key = key();
        let token = mint(&key, SystemTime::now(), None);
        let mut with_d = published(&key);
        with_d["d"] = "AQAB".into();
        for (other, words) in [
            (
                serde_json::json!({"kty": "OKP", "crv": "X25519", "x": "AQAB", "kid": "x"}),
                "curve `X25519`",
            ),
            (serde_json::json!({"kty": "oct", "kid": "x"}), "no `k`"),
            (serde_json::json!({"kty": "AKP", "kid": "x"}), "`kty` `AKP`"),
            (serde_json::json!({"kid": "x"}), "no `kty`"),
            (
                serde_json::json!({"kty": "RSA", "n": "AQAB=", "e": "AQAB", "kid": "x"}),
                "padding",
            ),
            (
                serde_json::json!({"kty": "RSA", "n": "AQAB", "e": 3, "kid": "x"}),
                "`e` is not a string",
            ),
            (
                serde_json::json!({"kty": "EC", "crv": "P-256", "x": "AQAB", "y": "AQAB", "kid": "x"}),
                "3 bytes",
            ),
            (
                serde_json::json!({"kty": "RSA", "n": "AQAB", "e": "AQAB", "x5c": ["AQAB"], "kid": "x"}),
                "`x5c`",
            ),
            (serde_json::json!(null), "not an object"),
            (with_d, "`d` has 3 bytes"),
        ] {
            let error = verify(&token, &set(&[published(&key), other]), None).unwrap_err();
            let told = error.to_string();
            assert!(
                told.starts_with("the server refuses the whole key set"),
                "{told}"
            );
            assert!(told.contains(words), "{words}: {told}");
        }
        // These are parsed, and not used.
        for other in [
            serde_json::json!({"kty": "oct", "k": "AQAB"}),
            serde_json::json!({"kty": "OKP", "crv": "Ed25519", "x": "AQAB"}),
            serde_json::json!({"kty": "RSA", "n": "AQAB", "e": "AQAB", "use": "enc", "alg": "X"}),
        ] {
            verify(&token, &set(&[other, published(&key)]), None).unwrap();
        }
    }

    #[test]
    fn of_two_keys_with_one_kid_the_last_counts() {
        let (key, other) = (key(), key());
        let mut same = published(&other);
        same["kid"] = key.kid().into();
        let token = mint(&key, SystemTime::now(), None);
        verify(&token, &set(&[same.clone(), published(&key)]), None).unwrap();
        let error = verify(&token, &set(&[published(&key), same]), None).unwrap_err();
        assert!(matches!(error, VerifyError::Signature), "{error}");
    }

    #[test]
    fn a_kid_in_another_spelling_is_told_as_that() {
        let key = key();
        let token = mint(&key, SystemTime::now(), None);
        let mut padded = published(&key);
        let kid = format!("{}=", key.kid());
        padded["kid"] = kid.clone().into();
        let error = verify(&token, &set(&[padded]), None).unwrap_err();
        let told = error.to_string();
        assert!(
            told.ends_with(&format!("is published there as `{kid}`")),
            "{told}"
        );
        let hint = error.key_set_diagnosis().unwrap().hint.unwrap();
        assert!(hint.contains(&format!("`--kid {kid}`")), "{hint}");
    }
}
