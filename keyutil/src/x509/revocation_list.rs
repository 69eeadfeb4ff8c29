//! The content of a certificate revocation list, for logs, checks and error messages.

use std::time::SystemTime;

use x509_parser::{prelude::FromDer, revocation_list::CertificateRevocationList};

use super::certificate::system_time;
use crate::base::text::printable;

/// The parts of a revocation list (RFC 5280 section 5) that identify it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationListSummary {
    /// The distinguished name of the CA.
    pub issuer: String,
    /// The number of revoked certificates.
    pub revoked: usize,
    /// When it was issued (`thisUpdate`).
    pub this_update: SystemTime,
    /// When the CA issues the next one at the latest (`nextUpdate`).
    pub next_update: Option<SystemTime>,
}

impl RevocationListSummary {
    /// Parses one list in DER; `None`, if the bytes are not exactly one list.
    pub fn from_der(der: &[u8]) -> Option<Self> {
        let (rest, list) = CertificateRevocationList::from_der(der).ok()?;
        rest.is_empty().then(|| Self {
            issuer: printable(&list.issuer().to_string()),
            revoked: list.iter_revoked_certificates().count(),
            this_update: system_time(list.last_update()),
            next_update: list.next_update().map(system_time),
        })
    }
}
