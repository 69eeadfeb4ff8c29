//! PEM files, and errors that say what a file contains instead.
//!
//! The parser's own errors quote the line at which they fail, as a list of bytes. In a key file
//! that lost its line ends, that line is the key. Nothing in this module therefore holds a part of
//! a file, except the labels of known blocks.

use std::fmt;

use tokio_rustls::rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
    pem::{self, PemObject},
};

use crate::{
    base::{read::without_byte_order_mark, redact::is_jwt},
    x509::certificate::CertificateSummary,
};

/// All certificates of a file, at least one.
pub fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    all(text, Expected::Certificate)
}

/// All revocation lists of a file. There is at least one.
pub fn revocation_lists(
    text: &[u8],
) -> Result<Vec<CertificateRevocationListDer<'static>>, PemError> {
    all(text, Expected::RevocationList)
}

fn all<T: PemObject>(text: &[u8], expected: Expected) -> Result<Vec<T>, PemError> {
    let text = without_byte_order_mark(text);
    let found = T::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|error| PemError::of(error, text, expected))?;
    if found.is_empty() {
        return Err(PemError::no_block(text, expected));
    }
    Ok(found)
}

/// The first private key of a file: PKCS#8, PKCS#1 or SEC1, not encrypted.
pub fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, PemError> {
    let text = without_byte_order_mark(text);
    PrivateKeyDer::from_pem_slice(text).map_err(|error| {
        if is_encrypted(text) {
            PemError::Encrypted
        } else {
            PemError::of(error, text, Expected::PrivateKey)
        }
    })
}

/// The number of private keys that can be parsed.
pub fn count_private_keys(text: &[u8]) -> usize {
    PrivateKeyDer::pem_slice_iter(without_byte_order_mark(text))
        .filter(Result::is_ok)
        .count()
}

/// An error in a PEM file. Never contains a part of it.
#[expect(missing_docs, reason = "the message says what a field is")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// The file has no block of the expected kind.
    #[error("{found}, and {expected} in PEM is needed{}", found.remedy(*expected))]
    NoBlock { expected: Expected, found: Detected },
    /// The private key is encrypted.
    #[error("the private key is encrypted")]
    Encrypted,
    /// A block has no end.
    #[error(
        "a block has no `-----END …-----` line: the file may be truncated, or have lost its line breaks"
    )]
    NoEnd,
    /// A `BEGIN` line is malformed.
    #[error("a `-----BEGIN …-----` line is malformed: the file may have lost its line breaks")]
    Begin,
    /// The content of a block is not base64.
    #[error("the text of a block is not base64")]
    Base64,
    /// Any other error.
    #[error("the file is malformed")]
    Other,
}

impl PemError {
    fn of(error: pem::Error, text: &[u8], expected: Expected) -> Self {
        // A malformed block of another kind does not matter.
        let named = matches!(Detected::of(text), Detected::Block(_));
        let elsewhere = named && !begins(text, expected);
        match error {
            pem::Error::NoItemsFound => Self::no_block(text, expected),
            pem::Error::MissingSectionEnd { .. } | pem::Error::Base64Decode(_) if elsewhere => {
                Self::no_block(text, expected)
            }
            pem::Error::MissingSectionEnd { .. } => Self::NoEnd,
            pem::Error::IllegalSectionStart { .. } => Self::Begin,
            pem::Error::Base64Decode(_) => Self::Base64,
            _ => Self::Other,
        }
    }

    fn no_block(text: &[u8], expected: Expected) -> Self {
        let found = Detected::of(text);
        Self::NoBlock { expected, found }
    }
}

/// The expected content of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// At least one certificate.
    Certificate,
    /// A private key.
    PrivateKey,
    /// At least one certificate revocation list.
    RevocationList,
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Certificate => "a certificate",
            Self::PrivateKey => "a private key",
            Self::RevocationList => "a certificate revocation list",
        })
    }
}

/// The content of a file, as far as it can be told without repeating a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detected {
    /// Nothing, or white space.
    Nothing,
    /// A PEM block with a known label.
    Block(&'static str),
    /// A PEM block with another label.
    OtherBlock,
    /// A `-----BEGIN ` that is not at the start of a line.
    Indented,
    /// A certificate in DER.
    DerCertificate,
    /// A private key in DER.
    DerPrivateKey,
    /// Something else in DER.
    Der,
    /// PKCS#12: `.p12`, `.pfx`.
    Pkcs12,
    /// UTF-16 text, as PowerShell writes it.
    Utf16,
    /// A token in the compact form of RFC 7515.
    Token,
    /// A JSON document.
    Json,
    /// Something else.
    Unknown,
}

