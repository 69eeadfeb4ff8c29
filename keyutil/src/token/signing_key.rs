//! The private key that signs tokens, and its public half.

use std::{fmt, path::Path};

use jsonwebtoken::{
    Algorithm, EncodingKey, Header,
    jwk::{Jwk, PublicKeyUse, ThumbprintHash},
};
use p256::pkcs8::{
    DecodePrivateKey, EncodePrivateKey, LineEnding, PrivateKeyInfoRef,
    der::{self, Decode, Header as DerHeader, SliceReader, asn1::UintRef},
};
use secrecy::SecretString;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use super::Claims;
use crate::{
    base::chain,
    diagnosis::{Class, Diagnose, Diagnosis, Step},
    x509::pem::{self, Detected, KeyKind, PemError},
};

/// Returns a hint for a path without a file, if the key is at the path of this version or of an
/// earlier one: `active/current.pem` or `current.pem` in the folder of the signing keys.
pub fn moved(path: &Path) -> Option<String> {
    let folder = path.parent()?;
    if path.file_name()? != "current.pem" || path.exists() {
        return None;
    }
    if folder.file_name().is_some_and(|name| name == "active") {
        let earlier = folder.parent()?.join("current.pem");
        return earlier.exists().then(|| {
            format!(
                "the key is still at `{}`, the path of earlier versions: run `keyutil key list --dir {}` to move it",
                earlier.display(),
                folder.parent().unwrap_or(folder).display()
            )
        });
    }
    let now = folder.join("active/current.pem");
    let hint = || {
        format!(
            "the key that signs is now `{}`: change the path",
            now.display()
        )
    };
    now.exists().then(hint)
}

/// A private key for tokens: P-256 (ES256) or RSA (RS256).
///
/// The server supports no other algorithms (`default_token_key_provider.go`), so other keys are
/// rejected here.
pub struct SigningKey {
    encoding: EncodingKey,
    algorithm: Algorithm,
    public: Jwk,
    kid: String,
}

impl SigningKey {
    /// Parses a PEM file: PKCS#8 or SEC1 for P-256, PKCS#8 or PKCS#1 for RSA. The first of several
    /// keys is used.
    ///
    /// # Errors
    /// [`KeyError`] says what the file contains instead.
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        let der = pem::private_key(pem).map_err(|error| match error {
            PemError::Encrypted => KeyError::Encrypted,
            PemError::NoBlock {
                found: Detected::Block("PUBLIC KEY" | "RSA PUBLIC KEY"),
                ..
            } => KeyError::Public,
            _ => KeyError::Pem(error),
        })?;
        let found = KeyKind::of(&der);
        let other = KeyError::NotP256 { found };
        match &der {
            PrivateKeyDer::Sec1(der) => {
                let key = p256::SecretKey::from_sec1_der(der.secret_sec1_der());
                Self::from_p256(&key.map_err(|_| other)?)
            }
            PrivateKeyDer::Pkcs1(der) => Self::from_rsa(der.secret_pkcs1_der()),
            PrivateKeyDer::Pkcs8(der) if found == KeyKind::RSA => {
                let outer = PrivateKeyInfoRef::try_from(der.secret_pkcs8_der());
                Self::from_rsa(outer.map_err(|_| other)?.private_key.as_bytes())
            }
            PrivateKeyDer::Pkcs8(der) => {
                let key = p256::SecretKey::from_pkcs8_der(der.secret_pkcs8_der());
                Self::from_p256(&key.map_err(|_| other)?)
            }
            _ => Err(other),
        }
    }

    fn from_p256(key: &p256::SecretKey) -> Result<Self, KeyError> {
        // The JWT library accepts EC keys only as PKCS#8, so SEC1 is converted.
        let found = KeyKind::P256;
        let pkcs8 = key
            .to_pkcs8_der()
            .map_err(|_| KeyError::NotP256 { found })?;
        Self::new(EncodingKey::from_ec_der(pkcs8.as_bytes()), Algorithm::ES256)
    }

    /// Accepts PKCS#1. The PEM and PKCS#8 parsers of the JWT library are not used: they read only
    /// the first block of a file, and the ASN.1 parser recurses as deep as its input is nested.
    fn from_rsa(pkcs1: &[u8]) -> Result<Self, KeyError> {
        if let Ok(bits) = rsa_bits(pkcs1)
            && bits < SHORTEST_RSA
        {
            return Err(KeyError::ShortRsa { bits });
        }
        Self::new(EncodingKey::from_rsa_der(pkcs1), Algorithm::RS256)
    }

    fn new(encoding: EncodingKey, algorithm: Algorithm) -> Result<Self, KeyError> {
        let mut public =
            Jwk::from_encoding_key(&encoding, algorithm).map_err(KeyError::Unusable)?;
        let kid = public
            .thumbprint(ThumbprintHash::SHA256)
            .map_err(KeyError::Unusable)?;
        public.common.key_id = Some(kid.clone());
        public.common.public_key_use = Some(PublicKeyUse::Signature);
        let key = Self {
            encoding,
            algorithm,
            public,
            kid,
        };
        // A key of an unsupported size parses and then fails to sign, so it is tested here.
        key.encode(&serde_json::json!({}), &key.kid)
            .map_err(KeyError::Unusable)?;
        Ok(key)
    }

    /// The `kid`: the RFC 7638 SHA-256 thumbprint of the public key, base64url without padding.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// `ES256` or `RS256`.
    pub fn algorithm(&self) -> &'static str {
        match self.algorithm {
            Algorithm::RS256 => "RS256",
            _ => "ES256",
        }
    }

    /// The public key with its `kid`.
    pub fn public(&self) -> &Jwk {
        &self.public
    }

    /// Signs a token, in the compact form of RFC 7515.
    ///
    /// # Errors
    /// [`KeyError::Unusable`], if the crypto library fails to sign.
    pub fn mint(&self, claims: &Claims) -> Result<SecretString, KeyError> {
        self.encode(claims, claims.kid.as_deref().unwrap_or(&self.kid))
            .map(SecretString::from)
            .map_err(KeyError::Unusable)
    }

    fn encode(
        &self,
        claims: &impl serde::Serialize,
        kid: &str,
    ) -> jsonwebtoken::errors::Result<String> {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(kid.to_owned());
        jsonwebtoken::encode(&header, claims, &self.encoding)
    }
}

