//! Why this side, and not the server, ended a call.

use tonic::{Status, metadata::MetadataValue};

/// Why this side ended a call. It travels in the metadata of the status, because tonic drops the
/// source of a status that an interceptor returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalCause {
    /// There is no valid token, so the call was not sent.
    NotSent,
    /// The answer had HTTP status 431 (RFC 6585 section 5): something before the server takes no
    /// header that large.
    HeadersTooLarge,
    /// The server refused a token that was valid when the call was sent, and has expired since.
    TokenExpiredOnTheWay,
}

impl LocalCause {
    /// The status with this cause.
    pub(super) fn mark(self, mut status: Status) -> Status {
        let value = MetadataValue::from_static(self.name());
        status.metadata_mut().insert(KEY, value);
        status
    }

    /// The cause of a status that was marked with one.
    pub fn of(status: &Status) -> Option<Self> {
        let value = status.metadata().get(KEY)?;
        [
            Self::NotSent,
            Self::HeadersTooLarge,
            Self::TokenExpiredOnTheWay,
        ]
        .into_iter()
        .find(|cause| value == cause.name())
    }

    const fn name(self) -> &'static str {
        match self {
            Self::NotSent => "not-sent",
            Self::HeadersTooLarge => "headers-too-large",
            Self::TokenExpiredOnTheWay => "token-expired-on-the-way",
        }
    }
}

const KEY: &str = "keyutil-local-cause";
