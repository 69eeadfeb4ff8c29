//! What is wrong with the server's certificate, in words. Those of rustls count seconds since 1970.

use std::{
    fmt,
    time::{Duration, UNIX_EPOCH},
};

use tokio_rustls::rustls::{CertificateError, pki_types::UnixTime};

use super::Peer;

/// What is wrong with the certificate that this peer presented.
pub(super) struct InWords<'a> {
    pub(super) error: &'a CertificateError,
    pub(super) peer: &'a Peer,
}

impl fmt::Display for InWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use CertificateError as E;
        match self.error {
            E::UnknownIssuer => f.write_str("none of these has issued it (`UnknownIssuer`)"),
            E::BadSignature => f.write_str(
                "its issuer has the name of one of these, and another key (`BadSignature`)",
            ),
            E::ExpiredContext { time, not_after } => write!(
                f,
                "it expired at {}, and by the clock of this machine it is {}",
                shown(*not_after),
                shown(*time)
            ),
            E::NotValidYetContext { time, not_before } => write!(
                f,
                "it is not valid before {}, and by the clock of this machine it is {}",
                shown(*not_before),
                shown(*time)
            ),
            E::NotValidForNameContext { expected, .. } => {
                write!(f, "it is not valid for name `{}`", expected.to_str())?;
                let presented = self.peer.presented();
                match presented.map(|leaf| leaf.names()).unwrap_or_default() {
                    names if names.is_empty() => f.write_str(", nor for any other"),
                    names => write!(f, ", but for `{}`", names.join("`, `")),
                }
            }
            E::InvalidPurpose | E::InvalidPurposeContext { .. } => {
                f.write_str("it lacks the extended key usage `serverAuth`")
            }
            other => write!(f, "{other}"),
        }
    }
}

fn shown(time: UnixTime) -> humantime::Rfc3339Timestamp {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(time.as_secs()))
}
