//! A certificate authority: made, loaded, and put to use.

use std::{fmt, fs, path::PathBuf};

use p256::elliptic_curve::Generate;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData,
};
use secrecy::{ExposeSecret, SecretString};

use super::{
    AuthorityError, AuthorityFiles, AuthorityRequest, BundleError, LeafRequest, Validity,
    bundle::{Bundle, Certificate},
};
use keyutil::x509::{
    certificate::{self, CertificateSummary, upper_hex},
    pem,
};

/// A CA with its private key, which is not in the `Debug` output.
///
/// Every `Authority` is one that can sign: it is a CA certificate, and the key belongs to it.
pub struct Authority {
    chain: Bundle,
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key. The key is not in the `Debug` output.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// The certificate, then those between it and the root, in PEM.
    pub certificate_pem: String,
    /// PKCS#8 in PEM.
    pub key_pem: SecretString,
}

impl Authority {
    /// Makes a root, which may sign leaves and no other CAs.
    ///
    /// Its common name ends in the first digits of its serial number, so that two generations of
    /// one CA are told apart, by people and by TLS libraries.
    ///
    /// # Errors
    /// [`AuthorityError`], when the operating system or the crypto library fails.
    pub fn generate(request: &AuthorityRequest<'_>) -> Result<Self, AuthorityError> {
        let serial = random_serial()?;
        let generation = upper_hex(&serial[..4]);
        let common_name = format!("temporal {} CA {generation}", request.name);
        let mut params = params(&common_name, &serial, request.validity);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let made = generate_key().and_then(|key| Ok((params.self_signed(&key)?, key)));
        let (certificate, key) = made.map_err(|source| AuthorityError::Sign {
            common_name,
            source,
        })?;
        Self::check(&certificate.pem(), key)
    }

    /// Loads a CA certificate, after which those between it and its root may follow, and its key.
    ///
    /// # Errors
    /// [`AuthorityError`], when they cannot be parsed, do not belong together, or the certificate
    /// may not sign others.
    pub fn load(certificate_pem: &str, key_pem: &SecretString) -> Result<Self, AuthorityError> {
        let key = pem::private_key(key_pem.expose_secret().as_bytes());
        let key = KeyPair::try_from(&key.map_err(AuthorityError::NoKey)?);
        Self::check(certificate_pem, key.map_err(AuthorityError::Key)?)
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
        let serial = random_serial()?;
        let sign = || -> Result<_, rcgen::Error> {
            let mut params = params(request.common_name, &serial, request.validity);
            params.is_ca = IsCa::ExplicitNoCa;
            params.use_authority_key_identifier_extension = true;
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = request.purpose.usages().to_vec();
            let names = request.names.iter().map(|name| name.0.clone());
            params.subject_alt_names = names.collect();
            let key = generate_key()?;
            Ok((params.signed_by(&key, &self.issuer)?, key))
        };
        let (certificate, key) = sign().map_err(|source| AuthorityError::Sign {
            common_name: request.common_name.to_owned(),
            source,
        })?;
        Ok(Leaf {
            certificate_pem: certificate.pem() + self.chain_pem(),
            key_pem: key.serialize_pem().into(),
        })
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
        self.certificate().summary()
    }

    pub(super) fn certificate(&self) -> &Certificate {
        self.chain.first()
    }

    fn check(certificate_pem: &str, key: KeyPair) -> Result<Self, AuthorityError> {
        let chain = Bundle::parse(certificate_pem.as_bytes()).map_err(|error| match error {
            BundleError::Pem(source) => AuthorityError::NotPem(source),
            BundleError::NotX509 { source, .. } => AuthorityError::Certificate(source),
        })?;
        let (der, summary) = (chain.first().der(), chain.first().summary());
        let subject = summary.subject.clone();
        let public_key = key.subject_public_key_info();
        if !certificate::public_key(der).is_ok_and(|found| found == public_key) {
            return Err(AuthorityError::OtherKey { subject });
        }
        // Made anew: what else stands in the file, which may be a key, is not public.
        let certificate_pem = chain.to_string();
        let issuer = match Issuer::from_ca_cert_pem(&certificate_pem, key) {
            Ok(issuer) => issuer,
            Err(source) => return Err(AuthorityError::Unusable { subject, source }),
        };
        let usages = issuer.key_usages();
        let may_sign = usages.is_empty() || usages.contains(&KeyUsagePurpose::KeyCertSign);
        if !summary.is_ca || !may_sign {
            return Err(AuthorityError::NotAuthority { subject });
        }
        Ok(Self {
            chain,
            certificate_pem,
            issuer,
        })
    }

    /// What a peer that trusts the root needs beside a leaf. The root itself is not part of it.
    fn chain_pem(&self) -> &str {
        if self.summary().subject == self.summary().issuer {
            ""
        } else {
            &self.certificate_pem
        }
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("summary", self.summary())
            .finish_non_exhaustive()
    }
}

fn params(common_name: &str, serial: &[u8], validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.serial_number = Some(serial.to_vec().into());
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.not_before = validity.not_before().into();
    params.not_after = validity.not_after().into();
    params
}

fn generate_key() -> Result<KeyPair, rcgen::Error> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
}

/// 16 bytes, of which 126 bits are random: the first two make the number positive and keep it from
/// starting with a zero, so that it always has 32 digits.
fn random_serial() -> Result<[u8; 16], AuthorityError> {
    let mut serial = <[u8; 16]>::try_generate().map_err(|_| AuthorityError::Random)?;
    serial[0] = serial[0] & 0x3f | 0x40;
    Ok(serial)
}