impl Detected {
    /// Detects the content of a file.
    pub fn of(text: &[u8]) -> Self {
        let text = without_byte_order_mark(text);
        let trimmed = text.trim_ascii();
        if trimmed.is_empty() {
            return Self::Nothing;
        }
        if is_utf16(text) {
            return Self::Utf16;
        }
        if let Some(block) = block(text) {
            return block;
        }
        if contains(text, b"-----BEGIN ") {
            return Self::Indented;
        }
        if let Some(body) = sequence(text) {
            return der(text, body);
        }
        match std::str::from_utf8(trimmed) {
            Ok(text) if is_jwt(text) => Self::Token,
            Ok(text) if text.starts_with(['{', '[']) => Self::Json,
            _ => Self::Unknown,
        }
    }

    /// A command that converts the content to the expected kind, if there is one.
    fn remedy(self, expected: Expected) -> &'static str {
        match (self, expected) {
            (Self::DerCertificate, Expected::Certificate) => {
                ": `openssl x509 -inform DER -in <file> -out <new file>`"
            }
            (Self::DerPrivateKey, Expected::PrivateKey) => {
                ": `openssl pkey -inform DER -in <file> -out <new file>`"
            }
            (Self::Pkcs12, Expected::Certificate) => {
                ": `openssl pkcs12 -in <file> -nokeys -out <new file>`"
            }
            (Self::Pkcs12, Expected::PrivateKey) => {
                ": `openssl pkcs12 -in <file> -nocerts -nodes -out <new file>`"
            }
            (Self::Block("OPENSSH PRIVATE KEY"), Expected::PrivateKey) => {
                ": `ssh-keygen -p -N '' -m PKCS8 -f <copy of the file>`"
            }
            (Self::Block("TRUSTED CERTIFICATE"), Expected::Certificate) => {
                ": `openssl x509 -in <file> -out <new file>`"
            }
            (Self::Block("PKCS7"), Expected::Certificate) => {
                ": `openssl pkcs7 -print_certs -in <file> -out <new file>`"
            }
            (Self::Der, Expected::RevocationList) => {
                ": `openssl crl -inform DER -in <file> -out <new file>`"
            }
            (Self::Utf16, _) => ": save it as UTF-8",
            _ => "",
        }
    }
}

impl fmt::Display for Detected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("the file is empty"),
            Self::Block(label) => {
                let article = match label.starts_with(['E', 'O', 'R', 'X']) {
                    true => "an",
                    false => "a",
                };
                write!(f, "the file contains {article} `{label}`")
            }
            Self::OtherBlock => f.write_str("the file contains a PEM block of another kind"),
            Self::Indented => {
                f.write_str("the file has a `-----BEGIN …-----` that is not at the start of a line")
            }
            Self::DerCertificate => f.write_str("the file contains a certificate in DER"),
            Self::DerPrivateKey => f.write_str("the file contains a private key in DER"),
            Self::Der => f.write_str("the file contains something in DER"),
            Self::Pkcs12 => f.write_str("the file is a PKCS#12 archive"),
            Self::Utf16 => f.write_str("the file is UTF-16 text"),
            Self::Token => f.write_str("the file contains a token"),
            Self::Json => f.write_str("the file contains JSON"),
            Self::Unknown => f.write_str("the file has no `-----BEGIN …-----` line"),
        }
    }
}

/// Known labels. Other labels are not repeated: in a file that lost its line ends, the whole file
/// is in the place of a label.
const LABELS: [&str; 20] = [
    "CERTIFICATE",
    "TRUSTED CERTIFICATE",
    "X509 CERTIFICATE",
    "CERTIFICATE REQUEST",
    "NEW CERTIFICATE REQUEST",
    "X509 CRL",
    "PKCS7",
    "CMS",
    "PUBLIC KEY",
    "RSA PUBLIC KEY",
    "PRIVATE KEY",
    "RSA PRIVATE KEY",
    "EC PRIVATE KEY",
    "DSA PRIVATE KEY",
    "ENCRYPTED PRIVATE KEY",
    "OPENSSH PRIVATE KEY",
    "PGP PRIVATE KEY BLOCK",
    "PGP PUBLIC KEY BLOCK",
    "DH PARAMETERS",
    "EC PARAMETERS",
];

