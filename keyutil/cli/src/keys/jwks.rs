//! The public document that the server verifies tokens with (RFC 7517).

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk};
use serde::Serialize;
use serde_json::Value;

use keyutil::{
    base::{JsonError, chain},
    diagnosis::{Class, Diagnose, Diagnosis, Step},
    token::SigningKey,
};

/// A checked JWK Set: not empty, a `kid` for every key, and no private member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jwks {
    document: Bytes,
    kids: Vec<String>,
}

impl Jwks {
    /// Creates the document that publishes these keys, in this order.
    ///
    /// # Errors
    /// [`JwksError::Empty`] without keys: the server would drop every key that it knows.
    pub fn publishing<'a>(
        keys: impl IntoIterator<Item = &'a SigningKey>,
    ) -> Result<Self, JwksError> {
        Self::of(keys.into_iter().map(SigningKey::public))
    }

    pub(super) fn of<'a>(keys: impl IntoIterator<Item = &'a Jwk>) -> Result<Self, JwksError> {
        #[derive(Serialize)]
        struct Document<'a> {
            keys: Vec<&'a Jwk>,
        }
        let keys = keys.into_iter().collect();
        let text = serde_json::to_vec_pretty(&Document { keys }).map_err(JwksError::Json)?;
        Self::parse(&text)
    }

    /// Checks a document before it is published. Its bytes are kept unchanged.
    ///
    /// # Errors
    /// [`JwksError`] says which rule it breaks.
    pub fn parse(text: &[u8]) -> Result<Self, JwksError> {
        let document: Value = serde_json::from_slice(text).map_err(JwksError::Json)?;
        let keys = keys_of(&document)?;
        if keys.is_empty() {
            return Err(JwksError::Empty);
        }
        let mut kids = Vec::with_capacity(keys.len());
        for key in keys {
            let kid = key["kid"].as_str().ok_or(JwksError::NoKid)?.to_owned();
            if kid.is_empty() || kid.chars().any(char::is_control) {
                return Err(JwksError::NoKid);
            }
            if let Some(member) = PRIVATE_MEMBERS
                .into_iter()
                .find(|member| key.get(member).is_some())
            {
                return Err(JwksError::Private { kid, member });
            }
            public_key(key, &kid)?;
            if kids.contains(&kid) {
                return Err(JwksError::TwoOfOneKid { kid });
            }
            kids.push(kid);
        }
        Ok(Self {
            document: Bytes::copy_from_slice(text),
            kids,
        })
    }

    /// Returns the document as it is published.
    pub fn document(&self) -> Bytes {
        self.document.clone()
    }

    /// Returns the `kid` of each key, in the order of the document.
    pub fn kids(&self) -> &[String] {
        &self.kids
    }
}

/// Returns the public key with this `kid` from a foreign document, which may also hold keys of
/// unknown kinds.
pub(super) fn find(text: &[u8], kid: &str) -> Result<Option<Jwk>, JwksError> {
    let document: Value = serde_json::from_slice(text).map_err(JwksError::Json)?;
    keys_of(&document)?
        .iter()
        .find(|key| key["kid"] == kid)
        .map(|key| public_key(key, kid))
        .transpose()
}

/// Returns the keys of a foreign document, which may also hold keys of unknown kinds.
pub(super) fn values(text: &[u8]) -> Result<Vec<Value>, JwksError> {
    let document: Value = serde_json::from_slice(text).map_err(JwksError::Json)?;
    keys_of(&document).map(<[Value]>::to_vec)
}

/// Returns the `kid`s of a foreign document.
pub(crate) fn kids(text: &[u8]) -> Result<Vec<String>, JwksError> {
    let document: Value = serde_json::from_slice(text).map_err(JwksError::Json)?;
    Ok(keys_of(&document)?
        .iter()
        .filter_map(|key| key["kid"].as_str().map(str::to_owned))
        .collect())
}

fn keys_of(document: &Value) -> Result<&[Value], JwksError> {
    document["keys"]
        .as_array()
        .map(Vec::as_slice)
        .ok_or(JwksError::NoKeys)
}

fn public_key(key: &Value, kid: &str) -> Result<Jwk, JwksError> {
    let failed = |source| JwksError::Key {
        kid: kid.to_owned(),
        source,
    };
    let jwk: Jwk = serde_json::from_value(key.clone())
        .map_err(|error| failed(JsonError::from(error).into()))?;
    // The library accepts keys of unknown kinds and numbers of any length. A single key that the
    // server cannot parse makes it refuse the whole set.
    match &jwk.algorithm {
        AlgorithmParameters::RSA(rsa) => {
            let modulus = decoded(&rsa.n).map_err(failed)?;
            let exponent = decoded(&rsa.e).map_err(failed)?;
            if modulus.len() < SMALLEST_MODULUS || exponent.is_empty() || exponent.len() > 8 {
                return Err(failed("not an RSA key of 2048 bits or more".into()));
            }
        }
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => {
            let coordinates = [
                decoded(&ec.x).map_err(failed)?,
                decoded(&ec.y).map_err(failed)?,
            ];
            let point = [&[UNCOMPRESSED], &coordinates[0][..], &coordinates[1][..]].concat();
            let full = coordinates.iter().all(|coordinate| coordinate.len() == 32);
            if !full || p256::PublicKey::from_sec1_bytes(&point).is_err() {
                return Err(failed(
                    "its coordinates are not a point of the curve P-256".into(),
                ));
            }
        }
        _ => {
            return Err(failed(
                "neither an RSA key nor a key of the curve P-256".into(),
            ));
        }
    }
    Ok(jwk)
}

