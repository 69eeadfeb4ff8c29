//! A PEM file of certificates: a leaf and its chain, or the CAs that a party trusts.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};

use keyutil::x509::{
    certificate::{self, CertificateError, CertificateSummary},
    pem::{self, PemError},
};

/// One certificate.
#[derive(Clone, Debug)]
pub(super) struct Certificate {
    der: Vec<u8>,
    summary: CertificateSummary,
}

impl Certificate {
    pub(super) fn summary(&self) -> &CertificateSummary {
        &self.summary
    }

    pub(super) fn der(&self) -> &[u8] {
        &self.der
    }

    /// Returns whether `issuer` issued this certificate, judging by their names and key
    /// identifiers.
    pub(super) fn is_issued_by(&self, issuer: &Self) -> bool {
        certificate::names_as_issuer(&self.der, &issuer.der)
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_pem(&self.der))
    }
}

/// Encodes a certificate in PEM (RFC 7468).
pub(super) fn to_pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        pem.extend([line, "\n"]);
        rest = after;
    }
    pem + "-----END CERTIFICATE-----\n"
}

/// One certificate or more.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bundle(Vec<Certificate>);

impl Bundle {
    /// Creates a bundle of the first and the others, without duplicates.
    pub(super) fn of(first: Certificate, others: impl IntoIterator<Item = Certificate>) -> Self {
        let mut bundle = vec![first];
        for certificate in others {
            if !bundle.contains(&certificate) {
                bundle.push(certificate);
            }
        }
        Self(bundle)
    }

    pub(super) fn parse(text: &[u8]) -> Result<Self, BundleError> {
        let ders = pem::certificates(text).map_err(BundleError::Pem)?;
        let certificates = ders.iter().enumerate().map(|(index, der)| {
            let number = index + 1;
            let summary = CertificateSummary::from_der(der)
                .map_err(|source| BundleError::NotX509 { number, source })?;
            Ok(Certificate {
                der: der.to_vec(),
                summary,
            })
        });
        certificates.collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn read(path: &Path) -> Result<Self, FileError> {
        let text = fs::read(path).map_err(|source| FileError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text).map_err(|source| FileError::Parse {
            path: path.to_owned(),
            source,
        })
    }

    pub(super) fn first(&self) -> &Certificate {
        // Neither `of` nor `parse` creates an empty bundle.
        &self.0[0]
    }

    pub(super) fn certificates(&self) -> &[Certificate] {
        &self.0
    }

    pub(super) fn contains(&self, certificate: &Certificate) -> bool {
        self.0.contains(certificate)
    }

    /// Returns whether the first certificate chains, over the others, to one of these CAs.
    pub(super) fn leads_to(&self, authorities: &Self) -> bool {
        let mut chain = &self.0[..];
        while let [certificate, rest @ ..] = chain {
            let trusted = |authority| certificate.is_issued_by(authority);
            if authorities.0.iter().any(trusted) {
                return true;
            }
            let next = |next: &Certificate| certificate.is_issued_by(next);
            if !rest.first().is_some_and(next) {
                return false;
            }
            chain = rest;
        }
        false
    }
}

/// PEM.
impl fmt::Display for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|certificate| certificate.fmt(f))
    }
}

/// A file that certificates could not be read from.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what they are")]
pub enum FileError {
    #[error("failed to read `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("failed to read the certificates in `{}`", path.display())]
    Parse { path: PathBuf, source: BundleError },
}

impl FileError {
    /// Returns whether the file does not exist.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Not a PEM file of certificates.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what they are")]
pub enum BundleError {
    #[error("the file has no certificates in PEM")]
    Pem(#[source] PemError),
    #[error("block {number} is not an X.509 certificate")]
    NotX509 {
        /// Counted from 1.
        number: usize,
        source: CertificateError,
    },
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::pki::{
        Authority, AuthorityRequest, LeafRequest, Purpose, Validity, tests::root_and_intermediate,
    };

    fn authority(name: &str) -> Authority {
        let validity = Validity::from_now(Duration::from_secs(3600)).unwrap();
        Authority::generate(&AuthorityRequest { name, validity }).unwrap()
    }

    fn bundle(pem: &str) -> Bundle {
        Bundle::parse(pem.as_bytes()).unwrap()
    }

    #[test]
    fn what_is_written_is_what_was_read() {
        let [one, other] = ["one", "other"].map(authority);
        let both = format!("{}{}", one.certificate_pem(), other.certificate_pem());
        // rcgen may end lines with CR and LF.
        assert_eq!(bundle(&both).to_string(), both.replace("\r\n", "\n"));
        assert_eq!(bundle(&bundle(&both).to_string()), bundle(&both));
    }

    #[test]
    fn a_chain_leads_to_the_root_and_to_what_is_on_the_way() {
        let [root, intermediate] = root_and_intermediate();
        let leaf = intermediate.issue(&LeafRequest {
            common_name: "worker",
            names: &[],
            purpose: Purpose::Client,
            validity: Validity::from_now(Duration::from_secs(60)).unwrap(),
        });
        let chain = bundle(&leaf.unwrap().certificate_pem);
        let stranger = authority("clients");

        assert!(chain.leads_to(&bundle(root.certificate_pem())));
        assert!(chain.leads_to(&bundle(intermediate.certificate_pem())));
        assert!(!chain.leads_to(&bundle(stranger.certificate_pem())));
        let alone = Bundle::of(chain.first().clone(), []);
        assert!(!alone.leads_to(&bundle(root.certificate_pem())));
    }
}
