//! The CAs that verify the server's certificate: a bundle, or those of the operating system.

use std::{
    fmt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio_rustls::rustls::{
    self, RootCertStore,
    client::verify_server_cert_signed_by_trust_anchor,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, TrustAnchor, UnixTime},
    server::ParsedCertificate,
};

use super::reload::{Credential, LoadError, Reloading};
use crate::{
    base::{chain, time::rfc3339_seconds},
    diagnosis::{Class, Diagnose, Diagnosis, Step},
    status::RemovedCa,
    x509::{
        certificate::{CertificateError, CertificateSummary},
        pem::{self, PemError},
    },
};

/// A set of CA certificates.
///
/// Certificates that are not of a CA, and those that have expired, verify nothing: a trust anchor in
/// rustls is a name and a key alone, and would be valid for any purpose and forever.
pub struct TrustBundle {
    /// Each with the last second of its validity.
    anchors: Vec<(TrustAnchor<'static>, SystemTime)>,
    authorities: Vec<CertificateSummary>,
    /// The certificates of the file that were left out when it was read.
    left_out: Vec<String>,
    /// The CAs of earlier contents of the file that are not in this one.
    removed: Vec<Removed>,
    distrust_after: Duration,
}

/// A CA that is no longer in the file. It was removed by the first content of the file without it.
/// Later contents do not change that time, unless one of them has the CA again.
#[derive(Clone)]
struct Removed {
    anchor: TrustAnchor<'static>,
    name: String,
    /// Monotonic: a clock that is set back must not make the CA trusted for longer.
    at: Instant,
    told_at: SystemTime,
}

impl TrustBundle {
    /// Loads a PEM bundle, and reloads it when the file changes. A CA that is removed from the file
    /// is distrusted after `distrust_after`.
    ///
    /// # Errors
    /// [`LoadError`], if the file is missing or empty, one of its certificates is malformed, or none
    /// can be used.
    pub fn follow(bundle: PathBuf, distrust_after: Duration) -> Result<Reloading<Self>, LoadError> {
        Reloading::load(vec![bundle], move |contents| {
            Ok(Self {
                distrust_after,
                ..Self::parse(&contents[0])?
            })
        })
    }

    /// Parses a PEM bundle.
    ///
    /// # Errors
    /// [`TrustError`] says which certificate is wrong. A single malformed certificate makes the
    /// whole bundle unusable: a truncated file must not pass for a smaller bundle. Expired
    /// certificates and those that are not of a CA are left out, unless nothing is left.
    pub fn parse(bundle: &[u8]) -> Result<Self, TrustError> {
        let now = SystemTime::now();
        let certificates = pem::certificates(bundle).map_err(|error| match error {
            PemError::NoBlock { .. } => TrustError::Empty(error),
            _ => TrustError::Pem(error),
        })?;
        let mut parsed = Self::empty();
        for (index, certificate) in certificates.into_iter().enumerate() {
            let number = index + 1;
            let summary = CertificateSummary::from_der(&certificate)
                .map_err(|source| TrustError::NotX509 { number, source })?;
            if let Some(reason) = no_anchor(&summary, now) {
                parsed.left_out.push(reason);
                continue;
            }
            let anchor = trust_anchor(certificate)
                .map_err(|source| TrustError::Unusable { number, source })?;
            parsed.anchors.push((anchor, summary.not_after));
            parsed.authorities.push(summary);
        }
        if parsed.anchors.is_empty() {
            return Err(TrustError::NoAuthority {
                left_out: parsed.left_out.join(", "),
            });
        }
        Ok(parsed)
    }