/// The first block, unless it contains the parameters that may precede a key.
fn block(text: &[u8]) -> Option<Detected> {
    let mut blocks = blocks(text).peekable();
    let first = blocks.peek().copied();
    blocks
        .find(|block| *block != Detected::Block("EC PARAMETERS"))
        .or(first)
}

fn blocks(text: &[u8]) -> impl Iterator<Item = Detected> {
    lines(text).filter_map(|line| {
        let line = line.strip_prefix(b"-----BEGIN ")?.trim_ascii_end();
        let label = line.strip_suffix(b"-----");
        let known = LABELS
            .into_iter()
            .find(|known| label == Some(known.as_bytes()));
        Some(known.map_or(Detected::OtherBlock, Detected::Block))
    })
}

/// Whether the file has a block of this kind.
fn begins(text: &[u8], expected: Expected) -> bool {
    let labels: &[&str] = match expected {
        Expected::Certificate => &["CERTIFICATE"],
        Expected::PrivateKey => &["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"],
        Expected::RevocationList => &["X509 CRL"],
    };
    blocks(text).any(|block| matches!(block, Detected::Block(label) if labels.contains(&label)))
}

/// PKCS#8, or the older form with a header below its first line.
fn is_encrypted(text: &[u8]) -> bool {
    lines(text).any(|line| {
        line.starts_with(b"-----BEGIN ENCRYPTED PRIVATE KEY")
            || line.starts_with(b"Proc-Type: 4,ENCRYPTED")
    })
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| matches!(byte, b'\n' | b'\r'))
}

/// With a byte order mark, or ASCII with a zero in every other byte.
fn is_utf16(text: &[u8]) -> bool {
    let zeros = |offset: usize| {
        let pairs = text.chunks_exact(2).take(16);
        text.len() >= 4 && pairs.into_iter().all(|pair| pair[offset] == 0)
    };
    text.starts_with(b"\xff\xfe") || text.starts_with(b"\xfe\xff") || zeros(0) || zeros(1)
}

/// The content of a SEQUENCE that spans all bytes.
fn sequence(bytes: &[u8]) -> Option<&[u8]> {
    let [0x30, length, rest @ ..] = bytes else {
        return None;
    };
    let (body, length) = match length {
        // Indefinite length, as in some PKCS#12 archives.
        0x80 => (rest, rest.len()),
        ..0x80 => (rest, usize::from(*length)),
        0x81..=0x84 => {
            let (length, body) = rest.split_at_checked(usize::from(length & 0x7f))?;
            let add = |sum, byte: &u8| sum << 8 | usize::from(*byte);
            (body, length.iter().fold(0, add))
        }
        _ => return None,
    };
    (body.len() == length).then_some(body)
}

fn der(bytes: &[u8], body: &[u8]) -> Detected {
    // The version of PKCS#12 is 3, followed by a SEQUENCE.
    if body.starts_with(&[2, 1, 3, 0x30]) {
        Detected::Pkcs12
    } else if CertificateSummary::from_der(bytes).is_ok() {
        Detected::DerCertificate
    } else if PrivateKeyDer::try_from(bytes).is_ok() {
        Detected::DerPrivateKey
    } else {
        Detected::Der
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}

/// The kind of a private key, for messages. Object identifiers are not secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyKind(&'static str);

impl KeyKind {
    /// RSA, except RSA-PSS.
    pub const RSA: Self = Self("RSA");
    /// The curve P-256.
    pub const P256: Self = Self("P-256");

    /// Detects the kind of a key.
    pub fn of(key: &PrivateKeyDer<'_>) -> Self {
        let der = match key {
            PrivateKeyDer::Pkcs1(_) => return Self::RSA,
            // The curve follows the key.
            PrivateKeyDer::Sec1(key) => key.secret_sec1_der(),
            // The algorithm precedes the key.
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

/// In the first bytes of PKCS#8: room for two identifiers.
const ALGORITHM_WITHIN: usize = 48;

/// The DER tag.
const OBJECT_IDENTIFIER: u8 = 6;

/// Curves first, then the algorithms that have them.
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
