//! Handshakes and failures.

use std::time::SystemTime;

use serde::Serialize;

use super::Failure;
use crate::base::time;
use crate::x509::certificate::CertificateSummary;

/// How connecting has gone.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ConnectionStatus {
    /// How many TLS handshakes were finished, and the server answered after them. None in
    /// plaintext.
    pub handshakes: u64,
    /// The last of them.
    pub last_handshake: Option<Handshake>,
    /// How many connections have failed.
    pub failures: u64,
    /// Why the last one failed, while no later one has been answered on.
    pub last_failure: Option<Failure>,
    /// Why there is no connection with the newest certificate and CAs, which are those that the
    /// status of the credentials shows, while calls go on with those before.
    pub rejected: Option<Failure>,
}

/// One finished TLS handshake, after which the server has answered: with TLS 1.3 it may refuse what
/// it was shown until then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Handshake {
    /// When.
    #[serde(with = "time")]
    pub at: SystemTime,
    /// Such as `TLSv1_3`.
    pub tls_version: Option<String>,
    /// What the server presented.
    pub server: Option<Presented>,
    /// What we presented, to a server that asked.
    pub client: Option<Presented>,
}

impl Handshake {
    /// Whether both sides have presented what they presented in the other one.
    pub(crate) fn same_serials(&self, other: &Self) -> bool {
        let serials = |handshake: &Self| {
            [&handshake.server, &handshake.client]
                .map(|side| side.as_ref().map(|leaf| leaf.serial.clone()))
        };
        serials(self) == serials(other)
    }
}

/// A certificate that one side presented.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Presented {
    /// In upper-case hex.
    pub serial: String,
    /// The distinguished name of the CA.
    pub issuer: String,
    /// The last second at which it is valid.
    #[serde(with = "time")]
    pub valid_until: SystemTime,
}

impl From<&CertificateSummary> for Presented {
    fn from(leaf: &CertificateSummary) -> Self {
        Self {
            serial: leaf.serial.clone(),
            issuer: leaf.issuer.clone(),
            valid_until: leaf.not_after,
        }
    }
}
