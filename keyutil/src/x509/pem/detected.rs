//! What a file holds in place of the PEM block that was looked for.

use std::fmt;

use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use super::Expected;
use crate::{
    base::{read::without_byte_order_mark, redact::is_jwt},
    x509::certificate::CertificateSummary,
};

/// What a file holds, as far as it can be told without repeating any of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detected {
    /// Nothing, or white space.
    Nothing,
    /// A PEM block with one of the usual labels.
    Block(&'static str),
    /// A PEM block with another label.
    OtherBlock,
    /// `-----BEGIN ` is there, and not at the start of a line.
    Indented,
    /// A certificate in DER.
    DerCertificate,
    /// A private key in DER.
    DerPrivateKey,
    /// Something else in DER.
    Der,
    /// PKCS#12: `.p12`, `.pfx`.
    Pkcs12,
    /// Text of two bytes each, as PowerShell writes it.
    Utf16,
    /// A token in the compact form of RFC 7515.
    Token,
    /// A JSON document.
    Json,
    /// Something else.
    Unknown,
}

impl Detected {
    /// Looks at a file.
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

    /// How to make of it what is wanted, if that can be done.
    pub(super) fn remedy(self, expected: Expected) -> &'static str {
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
                write!(f, "the file holds {article} `{label}`")
            }
            Self::OtherBlock => f.write_str("the file holds a PEM block of another kind"),
            Self::Indented => f.write_str(
                "the file has a `-----BEGIN …-----` that is not at the start of a line, where it \
                 has to be",
            ),
            Self::DerCertificate => f.write_str("the file holds a certificate in DER"),
            Self::DerPrivateKey => f.write_str("the file holds a private key in DER"),
            Self::Der => f.write_str("the file holds something in DER"),
            Self::Pkcs12 => f.write_str("the file is a PKCS#12 archive"),
            Self::Utf16 => f.write_str("the text of the file is UTF-16"),
            Self::Token => f.write_str("the file holds a token"),
            Self::Json => f.write_str("the file holds JSON"),
            Self::Unknown => f.write_str("the file has no line `-----BEGIN …-----`"),
        }
    }
}

/// Labels that people meet. Others are not repeated: in a file that lost its line ends, all of the
/// file stands where a label should.
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

/// The first block, unless it is the parameters that may stand before a key.
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

/// Whether a block of this kind begins somewhere.
pub(super) fn begins(text: &[u8], expected: Expected) -> bool {
    let labels: &[&str] = match expected {
        Expected::Certificate => &["CERTIFICATE"],
        Expected::PrivateKey => &["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"],
    };
    blocks(text).any(|block| matches!(block, Detected::Block(label) if labels.contains(&label)))
}

/// PKCS#8; or the older form, which says so below its first line.
pub(super) fn is_encrypted(text: &[u8]) -> bool {
    lines(text).any(|line| {
        line.starts_with(b"-----BEGIN ENCRYPTED PRIVATE KEY")
            || line.starts_with(b"Proc-Type: 4,ENCRYPTED")
    })
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| matches!(byte, b'\n' | b'\r'))
}

/// With its mark, or ASCII with a zero in every other place.
fn is_utf16(text: &[u8]) -> bool {
    let zeros = |offset: usize| {
        let pairs = text.chunks_exact(2).take(16);
        text.len() >= 4 && pairs.into_iter().all(|pair| pair[offset] == 0)
    };
    text.starts_with(b"\xff\xfe") || text.starts_with(b"\xfe\xff") || zeros(0) || zeros(1)
}

/// What is in one SEQUENCE, if that is all there is.
fn sequence(bytes: &[u8]) -> Option<&[u8]> {
    let [0x30, length, rest @ ..] = bytes else {
        return None;
    };
    let (body, length) = match length {
        // Said at the end, as some PKCS#12 archives do.
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
    // The version of PKCS#12 is 3, and it is followed by a SEQUENCE.
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
