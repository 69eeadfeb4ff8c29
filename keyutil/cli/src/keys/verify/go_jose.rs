//! Reads a key set by the rules of the server: those of `jwk.go` in go-jose 4.1, and of
//! `default_token_key_provider.go` in the server.
//!
//! go-jose parses every key, and the server refuses the whole document where one fails. RFC 7517
//! section 5 asks for the opposite: to ignore the keys that are not understood. Keys that are parsed
//! and are neither RSA nor EC keys, and private ones, are left out.
//!
//! Not checked: the order of a private RSA key's numbers, points of P-384 and P-521, members that
//! occur twice, and whether a certificate in `x5c` has the same key.

use base64::{
    Engine, alphabet,
    engine::{GeneralPurpose, general_purpose::NO_PAD},
    prelude::BASE64_STANDARD,
};
use serde_json::{Map, Value};

/// A public key that the server knows after it has read the document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    /// The `kid`; empty if the key has none.
    pub kid: String,
    /// The numbers.
    pub numbers: Numbers,
}

/// The numbers of a public key. The server keeps the two kinds apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// Modulus and exponent.
    Rsa { n: Vec<u8>, e: Vec<u8> },
    /// The uncompressed point of SEC 1.
    Ec { curve: String, point: Vec<u8> },
}

/// A key that the server cannot parse: `kid`, and why.
pub type Unparsable = (String, String);

/// Returns the keys in the order of the document. The last of those that share kind and `kid` counts.
pub fn public_keys(keys: &[Value]) -> Result<Vec<PublicKey>, Unparsable> {
    let mut parsed = Vec::new();
    for key in keys {
        let kid = key["kid"].as_str().unwrap_or_default().to_owned();
        match public_key(key) {
            Ok(Some(numbers)) => parsed.push(PublicKey { kid, numbers }),
            Ok(None) => {}
            Err(reason) => return Err((kid, reason)),
        }
    }
    Ok(parsed)
}

/// `None` for a key that is parsed and not used.
fn public_key(key: &Value) -> Result<Option<Numbers>, String> {
    let key = key.as_object().ok_or("not an object")?;
    for name in TEXTS {
        text(key, name)?;
    }
    for name in NUMBERS {
        number(key, name)?;
    }
    let certified = check_certificates(key)?;
    let private = number(key, "d")?.is_some();
    match text(key, "kty")? {
        "EC" => {
            let curve = text(key, "crv")?;
            let size = match curve {
                "P-256" => 32,
                "P-384" => 48,
                "P-521" => 66,
                other => return Err(format!("unknown curve `{other}`")),
            };
            let mut point = vec![UNCOMPRESSED];
            for name in ["x", "y"] {
                point.extend(sized(key, name, size)?);
            }
            if curve == "P-256" && p256::PublicKey::from_sec1_bytes(&point).is_err() {
                return Err("`x` and `y` are not a point of the curve".to_owned());
            }
            if private {
                sized(key, "d", size)?;
                return Ok(None);
            }
            let curve = curve.to_owned();
            Ok(Some(Numbers::Ec { curve, point }))
        }
        "RSA" => {
            let (n, e) = (required(key, "n")?, required(key, "e")?);
            if private {
                required(key, "p")?;
                required(key, "q")?;
                return Ok(None);
            }
            Ok(Some(Numbers::Rsa { n, e }))
        }
        "oct" if certified => Err("a symmetric key with certificates".to_owned()),
        "oct" => required(key, "k").map(|_| None),
        "OKP" if text(key, "crv")? == "Ed25519" => required(key, "x").map(|_| None),
        "OKP" => Err(format!("unknown curve `{}`", text(key, "crv")?)),
        "" => Err("no `kty`".to_owned()),
        other => Err(format!("unknown `kty` `{other}`")),
    }
}

/// Returns whether there are certificates.
fn check_certificates(key: &Map<String, Value>) -> Result<bool, String> {
    let wrong = || "`x5c` is not a list of certificates".to_owned();
    let chain = match key.get("x5c") {
        None | Some(Value::Null) => return Ok(false),
        Some(chain) => chain.as_array().ok_or_else(wrong)?,
    };
    for certificate in chain {
        let der = certificate
            .as_str()
            .map(|text| BASE64_STANDARD.decode(text));
        let Some(Ok(der)) = der else {
            return Err(wrong());
        };
        keyutil::x509::certificate::CertificateSummary::from_der(&der).map_err(|_| wrong())?;
    }
    Ok(!chain.is_empty())
}

fn text<'a>(key: &'a Map<String, Value>, name: &str) -> Result<&'a str, String> {
    match key.get(name) {
        None | Some(Value::Null) => Ok(""),
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(format!("`{name}` is not a string")),
    }
}

fn number(key: &Map<String, Value>, name: &str) -> Result<Option<Vec<u8>>, String> {
    if key.get(name).is_none_or(Value::is_null) {
        return Ok(None);
    }
    let decoded = BASE64.decode(text(key, name)?);
    let wrong = |_| format!("`{name}` is not base64url without padding");
    decoded.map(Some).map_err(wrong)
}

fn required(key: &Map<String, Value>, name: &str) -> Result<Vec<u8>, String> {
    number(key, name)?.ok_or_else(|| format!("no `{name}`"))
}

fn sized(key: &Map<String, Value>, name: &str, size: usize) -> Result<Vec<u8>, String> {
    let number = required(key, name)?;
    match number.len() {
        length if length == size => Ok(number),
        length => Err(format!("`{name}` has {length} bytes instead of {size}")),
    }
}

/// Go does not look at the bits after the last byte.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    NO_PAD.with_decode_allow_trailing_bits(true),
);

const TEXTS: [&str; 6] = ["use", "kty", "kid", "crv", "alg", "x5u"];

const NUMBERS: [&str; 11] = ["k", "x", "y", "n", "e", "d", "p", "q", "dp", "dq", "qi"];

/// The first byte of an uncompressed point in SEC 1.
const UNCOMPRESSED: u8 = 4;
