//! The CAs that verify the server's certificate: a bundle, or those of the operating system.

use std::{fmt, path::PathBuf, sync::Arc, time::SystemTime};

use tokio_rustls::rustls::{
    self, RootCertStore,
    pki_types::{CertificateDer, TrustAnchor},
};

use super::reload::{Credential, LoadError, Reloading};
use crate::{
    base::{chain, time::rfc3339_seconds},
    diagnosis::{Class, Diagnose, Diagnosis, Step},
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
}

impl TrustBundle {
    /// Loads a PEM bundle, and reloads it when the file changes.
    ///
    /// # Errors
    /// [`LoadError`], if the file is missing or empty, one of its certificates is malformed, or none
    /// can be used.
    pub fn follow(bundle: PathBuf) -> Result<Reloading<Self>, LoadError> {
        Reloading::load(vec![bundle], |contents| Ok(Self::parse(&contents[0])?))
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
        let mut parsed = Self {
            anchors: Vec::new(),
            authorities: Vec::new(),
            left_out: Vec::new(),
        };
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
            authorities: Vec::new(),
            left_out: Vec::new(),
        };
        if system.anchors.is_empty() {
            return Err(TrustError::NoSystemRoots);
        }
        Ok(system)
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
        let followed = TrustBundle::follow(path).unwrap();
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
}
