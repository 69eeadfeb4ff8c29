//! A certificate authority: made, loaded, and put to use.

use std::{
    fmt, fs, io,
    path::PathBuf,
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use p256::elliptic_curve::Generate;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
};
use secrecy::{ExposeSecret, SecretString};

use super::{
    AuthorityFiles, BundleError,
    bundle::{Bundle, Certificate},
};
use keyutil::{
    base::time::LAST_SECOND,
    x509::{
        certificate::{self, CertificateError, CertificateSummary, upper_hex},
        pem::{self, PemError},
    },
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

/// What [`Authority::generate`](super::Authority::generate) is asked for.
#[derive(Clone, Copy, Debug)]
pub struct AuthorityRequest<'a> {
    /// What it vouches for, such as `clients`.
    pub name: &'a str,
    /// From when until when.
    pub validity: Validity,
}

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

impl Purpose {
    pub(super) fn usages(self) -> &'static [ExtendedKeyUsagePurpose] {
        use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
        match self {
            Self::Client => &[ClientAuth],
            Self::Server => &[ServerAuth],
            Self::ServerAndClient => &[ServerAuth, ClientAuth],
        }
    }
}

/// A subject alternative name: what a client compares with the name it connected to.
///
/// Made by parsing, so every value is one that TLS libraries accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlternativeName(pub(super) SanType);

impl FromStr for AlternativeName {
    type Err = NameError;

    /// An IP address, or a DNS name, whose first label may be `*`. Letters become lower case.
    fn from_str(text: &str) -> Result<Self, NameError> {
        if let Ok(address) = text.parse() {
            return Ok(Self(SanType::IpAddress(address)));
        }
        let refused = |reason| NameError {
            name: text.to_owned(),
            reason,
        };
        if let Some(reason) = dns_fault(text) {
            return Err(refused(reason));
        }
        let name = text.to_ascii_lowercase().try_into();
        let name = name.map_err(|_| refused(NOT_ASCII))?;
        Ok(Self(SanType::DnsName(name)))
    }
}

/// A text that is neither a DNS name nor an IP address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is neither a DNS name nor an IP address: {reason}", name.escape_debug())]
pub struct NameError {
    name: String,
    reason: &'static str,
}

const NOT_ASCII: &str = "it is not ASCII (write it in Punycode, `xn--…`)";

fn dns_fault(text: &str) -> Option<&'static str> {
    let name = match text.strip_prefix("*.") {
        Some(parent) if !parent.contains('.') => {
            return Some("a wildcard needs two labels after it");
        }
        Some(parent) => parent,
        None => text,
    };
    if text.is_empty() {
        return Some("it is empty");
    }
    if text.len() > 253 {
        return Some("it is longer than 253 characters");
    }
    if !text.is_ascii() {
        return Some(NOT_ASCII);
    }
    let last_label = name.rsplit('.').next().unwrap_or_default();
    if !last_label.is_empty() && last_label.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some("its last label is a number");
    }
    name.split('.').find_map(label_fault)
}

fn label_fault(label: &str) -> Option<&'static str> {
    // RFC 1123 has no underscore, but names of containers do, and TLS libraries accept it.
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if label.is_empty() {
        Some("a label is empty")
    } else if label.len() > 63 {
        Some("a label is longer than 63 characters")
    } else if label.contains('*') {
        Some("`*` is allowed only as the whole first label")
    } else if !label.bytes().all(allowed) {
        Some("only letters, digits, `-`, `_` and `.` are allowed")
    } else if label.starts_with('-') || label.ends_with('-') {
        Some("a label starts or ends with `-`")
    } else {
        None
    }
}

/// A certificate is valid from this much before it is made: the clock of the peer that checks it
/// may be behind.
pub const BACK_DATED: Duration = Duration::from_secs(5 * 60);

/// A span of time that X.509 can express: whole seconds between 1970 and 9999, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Validity {
    /// From [`BACK_DATED`] before now until `lifetime` from now.
    ///
    /// # Errors
    /// [`ValidityError`], when the lifetime is less than a second or ends after the year 9999.
    pub fn from_now(lifetime: Duration) -> Result<Self, ValidityError> {
        Self::from_time(SystemTime::now(), lifetime)
    }

    /// From [`BACK_DATED`] before `time` until `lifetime` after it.
    ///
    /// # Errors
    /// As [`Validity::from_now`].
    pub fn from_time(time: SystemTime, lifetime: Duration) -> Result<Self, ValidityError> {
        if lifetime < Duration::from_secs(1) {
            return Err(ValidityError::TooShort);
        }
        let not_before = time.checked_sub(BACK_DATED);
        let not_after = time.checked_add(lifetime);
        Self::between(
            not_before.ok_or(ValidityError::OutOfRange)?,
            not_after.ok_or(ValidityError::OutOfRange)?,
        )
    }

    /// Exactly this span, which may lie in the past or in the future; fractions of seconds are cut.
    ///
    /// # Errors
    /// [`ValidityError`], when the end is before the start or a date cannot be written in X.509.
    pub fn between(not_before: SystemTime, not_after: SystemTime) -> Result<Self, ValidityError> {
        let (not_before, not_after) = (whole_seconds(not_before)?, whole_seconds(not_after)?);
        if not_after < not_before {
            return Err(ValidityError::EndsBeforeStart);
        }
        Ok(Self {
            not_before,
            not_after,
        })
    }

    /// The first second.
    #[must_use]
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// The last second.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }
}

