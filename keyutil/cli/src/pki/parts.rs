//! What CAs and leaves are made of alike.

use p256::elliptic_curve::Generate;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};

use super::{AuthorityError, Validity};

pub(super) fn params(common_name: &str, serial: &[u8], validity: Validity) -> CertificateParams {
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

pub(super) fn generate_key() -> Result<KeyPair, rcgen::Error> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
}

/// 16 bytes, of which 126 bits are random: the first two make the number positive and keep it from
/// starting with a zero, so that it always has 32 digits.
pub(super) fn random_serial() -> Result<[u8; 16], AuthorityError> {
    let mut serial = <[u8; 16]>::try_generate().map_err(|_| AuthorityError::Random)?;
    serial[0] = serial[0] & 0x3f | 0x40;
    Ok(serial)
}