/// The smallest RSA key that the crypto library signs with, in bits.
const SHORTEST_RSA: usize = 2048;

/// The size of the modulus, which is the second number (RFC 8017, appendix A.1.2).
fn rsa_bits(pkcs1: &[u8]) -> der::Result<usize> {
    let mut reader = SliceReader::new(pkcs1)?;
    DerHeader::decode(&mut reader)?;
    UintRef::decode(&mut reader)?;
    let modulus = UintRef::decode(&mut reader)?;
    Ok(modulus.as_bytes().len() * 8)
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("kid", &self.kid)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

/// Generates a P-256 key, as PKCS#8 PEM.
///
/// # Errors
/// [`KeyError::Generate`], if the operating system provides no random bytes.
pub fn generate_pem() -> Result<SecretString, KeyError> {
    use p256::elliptic_curve::Generate;
    let key = p256::SecretKey::try_generate().map_err(|_| KeyError::Generate)?;
    let pem = key
        .to_pkcs8_pem(LineEnding::LF)
        .map_err(|_| KeyError::Generate)?;
    Ok(SecretString::from(pem.as_str()))
}

/// A signing key that cannot be used. Never contains a part of the key.
#[expect(missing_docs, reason = "the message says what a field is")]
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file is not PEM, or contains something else.
    #[error(
        "no private key found: expected PEM with a `PRIVATE KEY`, `EC PRIVATE KEY` or `RSA PRIVATE KEY` block"
    )]
    Pem(#[source] PemError),
    /// The key is encrypted with a passphrase.
    #[error(
        "the private key is encrypted: decrypt it with `openssl pkey -in <file> -out <new file>`"
    )]
    Encrypted,
    /// The file contains the public key.
    #[error("this is a public key, and signing needs the private key")]
    Public,
    /// The key has another curve or type.
    #[error(
        "the key ({found}) is malformed, or not one of P-256 (ES256) and RSA (RS256), which the server accepts: generate one with `keyutil key generate`"
    )]
    NotP256 { found: KeyKind },
    /// The crypto library does not sign with it.
    #[error(
        "the RSA key has {bits} bits and is too short: 2048 are needed; `keyutil key generate` makes a P-256 key"
    )]
    ShortRsa { bits: usize },
    /// The crypto library fails to sign with it.
    #[error("the key cannot sign: it is malformed")]
    Unusable(#[source] jsonwebtoken::errors::Error),
    /// There are no random bytes.
    #[error("failed to generate a P-256 key: the operating system provides no random bytes")]
    Generate,
}

