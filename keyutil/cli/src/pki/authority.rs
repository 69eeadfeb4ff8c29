//! A certificate authority: made, loaded, and put to use.

use std::{fmt, fs, path::PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
};
use secrecy::{ExposeSecret, SecretString};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::{
    AuthorityError, AuthorityFiles, Leaf, LeafRequest, Validity, bundle,
    parts::{generate_key, params, random_serial},
};
use keyutil::x509::{
    certificate::{CertificateSummary, upper_hex},
    pem,
};

/// A CA with its private key, which is not in the `Debug` output.
///
/// Every `Authority` is one that can sign: it is a CA certificate, and the key belongs to it.
pub struct Authority {
    certificate_pem: String,
    summary: CertificateSummary,
    issuer: Issuer<'static, KeyPair>,
}

/// What [`Authority::generate`] and [`Authority::subordinate`] are asked for.
#[derive(Clone, Copy, Debug)]
pub struct AuthorityRequest<'a> {
    /// What it vouches for, such as `clients`.
    pub name: &'a str,
    /// From when until when.
    pub validity: Validity,
    /// How many CAs may stand between it and a leaf (`pathLenConstraint`).
    pub intermediates: u8,
}

impl Authority {
    /// Makes a root.
    ///
    /// Its common name ends in the first digits of its serial number, so that two generations of
    /// one CA are told apart, by people and by TLS libraries.
    ///
    /// # Errors
    /// [`AuthorityError`], when the operating system or the crypto library fails.
    pub fn generate(request: &AuthorityRequest<'_>) -> Result<Self, AuthorityError> {
        let new = NewAuthority::new(request)?;
        let certificate = new.params.self_signed(&new.key);
        let certificate_pem = certificate.map_err(|source| new.failed(source))?.pem();
        Self::check(certificate_pem, new.key)
    }

    /// Makes an intermediate CA under this one, which needs [`AuthorityRequest::intermediates`]
    /// left for it.
    ///
    /// # Errors
    /// As [`Authority::generate`].
    pub fn subordinate(&self, request: &AuthorityRequest<'_>) -> Result<Self, AuthorityError> {
        let mut new = NewAuthority::new(request)?;
        new.params.use_authority_key_identifier_extension = true;
        let certificate = new.params.signed_by(&new.key, &self.issuer);
        let certificate_pem = certificate.map_err(|source| new.failed(source))?.pem();
        Self::check(certificate_pem + self.chain_pem(), new.key)
    }

    /// Loads a CA certificate, after which those between it and its root may follow, and its key.
    ///
    /// # Errors
    /// [`AuthorityError`], when they cannot be parsed, do not belong together, or the certificate
    /// may not sign others.
    pub fn load(certificate_pem: &str, key_pem: &SecretString) -> Result<Self, AuthorityError> {
        let key = pem::private_key(key_pem.expose_secret().as_bytes());
        let key = KeyPair::try_from(&key.map_err(AuthorityError::NoKey)?);
        let key = key.map_err(AuthorityError::Key)?;
        Self::check(certificate_pem.to_owned(), key)
    }

    /// [`Authority::load`], from files.
    ///
    /// # Errors
    /// As [`Authority::load`], with the path; also when a file cannot be read.
    pub fn read(files: &AuthorityFiles) -> Result<Self, AuthorityError> {
        let read = |path: &PathBuf| {
            fs::read_to_string(path).map_err(|source| AuthorityError::Read {
                path: path.clone(),
                source,
            })
        };
        let certificate_pem = read(&files.certificate)?;
        let key_pem = read(&files.key)?.into();
        Self::load(&certificate_pem, &key_pem).map_err(|source| AuthorityError::Load {
            path: files.certificate.clone(),
            source: Box::new(source),
        })
    }

    /// Makes a key and signs a certificate for it.
    ///
    /// Neither the clock nor the validity of this CA is looked at.
    ///
    /// # Errors
    /// [`AuthorityError`], when the operating system or the crypto library fails.
    pub fn issue(&self, request: &LeafRequest<'_>) -> Result<Leaf, AuthorityError> {
        request.sign(&self.issuer, self.chain_pem())
    }

    /// Its certificate, then those between it and its root, in PEM.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Its private key: PKCS#8 in PEM.
    #[must_use]
    pub fn key_pem(&self) -> SecretString {
        self.issuer.key().serialize_pem().into()
    }

    /// What its certificate says.
    #[must_use]
    pub fn summary(&self) -> &CertificateSummary {
        &self.summary
    }

    fn check(certificate_pem: String, key: KeyPair) -> Result<Self, AuthorityError> {
        let certificates = pem::certificates(certificate_pem.as_bytes());
        let certificates = certificates.map_err(AuthorityError::NotPem)?;
        // There is at least one.
        let der = &certificates[0];
        let summary = CertificateSummary::from_der(der).map_err(AuthorityError::Certificate)?;
        let subject = summary.subject.clone();

        let public_key = key.subject_public_key_info();
        let belongs = X509Certificate::from_der(der)
            .is_ok_and(|(_, certificate)| certificate.public_key().raw == public_key);
        if !belongs {
            return Err(AuthorityError::OtherKey { subject });
        }
        let issuer = match Issuer::from_ca_cert_der(der, key) {
            Ok(issuer) => issuer,
            Err(source) => {
                return Err(AuthorityError::Unusable { subject, source });
            }
        };
        let may_sign = issuer.key_usages().is_empty()
            || issuer.key_usages().contains(&KeyUsagePurpose::KeyCertSign);
        if !summary.is_ca || !may_sign {
            return Err(AuthorityError::NotAuthority { subject });
        }
        // Made anew: what else stands in the file, which may be a key, is not for everybody.
        let certificate_pem = certificates.iter().map(|der| bundle::to_pem(der)).collect();
        Ok(Self {
            certificate_pem,
            summary,
            issuer,
        })
    }

    /// What a peer that trusts the root needs beside a leaf. The root itself is not part of it.
    fn chain_pem(&self) -> &str {
        if self.summary.subject == self.summary.issuer {
            ""
        } else {
            &self.certificate_pem
        }
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("summary", &self.summary)
            .finish_non_exhaustive()
    }
}

struct NewAuthority {
    common_name: String,
    params: CertificateParams,
    key: KeyPair,
}

impl NewAuthority {
    fn new(request: &AuthorityRequest<'_>) -> Result<Self, AuthorityError> {
        let serial = random_serial()?;
        let generation = upper_hex(&serial[..4]);
        let common_name = format!("temporal {} CA {generation}", request.name);
        let mut params = params(&common_name, &serial, request.validity);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(request.intermediates));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        match generate_key() {
            Ok(key) => Ok(Self {
                common_name,
                params,
                key,
            }),
            Err(source) => Err(AuthorityError::Sign {
                common_name,
                source,
            }),
        }
    }

    fn failed(&self, source: rcgen::Error) -> AuthorityError {
        AuthorityError::Sign {
            common_name: self.common_name.clone(),
            source,
        }
    }
}
