//! Keys and certificates for unit tests.

#[cfg(target_os = "linux")]
#[path = "../tests/support/hanging.rs"]
pub(crate) mod hanging;

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, SanType,
};
use secrecy::ExposeSecret;

use crate::token::{ClaimsTemplate, Permission, signing_key::generate_pem};

pub(crate) const LIFETIME: Duration = Duration::from_secs(300);

/// The claims of a worker's token.
pub(crate) fn template() -> ClaimsTemplate {
    ClaimsTemplate {
        kid: None,
        subject: "worker".into(),
        permissions_claim: Default::default(),
        audience: None,
        permissions: vec![Permission::write("default")],
        lifetime: LIFETIME,
    }
}

/// Writes a new signing key.
pub(crate) fn write_key(path: &Path) {
    fs::write(path, generate_pem().unwrap().expose_secret()).unwrap();
}

/// A CA, and a certificate that it issued.
pub(crate) struct Certificates {
    pub(crate) ca_pem: String,
    pub(crate) leaf_pem: String,
    pub(crate) leaf_der: Vec<u8>,
    pub(crate) key_pem: String,
}

/// A certificate with the common name `worker` for these names and usages.
pub(crate) fn issue(
    names: &[SanType],
    usages: &[ExtendedKeyUsagePurpose],
    not_before: SystemTime,
    not_after: SystemTime,
) -> Certificates {
    let params = |common_name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        params.not_before = not_before.into();
        params.not_after = not_after.into();
        params
    };
    let mut ca = params("clients CA");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
    let mut leaf = params("worker");
    leaf.subject_alt_names = names.to_vec();
    leaf.extended_key_usages = usages.to_vec();
    let key = KeyPair::generate().unwrap();
    let leaf = leaf.signed_by(&key, &ca).unwrap();
    Certificates {
        ca_pem: ca.pem(),
        leaf_pem: leaf.pem(),
        leaf_der: leaf.der().to_vec(),
        key_pem: key.serialize_pem(),
    }
}

/// A certificate for this usage that is valid for an hour.
pub(crate) fn valid_for(usage: ExtendedKeyUsagePurpose) -> Certificates {
    let now = SystemTime::now();
    let (from, until) = (
        now - Duration::from_secs(60),
        now + Duration::from_secs(3600),
    );
    issue(&[], &[usage], from, until)
}

/// A client certificate that is valid for an hour.
pub(crate) fn client() -> Certificates {
    valid_for(ExtendedKeyUsagePurpose::ClientAuth)
}