    /// The CAs of the operating system, or of `SSL_CERT_FILE`.
    ///
    /// # Errors
    /// [`TrustError::NoSystemRoots`], if there are none.
    pub fn system() -> Result<Self, TrustError> {
        let found = rustls_native_certs::load_native_certs();
        let now = SystemTime::now();
        // Every system store contains a few certificates that are too old to parse.
        let anchors = found.certs.into_iter().filter_map(|certificate| {
            let summary = CertificateSummary::from_der(&certificate).ok()?;
            let usable = no_anchor(&summary, now).is_none();
            let anchor = trust_anchor(certificate).ok()?;
            usable.then_some((anchor, summary.not_after))
        });
        let system = Self {
            anchors: anchors.collect(),
            ..Self::empty()
        };
        if system.anchors.is_empty() {
            return Err(TrustError::NoSystemRoots);
        }
        Ok(system)
    }

    const fn empty() -> Self {
        Self {
            anchors: Vec::new(),
            authorities: Vec::new(),
            left_out: Vec::new(),
            removed: Vec::new(),
            distrust_after: Duration::ZERO,
        }
    }

    /// The roots, for the rustls config of one connection: those that have not expired.
    pub fn roots(&self) -> Arc<RootCertStore> {
        Arc::new(self.roots_at(SystemTime::now()))
    }

    fn roots_at(&self, now: SystemTime) -> RootCertStore {
        let valid = self.anchors.iter().filter(|(_, until)| *until >= now);
        valid.map(|(anchor, _)| anchor.clone()).collect()
    }

    /// The CA that expires last.
    fn last(&self) -> Option<&CertificateSummary> {
        let authorities = self.authorities.iter();
        authorities.max_by_key(|authority| authority.not_after)
    }

    /// The CAs of a file. Empty for those of the operating system.
    pub fn authorities(&self) -> &[CertificateSummary] {
        &self.authorities
    }

    /// The CAs of the file that verify this chain, each checked alone.
    pub fn issuers(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Vec<TrustAnchor<'static>> {
        let Ok(leaf) = ParsedCertificate::try_from(leaf) else {
            return Vec::new();
        };
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        let verifies = |anchor: &TrustAnchor<'static>| {
            let root = RootCertStore::from_iter([anchor.clone()]);
            let algorithms = algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&leaf, &root, intermediates, now, algorithms)
                .is_ok()
        };
        // The CAs of the operating system are never removed.
        let of_file = self.anchors.iter().take(self.authorities.len());
        let anchors = of_file.map(|(anchor, _)| anchor);
        anchors.filter(|anchor| verifies(anchor)).cloned().collect()
    }

    fn contains(&self, anchor: &TrustAnchor<'_>) -> bool {
        self.anchors.iter().any(|(own, _)| own == anchor)
    }

    fn is_overdue(&self, removed: &Removed, now: Instant) -> bool {
        now.duration_since(removed.at) >= self.distrust_after
    }

    /// Whether `held`, an earlier content of the same file, has a CA that is now distrusted.
    pub fn distrusts(&self, held: &Self) -> bool {
        self.distrusts_at(held, Instant::now())
    }

    fn distrusts_at(&self, held: &Self, now: Instant) -> bool {
        let distrusted = |anchor: &TrustAnchor<'_>| {
            let mut removed = self.removed.iter();
            let removed = removed.find(|removed| removed.anchor == *anchor);
            removed.is_none_or(|removed| self.is_overdue(removed, now))
        };
        let mut held = held.anchors.iter().map(|(anchor, _)| anchor);
        held.any(|anchor| !self.contains(anchor) && distrusted(anchor))
    }

    /// The CA among `issuers`, which all verify the same certificate, that was removed last, if
    /// none of them is trusted.
    pub fn removed_among(&self, issuers: &[TrustAnchor<'_>]) -> Option<RemovedCa> {
        if issuers.iter().any(|issuer| self.contains(issuer)) {
            return None;
        }
        let removed = self.removed.iter();
        let last = removed
            .filter(|removed| issuers.contains(&removed.anchor))
            .max_by_key(|removed| removed.at)?;
        let (now, elapsed) = (SystemTime::now(), last.at.elapsed());
        let refused_at = match self.distrust_after.checked_sub(elapsed) {
            Some(left) => now.checked_add(left),
            None => now.checked_sub(elapsed - self.distrust_after),
        };
        Some(RemovedCa {
            ca: last.name.clone(),
            file: String::new(),
            removed_at: last.told_at,
            refused_at: refused_at.unwrap_or(now),
            reason: None,
        })
    }

    fn succeed_at(&mut self, previous: &Self, at: Instant) {
        let told_at = SystemTime::now();
        let anchors = previous.anchors.iter().zip(&previous.authorities);
        let just_removed = anchors.map(|((anchor, _), authority)| Removed {
            anchor: anchor.clone(),
            name: format!("`{}` (serial {})", authority.subject, authority.serial),
            at,
            told_at,
        });
        let removed = previous.removed.iter().cloned().chain(just_removed);
        self.removed = removed
            .filter(|removed| !self.contains(&removed.anchor))
            .collect();
    }
}

