//! PEM that somebody else wrote, and what is wrong with it in words.
//!
//! The parser's own errors quote the line that they stumble over, as a list of bytes. In a key
//! file that lost its line ends, the line is the key. So nothing here holds a part of a file,
//! except the labels of blocks that are known.

mod detected;
mod kind;

use tokio_rustls::rustls::pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject},
};

pub use detected::Detected;
pub use kind::KeyKind;

use crate::base::read::without_byte_order_mark;

/// Every certificate of a file, of which there is at least one.
pub fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let text = without_byte_order_mark(text);
    let found = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|error| PemError::of(error, text, Expected::Certificate))?;
    if found.is_empty() {
        return Err(PemError::no_block(text, Expected::Certificate));
    }
    Ok(found)
}

/// The first private key of a file: PKCS#8, PKCS#1 or SEC1, without a passphrase.
pub fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, PemError> {
    let text = without_byte_order_mark(text);
    PrivateKeyDer::from_pem_slice(text).map_err(|error| {
        if detected::is_encrypted(text) {
            PemError::Encrypted
        } else {
            PemError::of(error, text, Expected::PrivateKey)
        }
    })
}

/// How many private keys there are that can be read.
pub fn count_private_keys(text: &[u8]) -> usize {
    PrivateKeyDer::pem_slice_iter(without_byte_order_mark(text))
        .filter(Result::is_ok)
        .count()
}

/// What is wrong with a PEM file. Never holds a part of it.
#[expect(missing_docs, reason = "the message says what a field is")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// No block of the kind that was looked for.
    #[error("{found}, and {expected} in PEM is needed{}", found.remedy(*expected))]
    NoBlock { expected: Expected, found: Detected },
    /// A private key that takes a passphrase.
    #[error("the private key is encrypted")]
    Encrypted,
    /// A block without an end.
    #[error(
        "a block has no `-----END …-----` line of its own: the file may be cut short, or have lost its line ends"
    )]
    NoEnd,
    /// A line that begins like a block and does not go on like one.
    #[error("a `-----BEGIN …-----` line is malformed: the file may have lost its line ends")]
    Begin,
    /// Something else than base64 in a block.
    #[error("the text of a block is not base64")]
    Base64,
    /// Something else.
    #[error("the file is malformed")]
    Other,
}

impl PemError {
    fn of(error: pem::Error, text: &[u8], expected: Expected) -> Self {
        // A block that is broken is of no interest where it is of another kind.
        let named = matches!(Detected::of(text), Detected::Block(_));
        let elsewhere = named && !detected::begins(text, expected);
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

/// What a file should hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// At least one certificate.
    Certificate,
    /// A private key.
    PrivateKey,
}

impl std::fmt::Display for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Certificate => "a certificate",
            Self::PrivateKey => "a private key",
        })
    }
}
