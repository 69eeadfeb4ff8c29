//! PEM that somebody else wrote, and what is wrong with it in words.
//!
//! The parser's own errors quote the line that they stumble over, as a list of bytes. In a key
//! file that lost its line ends, the line is the key.

use tokio_rustls::rustls::pki_types::pem;

/// What is wrong with a PEM file. Never holds a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// No block of the kind that was looked for.
    #[error("there is no such block in the file")]
    NoBlock,
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

impl From<pem::Error> for PemError {
    fn from(error: pem::Error) -> Self {
        match error {
            pem::Error::NoItemsFound => Self::NoBlock,
            pem::Error::MissingSectionEnd { .. } => Self::NoEnd,
            pem::Error::IllegalSectionStart { .. } => Self::Begin,
            pem::Error::Base64Decode(_) => Self::Base64,
            _ => Self::Other,
        }
    }
}