fn trust_anchor(certificate: CertificateDer<'_>) -> Result<TrustAnchor<'static>, rustls::Error> {
    let mut one = RootCertStore::empty();
    one.add(certificate)?;
    Ok(one.roots.remove(0))
}

/// Why the certificate is no trust anchor, if it is none.
fn no_anchor(certificate: &CertificateSummary, now: SystemTime) -> Option<String> {
    let CertificateSummary {
        subject, serial, ..
    } = certificate;
    if !certificate.is_ca {
        return Some(format!(
            "`{subject}` (serial {serial}) is not the certificate of a CA"
        ));
    }
    (certificate.not_after < now).then(|| {
        let at = rfc3339_seconds(certificate.not_after);
        format!("`{subject}` (serial {serial}) expired at {at}")
    })
}

impl fmt::Display for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.authorities.is_empty() {
            return f.write_str("the CAs of the operating system");
        }
        let names: Vec<_> = self
            .authorities
            .iter()
            .map(|authority| {
                // The issuer of a root is the root itself.
                let issuer = if authority.issuer == authority.subject {
                    String::new()
                } else {
                    format!(", issued by `{}`", authority.issuer)
                };
                format!(
                    "`{}` (serial {}{issuer})",
                    authority.subject, authority.serial
                )
            })
            .collect();
        f.write_str(&names.join(", "))
    }
}

impl Credential for TrustBundle {
    const KIND: &'static str = "server CA";

    fn identify(&self) -> String {
        self.to_string()
    }

    fn valid_from(&self) -> Option<SystemTime> {
        self.last().map(|authority| authority.not_before)
    }

    /// The expiry of the last CA: until then the bundle may verify a server.
    fn expires_at(&self) -> Option<SystemTime> {
        self.last().map(|authority| authority.not_after)
    }

    fn succeed(&mut self, previous: &Self) {
        self.succeed_at(previous, Instant::now());
    }

    fn warnings(&self, now: SystemTime) -> Vec<String> {
        let expired = self.authorities.iter();
        let expired = expired.filter_map(|authority| no_anchor(authority, now));
        let left_out = self.left_out.iter().cloned().chain(expired);
        left_out
            .map(|reason| format!("a certificate of the CA file is left out: {reason}"))
            .collect()
    }
}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TrustBundle")
            .field(&self.to_string())
            .finish()
    }
}

/// A bundle that cannot verify anything.
#[expect(missing_docs, reason = "the message says what a field is")]
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The file has a malformed block.
    #[error("the CA file is not PEM")]
    Pem(#[source] PemError),
    /// The file has no certificate.
    #[error("the CA file has no `CERTIFICATE` block")]
    Empty(#[source] PemError),
    /// A block is not a certificate.
    #[error("certificate {number} of the CA file is not an X.509 certificate")]
    NotX509 {
        /// Counted from 1.
        number: usize,
        #[source]
        source: CertificateError,
    },
    /// A certificate cannot be a trust anchor.
    #[error("certificate {number} of the CA file cannot be used as a CA")]
    Unusable {
        /// Counted from 1.
        number: usize,
        #[source]
        source: rustls::Error,
    },
    /// Nothing is left to verify a server with.
    #[error("the CA file has no certificate that can verify a server: {left_out}")]
    NoAuthority {
        /// The certificates, each with the reason.
        left_out: String,
    },
    /// No CA file is set, and the operating system has no CAs.
    #[error(
        "the operating system has no CA certificates: install `ca-certificates`, or set `--tls-ca-path`"
    )]
    NoSystemRoots,
}

