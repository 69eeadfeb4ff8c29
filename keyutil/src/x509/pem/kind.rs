//! Of what kind a private key is, by the object identifiers in it, which are no secret.

use std::fmt;

use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// A kind of private key, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyKind(&'static str);

impl KeyKind {
    /// RSA, with any padding but PSS.
    pub const RSA: Self = Self("RSA");
    /// The curve P-256.
    pub const P256: Self = Self("P-256");

    /// The kind of this key.
    pub fn of(key: &PrivateKeyDer<'_>) -> Self {
        let der = match key {
            PrivateKeyDer::Pkcs1(_) => return Self::RSA,
            // The curve stands behind the key.
            PrivateKeyDer::Sec1(key) => key.secret_sec1_der(),
            // The algorithm stands before the key.
            PrivateKeyDer::Pkcs8(key) => {
                let der = key.secret_pkcs8_der();
                &der[..der.len().min(ALGORITHM_WITHIN)]
            }
            _ => &[],
        };
        let holds = |identifier: &[u8]| {
            let written = [&[OBJECT_IDENTIFIER, identifier.len() as u8], identifier].concat();
            der.windows(written.len()).any(|window| window == written)
        };
        let found = KINDS.into_iter().find(|(identifier, _)| holds(identifier));
        found.map_or(Self("of an unknown kind"), |(_, kind)| kind)
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Of the first bytes of PKCS#8: room for two identifiers.
const ALGORITHM_WITHIN: usize = 48;

/// The tag in DER.
const OBJECT_IDENTIFIER: u8 = 6;

/// The curves before the algorithm that has them.
const KINDS: [(&[u8], KeyKind); 14] = [
    (b"\x2a\x86\x48\xce\x3d\x03\x01\x07", KeyKind::P256),
    (b"\x2b\x81\x04\x00\x21", KeyKind("P-224")),
    (b"\x2b\x81\x04\x00\x22", KeyKind("P-384")),
    (b"\x2b\x81\x04\x00\x23", KeyKind("P-521")),
    (b"\x2b\x81\x04\x00\x0a", KeyKind("secp256k1")),
    (b"\x2b\x65\x70", KeyKind("Ed25519")),
    (b"\x2b\x65\x71", KeyKind("Ed448")),
    (b"\x2b\x65\x6e", KeyKind("X25519")),
    (b"\x2b\x65\x6f", KeyKind("X448")),
    (b"\x2a\x86\x48\xce\x38\x04\x01", KeyKind("DSA")),
    (
        b"\x2a\x86\x48\x86\xf7\x0d\x01\x03\x01",
        KeyKind("Diffie-Hellman"),
    ),
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a", KeyKind("RSA-PSS")),
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01", KeyKind::RSA),
    (
        b"\x2a\x86\x48\xce\x3d\x02\x01",
        KeyKind("of an unknown curve"),
    ),
];
