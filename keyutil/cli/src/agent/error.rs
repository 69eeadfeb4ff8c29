//! Why there is no current token in the file.

use std::{io, path::PathBuf};

use crate::files::{LockError, WriteError};
use keyutil::credentials::{reload::LoadError, token::TokenError};

/// There is no token in the file, or no current one. Never holds a part of one.
#[expect(missing_docs, reason = "the message says what a field is")]
#[derive(Debug, thiserror::Error)]
pub enum RenewalError {
    /// The first load of the key.
    #[error("no token can be minted")]
    SigningKey(#[source] LoadError),
    /// A token or key in place of the name of a file, or no name at all.
    #[error("`--output` is not the name of a file")]
    NotAPath,
    /// Something else than a token would be lost.
    #[error(
        "refused to write a token over `{}`, which holds something else: name another file, or remove that one",
        path.display()
    )]
    NotAToken { path: PathBuf },
    /// A rename would put a file in its place, and whoever reads its target would not see that.
    #[error(
        "refused to write a token over the symbolic link `{}`: name the file that it points to",
        path.display()
    )]
    Link { path: PathBuf },
    /// What is there cannot be looked at.
    #[error("failed to read what is at `{}` before a token is written there", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Another process is at it.
    #[error("another process renews `{}`: end that one, or name another file", path.display())]
    Taken { path: PathBuf },
    /// The lock could not be had for another reason.
    #[error(transparent)]
    Lock(LockError),
    /// No token.
    #[error("failed to mint a token")]
    Mint(#[source] TokenError),
    /// A token, and it could not be written.
    #[error(transparent)]
    Write(WriteError),
}

impl RenewalError {
    /// Whether the caller has to ask for something else, rather than the machine to be mended.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::NotAPath | Self::NotAToken { .. } | Self::Link { .. } | Self::Read { .. }
        )
    }
}
