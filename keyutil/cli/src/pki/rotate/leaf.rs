//! A new certificate and key for one party, with the names of the one in place.

use std::time::{Duration, SystemTime};

use super::{
    LeafRotated, RotateError,
    state::{Current, Holder},
};
use crate::{
    files::Operation,
    pki::{
        AlternativeName, BACK_DATED, FileError, InitOptions, LeafRequest, NameError, Validity,
        bundle::Bundle,
    },
};
use keyutil::x509::certificate::CertificateSummary;

/// In memory. Between the two operations key and certificate do not belong together, which whoever
/// reads them takes for a rotation that is not over yet; the old certificate, which tells the
/// names, is the last to go.
pub(super) fn renew(
    holder: &Holder,
    issuer: &Current,
    lifetime: Option<Duration>,
    now: SystemTime,
) -> Result<([Operation; 2], LeafRotated), RotateError> {
    let party = holder.party;
    let old = holder
        .chain
        .as_ref()
        .map(|chain| chain.first().summary().clone());
    let names =
        names(holder, old.as_ref()).map_err(|source| RotateError::Name { party, source })?;
    let lifetime = lifetime
        .or_else(|| old.as_ref().map(lifetime_of))
        .unwrap_or(InitOptions::LEAF_LIFETIME);
    let (validity, capped) = validity(issuer, holder, lifetime, now)?;
    let leaf = issuer.authority.issue(&LeafRequest {
        common_name: party.name(),
        names: &names,
        purpose: party.purpose(),
        validity,
    })?;
    let new = Bundle::parse(leaf.certificate_pem.as_bytes()).map_err(|source| {
        let path = holder.files.certificate.clone();
        FileError::Parse { path, source }
    })?;
    let operations = [
        Operation::keep(holder.files.key.clone(), leaf.key_pem),
        Operation::publish(holder.files.certificate.clone(), leaf.certificate_pem),
    ];
    let rotated = LeafRotated {
        party,
        old,
        new: new.first().summary().clone(),
        capped,
    };
    Ok((operations, rotated))
}

/// Where none can be read, the ones that the party always has.
fn names(
    holder: &Holder,
    old: Option<&CertificateSummary>,
) -> Result<Vec<AlternativeName>, NameError> {
    let Some(old) = old else {
        let names = holder.party.names().iter();
        return names.map(|name| name.parse()).collect();
    };
    let addresses = old.ip_addresses.iter().map(ToString::to_string);
    let names = old.dns_names.iter().cloned().chain(addresses);
    names.map(|name| name.parse()).collect()
}

/// What was asked for when it was made.
fn lifetime_of(certificate: &CertificateSummary) -> Duration {
    let span = certificate
        .not_after
        .duration_since(certificate.not_before)
        .unwrap_or_default();
    // Somebody else's need not be back-dated.
    span.checked_sub(BACK_DATED)
        .filter(|lifetime| !lifetime.is_zero())
        .unwrap_or(span)
        .max(Duration::from_secs(1))
}

/// At most as long as the CA, and whether that was shorter than what was asked for.
fn validity(
    issuer: &Current,
    holder: &Holder,
    lifetime: Duration,
    now: SystemTime,
) -> Result<(Validity, bool), RotateError> {
    let refused = |source| RotateError::Lifetime { lifetime, source };
    let begin = issuer.authority.summary().not_before;
    if begin > now {
        return Err(RotateError::NotYetValid {
            kind: holder.party.issued_by(),
            from: humantime::format_rfc3339_seconds(begin).to_string(),
        });
    }
    let end = issuer.authority.summary().not_after;
    if end <= now {
        return Err(RotateError::Expired {
            kind: holder.party.issued_by(),
            at: humantime::format_rfc3339_seconds(end).to_string(),
        });
    }
    let validity = Validity::from_time(now, lifetime).map_err(refused)?;
    if validity.not_after() <= end {
        return Ok((validity, false));
    }
    let capped = Validity::between(validity.not_before(), end).map_err(refused)?;
    Ok((capped, true))
}