fn decoded(text: &str) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
    Ok(BASE64_URL_SAFE_NO_PAD.decode(text)?)
}

/// The smallest RSA modulus, in bytes.
const SMALLEST_MODULUS: usize = 256;

/// The first byte of an uncompressed point in SEC 1.
const UNCOMPRESSED: u8 = 4;

/// The members that only private or secret keys have (RFC 7518 section 6).
const PRIVATE_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// A document that must not be published, or cannot be used.
#[expect(missing_docs, reason = "the message says what a field is")]
#[derive(Debug, thiserror::Error)]
pub enum JwksError {
    /// Not JSON, or truncated.
    #[error("the key set is not JSON")]
    Json(#[source] serde_json::Error),
    /// JSON, but not a JWK Set.
    #[error("the key set has no array `keys`")]
    NoKeys,
    /// A set without keys.
    #[error("the key set is empty: the server would drop every key that it knows")]
    Empty,
    /// The server selects keys by `kid` alone.
    #[error("a key in the set has no usable `kid`")]
    NoKid,
    /// The server would keep only the last one.
    #[error("two keys in the set have the kid `{kid}`")]
    TwoOfOneKid { kid: String },
    /// The document is public, and so the key would be.
    #[error(
        "key `{kid}` in the set has the private member `{member}`: only public keys may be published"
    )]
    Private {
        kid: String,
        /// The name of the member, never its value.
        member: &'static str,
    },
    /// The key is of an unknown kind or lacks a member.
    #[error("key `{kid}` in the set is unusable")]
    Key {
        kid: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Diagnose for JwksError {
    fn diagnosis(&self) -> Diagnosis {
        Diagnosis {
            step: Step::Files,
            class: Class::Usage,
            cause: chain(self),
            hint: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use secrecy::ExposeSecret;

    use super::*;
    use keyutil::token::signing_key::generate_pem;

    fn key() -> SigningKey {
        SigningKey::from_pem(generate_pem().unwrap().expose_secret().as_bytes()).unwrap()
    }

    #[test]
    fn only_public_members_are_ever_published() {
        let keys = [key(), key()];
        let jwks = Jwks::publishing(&keys).unwrap();
        let document: Value = serde_json::from_slice(&jwks.document()).unwrap();
        for (published, key) in document["keys"].as_array().unwrap().iter().zip(&keys) {
            let mut members: Vec<_> = published.as_object().unwrap().keys().collect();
            members.sort();
            assert_eq!(members, ["alg", "crv", "kid", "kty", "use", "x", "y"]);
            assert_eq!(published["kid"], key.kid());
        }
        assert_eq!(jwks.kids(), [keys[0].kid(), keys[1].kid()]);
    }

    #[test]
    fn dangerous_documents_are_refused() {
        let good: Value =
            serde_json::from_slice(&Jwks::publishing([&key()]).unwrap().document()).unwrap();
        let with = |member: &str, value: Value| {
            let mut key = good["keys"][0].clone();
            key[member] = value;
            serde_json::json!({ "keys": [key] }).to_string()
        };
        for (text, words) in [
            (String::new(), "not JSON"),
            (good.to_string()[..40].to_owned(), "not JSON"),
            ("{}".to_owned(), "no array"),
            (r#"{"error":"down"}"#.to_owned(), "no array"),
            (r#"{"keys":{}}"#.to_owned(), "no array"),
            (r#"{"keys":[]}"#.to_owned(), "empty"),
            (with("d", "secret".into()), "private member `d`"),
            (with("kid", Value::Null), "no usable `kid`"),
            (with("kty", "EC2".into()), "unusable"),
            (with("kid", "".into()), "no usable `kid`"),
            (with("kid", "a\nb".into()), "no usable `kid`"),
            (with("x", "AAAA".into()), "unusable"),
            (with("x", good["keys"][0]["y"].clone()), "unusable"),
            (
                serde_json::json!({"keys": [good["keys"][0], good["keys"][0]]}).to_string(),
                "two keys",
            ),
        ] {
            let error = Jwks::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    /// JSON of any shape, in which the relevant names are likely members.
    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-zA-Z0-9_-]{0,4}|EC|RSA|P-256|sig".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            let name = "keys|kid|kty|crv|x|y|n|e|d|error";
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(name, inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_document_that_is_cut_short_is_refused(part in 0.0..1.0) {
            let document = Jwks::publishing([&key(), &key()]).unwrap().document();
            let whole = document.trim_ascii_end();
            let cut = (whole.len() as f64 * part) as usize;
            prop_assert!(Jwks::parse(&whole[..cut]).is_err());
        }

        #[test]
        fn what_has_no_usable_key_is_refused(document in json()) {
            // A valid coordinate is never guessed, so the document has no usable key.
            prop_assert!(Jwks::parse(document.to_string().as_bytes()).is_err());
            let among = serde_json::json!({ "keys": [document] });
            prop_assert!(Jwks::parse(among.to_string().as_bytes()).is_err());
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Jwks::parse(&text);
            let _ = find(&text, "kid");
        }
    }
}
