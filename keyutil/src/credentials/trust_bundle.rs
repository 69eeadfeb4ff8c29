//! The CAs that verify the server's certificate: a bundle, or those of the operating system.

use std::{fmt, path::PathBuf, sync::Arc, time::SystemTime};

use tokio_rustls::rustls::{self, RootCertStore};

use super::reload::{Credential, LoadError, Reloading};
use crate::{
    base::chain,
    diagnosis::{Class, Diagnose, Diagnosis, Step},
    x509::{
        certificate::{CertificateError, CertificateSummary},
        pem::{self, PemError},
    },
};

/// A set of CA certificates.
pub struct TrustBundle {
    roots: Arc<RootCertStore>,
    authorities: Vec<CertificateSummary>,
}

impl TrustBundle {
    /// Loads a PEM bundle, and reloads it when the file changes.
    ///
    /// # Errors
    /// [`LoadError`], if the file is missing or empty, or one of its certificates is malformed.
    pub fn follow(bundle: PathBuf) -> Result<Reloading<Self>, LoadError> {
        Reloading::load(vec![bundle], |contents| Ok(Self::parse(&contents[0])?))
    }

    /// Parses a PEM bundle.
    ///
    /// # Errors
    /// [`TrustError`] says which certificate is wrong. A single malformed certificate makes the
    /// whole bundle unusable: a truncated file must not pass for a smaller bundle.
    pub fn parse(bundle: &[u8]) -> Result<Self, TrustError> {
        let certificates = pem::certificates(bundle).map_err(|error| match error {
            PemError::NoBlock { .. } => TrustError::Empty(error),
            _ => TrustError::Pem(error),
        })?;
        let mut roots = RootCertStore::empty();
        let mut authorities = Vec::new();
        for (index, certificate) in certificates.into_iter().enumerate() {
            let number = index + 1;
            authorities.push(
                CertificateSummary::from_der(&certificate)
                    .map_err(|source| TrustError::NotX509 { number, source })?,
            );
            roots
                .add(certificate)
                .map_err(|source| TrustError::Unusable { number, source })?;
        }
        Ok(Self {
            roots: Arc::new(roots),
            authorities,
        })
    }

    /// The CAs of the operating system, or of `SSL_CERT_FILE`.
    ///
    /// # Errors
    /// [`TrustError::NoSystemRoots`], if there are none.
    pub fn system() -> Result<Self, TrustError> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        // Every system store contains a few certificates that are too old to parse.
        let (usable, _) = roots.add_parsable_certificates(found.certs);
        if usable == 0 {
            return Err(TrustError::NoSystemRoots);
        }
        Ok(Self {
            roots: Arc::new(roots),
            authorities: Vec::new(),
        })
    }

    /// The roots, for the rustls config of one connection.
    pub fn roots(&self) -> Arc<RootCertStore> {
        self.roots.clone()
    }

    /// The CAs of a file. Empty for those of the operating system.
    pub fn authorities(&self) -> &[CertificateSummary] {
        &self.authorities
    }
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

    /// The expiry of the last CA: until then the bundle may verify a server.
    fn expires_at(&self) -> Option<SystemTime> {
        self.authorities
            .iter()
            .map(|authority| authority.not_after)
            .max()
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
