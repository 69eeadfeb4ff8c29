//! What can be replaced, and what is told of it when it was.

use std::time::Duration;

use serde::Serialize;

/// What rotates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Credential {
    /// Minted anew by worker and starter.
    Token,
    /// The key that signs tokens.
    SigningKey,
    /// The client certificates of worker and starter.
    ClientCertificate,
    /// The CA that signs them.
    ClientCa,
    /// The CA of the server's certificate, and that certificate.
    FrontendCa,
}

impl Credential {
    /// All of them, in the order of a call's way.
    pub const ALL: [Self; 5] = [
        Self::Token,
        Self::SigningKey,
        Self::ClientCertificate,
        Self::ClientCa,
        Self::FrontendCa,
    ];

    /// For a person.
    pub fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::SigningKey => "signing key",
            Self::ClientCertificate => "client certificate",
            Self::ClientCa => "client CA",
            Self::FrontendCa => "frontend CA",
        }
    }
}

/// A credential that was replaced, and was seen to be by the other side.
#[derive(Clone, Debug, Serialize)]
pub struct Rotation {
    /// When the new one was put in place, since the clock of [`Rotations`](super::Rotations) began.
    #[serde(serialize_with = "seconds")]
    pub at: Duration,
    /// What was replaced.
    pub credential: Credential,
    /// What told the old one: kid, serial, issuer.
    pub before: String,
    /// What tells the new one.
    pub now: String,
    /// What showed that it is in effect.
    pub seen: &'static str,
    /// How long after it was put in place it was seen in use by worker and starter.
    #[serde(serialize_with = "seconds")]
    pub seen_after: Duration,
}

/// A duration in seconds, to the millisecond.
pub(crate) fn seconds<S: serde::Serializer>(
    duration: &Duration,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((duration.as_secs_f64() * 1000.0).round() / 1000.0)
}
