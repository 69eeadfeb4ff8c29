//! A CA that was made elsewhere, and one under it: `keyutil pki` makes no intermediate CAs.
//!
//! The tests of the sandbox include this file.

use keyutil_cli::pki::Authority;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};

/// A root CA with this name and path length, and one CA under it.
pub fn root_and_intermediate(name: &str, path_length: u8) -> [Authority; 2] {
    let params = |name: &str, path_length| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.use_authority_key_identifier_extension = true;
        params
    };
    let new_key = || KeyPair::generate().unwrap();
    let root = CertifiedIssuer::self_signed(params(name, path_length), new_key()).unwrap();
    let below = CertifiedIssuer::signed_by(params("intermediate", 0), new_key(), &root).unwrap();
    [root, below].map(|one| Authority::load(&one.pem(), &one.key().serialize_pem().into()).unwrap())
}