/// A span of time that no certificate can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what they are")]
pub enum ValidityError {
    #[error("shorter than a second")]
    TooShort,
    #[error("the end is before the start")]
    EndsBeforeStart,
    #[error("a date outside of the years 1970 to 9999")]
    OutOfRange,
}

fn whole_seconds(time: SystemTime) -> Result<SystemTime, ValidityError> {
    let since_1970 = time.duration_since(UNIX_EPOCH);
    match since_1970.map(|since| since.as_secs()) {
        Ok(seconds) if seconds <= LAST_SECOND => Ok(UNIX_EPOCH + Duration::from_secs(seconds)),
        _ => Err(ValidityError::OutOfRange),
    }
}

/// A CA could not be made, loaded or used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what they are")]
pub enum AuthorityError {
    #[error("failed to draw a random serial number")]
    Random,
    #[error("failed to make a key and certificate for `{common_name}`")]
    Sign {
        common_name: String,
        source: rcgen::Error,
    },
    #[error("failed to read `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("failed to load the CA `{}`", path.display())]
    Load {
        path: PathBuf,
        source: Box<AuthorityError>,
    },
    #[error("the CA certificate is not a PEM block `CERTIFICATE`")]
    NotPem(#[source] PemError),
    #[error("failed to parse the CA certificate")]
    Certificate(#[source] CertificateError),
    #[error("failed to read the private key of the CA")]
    NoKey(#[source] PemError),
    #[error("failed to parse the private key of the CA")]
    Key(#[source] rcgen::Error),
    #[error("the private key does not belong to the CA certificate `{subject}`")]
    OtherKey { subject: String },
    /// A certificate of a kind that the signing library cannot sign with.
    #[error("failed to use the CA certificate `{subject}`")]
    Unusable {
        subject: String,
        source: rcgen::Error,
    },
    /// The certificate of a leaf, or of a CA that may only do something else.
    #[error("the certificate `{subject}` is not allowed to sign certificates")]
    NotAuthority { subject: String },
}

impl AuthorityError {
    /// Whether a file cannot be read, or does not hold what it should.
    pub(super) fn is_of_a_file(&self) -> bool {
        matches!(self, Self::Read { .. } | Self::Load { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_told_apart() {
        for (text, printed) in [
            ("localhost", "localhost"),
            ("Temporal.Example.COM", "temporal.example.com"),
            ("*.example.com", "*.example.com"),
            ("temporal_frontend", "temporal_frontend"),
            ("127.0.0.1", "127.0.0.1"),
            ("0:0:0:0:0:0:0:1", "::1"),
        ] {
            let name: AlternativeName = text.parse().unwrap();
            let found = match &name.0 {
                SanType::DnsName(name) => name.to_string(),
                SanType::IpAddress(address) => address.to_string(),
                other => panic!("{other:?}"),
            };
            assert_eq!(found, printed);
        }
    }

    #[test]
    fn what_is_neither_is_refused_with_the_reason() {
        let long_label = "a".repeat(64);
        let long_name = ["a".repeat(60).as_str(); 5].join(".");
        for (text, reason) in [
            ("", "it is empty"),
            ("a..b", "a label is empty"),
            ("example.com.", "a label is empty"),
            ("*", "whole first label"),
            ("*.com", "two labels"),
            ("a.*.com", "whole first label"),
            ("w*.example.com", "whole first label"),
            ("-a.com", "starts or ends"),
            ("a-.com", "starts or ends"),
            ("https://example.com", "only letters"),
            ("example.com:7233", "only letters"),
            ("127.0.0.300", "its last label is a number"),
            ("bücher.example", "Punycode"),
            ("a\nb", "`a\\nb` is neither"),
            (&long_label, "63"),
            (&long_name, "253"),
        ] {
            let error = text.parse::<AlternativeName>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn starts_early_and_ends_on_time() {
        let now = at(1_000_000) + Duration::from_millis(700);
        let validity = Validity::from_time(now, Duration::from_secs(60)).unwrap();

        assert_eq!(validity.not_before(), at(1_000_000 - 300));
        assert_eq!(validity.not_after(), at(1_000_060));
    }

    #[test]
    fn what_x509_cannot_write_is_refused() {
        let second = Duration::from_secs(1);
        for (time, lifetime, error) in [
            (at(1_000_000), Duration::ZERO, ValidityError::TooShort),
            (at(1_000_000), second / 2, ValidityError::TooShort),
            (at(1_000_000), Duration::MAX, ValidityError::OutOfRange),
            (at(LAST_SECOND), second, ValidityError::OutOfRange),
            (at(0), second, ValidityError::OutOfRange),
        ] {
            let found = Validity::from_time(time, lifetime);
            assert_eq!(found, Err(error), "{time:?} {lifetime:?}");
        }
        let backwards = Validity::between(at(2), at(1));
        assert_eq!(backwards, Err(ValidityError::EndsBeforeStart));
        assert!(Validity::between(at(0), at(LAST_SECOND)).is_ok());
    }
}
