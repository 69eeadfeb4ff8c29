//! A certificate that one party presents, and its key.

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose};
use secrecy::SecretString;

use super::{
    AlternativeName, AuthorityError, Validity,
    parts::{generate_key, params, random_serial},
};

/// What [`Authority::issue`](super::Authority::issue) is asked for.
///
/// Tests ask for what production must never have, too: nothing here is compared with the clock or
/// with the validity of the CA.
#[derive(Clone, Debug)]
pub struct LeafRequest<'a> {
    /// The holder, such as `worker`. At most 64 characters (RFC 5280).
    pub common_name: &'a str,
    /// What a peer may know the holder by.
    pub names: &'a [AlternativeName],
    /// Which side of a TLS connection it is for.
    pub purpose: Purpose,
    /// From when until when.
    pub validity: Validity,
}

/// The side of a TLS connection on which a certificate is accepted (extended key usage).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// `clientAuth`.
    Client,
    /// `serverAuth`.
    Server,
    /// Both: the members of a cluster are each other's servers and clients.
    ServerAndClient,
}

/// A certificate and its key. The key is not in the `Debug` output.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// The certificate, then those between it and the root, in PEM.
    pub certificate_pem: String,
    /// PKCS#8 in PEM.
    pub key_pem: SecretString,
}

impl LeafRequest<'_> {
    pub(super) fn sign(
        &self,
        issuer: &rcgen::Issuer<'_, KeyPair>,
        chain_pem: &str,
    ) -> Result<Leaf, AuthorityError> {
        let failed = |source| AuthorityError::Sign {
            common_name: self.common_name.to_owned(),
            source,
        };
        let serial = random_serial()?;
        let params = self.params(&serial).map_err(failed)?;
        let key = generate_key().map_err(failed)?;
        let certificate = params.signed_by(&key, issuer).map_err(failed)?;
        Ok(Leaf {
            certificate_pem: certificate.pem() + chain_pem,
            key_pem: key.serialize_pem().into(),
        })
    }

    fn params(&self, serial: &[u8]) -> Result<CertificateParams, rcgen::Error> {
        let mut params = params(self.common_name, serial, self.validity);
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = self.purpose.usages().to_vec();
        let names = self.names.iter().map(AlternativeName::to_rcgen);
        params.subject_alt_names = names.collect::<Result<_, _>>()?;
        Ok(params)
    }
}

impl Purpose {
    fn usages(self) -> &'static [ExtendedKeyUsagePurpose] {
        use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
        match self {
            Self::Client => &[ClientAuth],
            Self::Server => &[ServerAuth],
            Self::ServerAndClient => &[ServerAuth, ClientAuth],
        }
    }
}