impl KeyError {
    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Pem(_) | Self::Public => Some(
                "set `--signing-key` to a private key, P-256 or RSA; `keyutil key generate` makes \
                  one in `certs/signing/active/current.pem`",
            ),
            // The messages say what to do.
            _ => None,
        }
    }
}

impl Diagnose for KeyError {
    fn diagnosis(&self) -> Diagnosis {
        Diagnosis {
            step: Step::Token,
            class: Class::Token,
            cause: chain(self),
            hint: self.hint().map(str::to_owned),
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine, prelude::BASE64_STANDARD};
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn the_thumbprint_is_that_of_rfc_7638() {
        // Section 3.1 of the RFC: its RSA key and the thumbprint.
        let jwk: Jwk = serde_json::from_value(serde_json::json!({
            "kty": "RSA",
            "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
            "e": "AQAB",
            "alg": "RS256",
            "kid": "2011-04-29"
        }))
        .unwrap();
        assert_eq!(
            jwk.thumbprint(ThumbprintHash::SHA256).unwrap(),
            "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
        );
    }

    #[test]
    fn the_kid_is_the_thumbprint_of_the_public_half() {
        let key = SigningKey::from_pem(generate_pem().unwrap().expose_secret().as_bytes()).unwrap();
        let mut bare = key.public().clone();
        bare.common = Default::default();
        assert_eq!(bare.thumbprint(ThumbprintHash::SHA256).unwrap(), key.kid());
    }

    #[test]
    fn sec1_and_pkcs8_of_one_key_are_the_same_key() {
        let secret = {
            use p256::elliptic_curve::Generate;
            p256::SecretKey::generate()
        };
        let sec1 = secret.to_sec1_pem(LineEnding::LF).unwrap();
        let pkcs8 = secret.to_pkcs8_pem(LineEnding::CRLF).unwrap();
        let from_sec1 = SigningKey::from_pem(sec1.as_bytes()).unwrap();
        let from_pkcs8 = SigningKey::from_pem(pkcs8.as_bytes()).unwrap();
        assert_eq!(from_sec1.kid(), from_pkcs8.kid());
    }

    #[test]
    fn other_files_than_signing_keys_are_identified() {
        let encrypted =
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        let older = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\n\
                     AAAA\n-----END RSA PRIVATE KEY-----\n";
        let public = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";
        let garbage = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        for (pem, words) in [
            ("", "no private key found"),
            ("not a key", "no private key found"),
            (encrypted, "encrypted"),
            (older, "encrypted"),
            (public, "public key"),
            (garbage, "not one of P-256"),
        ] {
            let error = SigningKey::from_pem(pem.as_bytes())
                .unwrap_err()
                .to_string();
            assert!(error.contains(words), "{pem}: {error}");
        }
    }

    /// A recursive parser would overflow the stack.
    #[test]
    fn deeply_nested_asn1_is_refused() {
        let endless = [0x30, 0x80].repeat(50_000);
        // From the inside out, each with its length.
        let levels = (0..50_000_u32).flat_map(|level| {
            let length = (level * 6).to_le_bytes();
            length.into_iter().chain([0x84, 0x30])
        });
        let mut measured: Vec<_> = levels.collect();
        measured.reverse();
        let rsa = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01";
        let nests = [[&rsa[..], &endless].concat(), endless, measured];
        for label in ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"] {
            for nest in &nests {
                let text = BASE64_STANDARD.encode(nest);
                let pem = format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n");
                SigningKey::from_pem(pem.as_bytes()).unwrap_err();
            }
        }
    }

    #[test]
    fn debug_shows_no_key() {
        let pem = generate_pem().unwrap();
        let key = SigningKey::from_pem(pem.expose_secret().as_bytes()).unwrap();
        let shown = format!("{key:?} {pem:?}");
        let middle = pem.expose_secret().lines().nth(1).unwrap();
        assert!(!shown.contains(middle), "{shown}");
        assert!(shown.contains(key.kid()));
    }
}