impl TrustError {
    fn hint(&self) -> Option<&'static str> {
        match self {
            // The message says what to do.
            Self::NoSystemRoots => None,
            _ => Some(
                "set `--tls-ca-path` to a file with the CA certificates in PEM: get them from the \
                  CA that issued the server's certificate",
            ),
        }
    }
}

impl Diagnose for TrustError {
    fn diagnosis(&self) -> Diagnosis {
        Diagnosis {
            step: Step::Files,
            class: Class::ServerTls,
            cause: chain(self),
            hint: self.hint().map(str::to_owned),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;
    use crate::{samples, status::CredentialStatus};

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn expired_cas_and_other_certificates_are_no_trust_anchors() {
        let now = SystemTime::now();
        let expired = samples::issue(&[], &[], now - 2 * HOUR, now - HOUR);
        let valid = samples::client();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.crt");
        let bundle = [&expired.ca_pem, &valid.ca_pem, &valid.leaf_pem].map(String::as_str);
        fs::write(&path, bundle.concat()).unwrap();
        let followed = TrustBundle::follow(path, HOUR).unwrap();
        let trust = followed.current();
        assert_eq!((trust.roots().len(), trust.authorities().len()), (1, 1));
        let warnings = CredentialStatus::from(&followed).warnings;
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].contains("`CN=clients CA`"), "{warnings:?}");
        assert!(warnings[0].contains("expired at"), "{warnings:?}");
        assert!(warnings[1].contains("`CN=worker`"), "{warnings:?}");
        assert!(warnings[1].contains("is not the certificate of a CA"));

        // The last one expires while it is in use.
        assert!(trust.roots_at(now + 2 * HOUR).is_empty());
        assert_eq!(trust.warnings(now + 2 * HOUR).len(), 3);

        for text in [&expired.ca_pem, &valid.leaf_pem] {
            let error = TrustBundle::parse(text.as_bytes()).unwrap_err();
            let told = error.to_string();
            assert!(told.contains("no certificate that can verify"), "{told}");
        }
    }

    #[test]
    fn a_removed_ca_is_distrusted_after_a_time_that_no_other_change_lengthens() {
        let names = ["a", "b", "c"];
        let pems = names.map(|_| samples::client().ca_pem);
        let bundle = |content: &str| {
            let of = |name: &str| &*pems[names.iter().position(|one| *one == name).unwrap()];
            let pem: String = content.split(' ').map(of).collect();
            let distrust_after = Duration::from_secs(60);
            TrustBundle {
                distrust_after,
                ..TrustBundle::parse(pem.as_bytes()).unwrap()
            }
        };
        let begun = Instant::now();
        // Each row: the second, the content of the file, and the CAs that are distrusted at that
        // time.
        let mut current = bundle("a b");
        for (second, content, distrusted) in [
            // The file has never contained `c`.
            (0, "b", "c"),
            (50, "c", ""),
            (59, "c b", ""),
            (60, "b c", "a"),
            (70, "b", "a"),
            // A CA that comes back is trusted, and can be removed again.
            (80, "a b", ""),
            (100, "b", ""),
            (129, "b", ""),
            (130, "b", "c"),
            (159, "b", "c"),
            (160, "b", "a c"),
            (1000, "a b c", ""),
        ] {
            let now = begun + Duration::from_secs(second);
            let mut next = bundle(content);
            next.succeed_at(&current, now);
            current = next;
            for name in names {
                let found = current.distrusts_at(&bundle(name), now);
                assert_eq!(found, distrusted.contains(name), "{name} at {second}");
            }
            let one_of_them = current.distrusts_at(&bundle("a b c"), now);
            assert_eq!(one_of_them, !distrusted.is_empty(), "{second}");
        }
    }
}
