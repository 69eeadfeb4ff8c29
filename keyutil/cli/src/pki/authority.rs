//! Certificate authorities, the certificates they issue, and the requests for both.

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

/// A CA with its private key. `Debug` does not show the key.
///
/// Every `Authority` can sign: it has a CA certificate and the matching key.
pub struct Authority {
    chain: Bundle,
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key. `Debug` does not show the key.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// The certificate and its intermediate CAs, in PEM.
    pub certificate_pem: String,
    /// PKCS#8 in PEM.
    pub key_pem: SecretString,
}

impl Authority {
    /// Creates a root CA, which may sign leaf certificates but no other CAs.
    ///
    /// The common name ends in the first digits of the serial number, so that people and TLS
    /// libraries can tell two generations of a CA apart.
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

    /// Loads a CA certificate, which its intermediate CAs may follow, and its key.
    ///
    /// # Errors
    /// [`AuthorityError`], when either cannot be parsed, they do not match, or the certificate may
    /// not sign others.
    pub fn load(certificate_pem: &str, key_pem: &SecretString) -> Result<Self, AuthorityError> {
        let key = pem::private_key(key_pem.expose_secret().as_bytes());
        let key = KeyPair::try_from(&key.map_err(AuthorityError::NoKey)?);
        Self::check(certificate_pem, key.map_err(AuthorityError::Key)?)
    }

    /// Loads a CA from files, see [`Authority::load`].
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

    /// Creates a key and issues a certificate for it.
    ///
    /// Neither the clock nor the validity of the CA is checked.
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

    /// Returns its certificate and intermediate CAs, in PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Returns its private key: PKCS#8 in PEM.
    pub fn key_pem(&self) -> SecretString {
        self.issuer.key().serialize_pem().into()
    }

    /// Returns the content of its certificate.
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
        // Encoded again, because other blocks of the file may be private keys.
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

    /// Returns the certificates that a peer which trusts the root needs besides a leaf.
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

/// Returns 16 bytes, 126 bits of which are random. The first two bits keep the number positive and
/// without a leading zero, so that it always has 32 digits.
fn random_serial() -> Result<[u8; 16], AuthorityError> {
    let mut serial = <[u8; 16]>::try_generate().map_err(|_| AuthorityError::Random)?;
    serial[0] = serial[0] & 0x3f | 0x40;
    Ok(serial)
}

/// A request for a CA, see [`Authority::generate`].
#[derive(Clone, Copy, Debug)]
pub struct AuthorityRequest<'a> {
    /// What the CA certifies, such as `clients`.
    pub name: &'a str,
    /// The validity of the CA certificate.
    pub validity: Validity,
}

/// A request for a leaf certificate, see [`Authority::issue`].
///
/// Nothing is compared with the clock or with the validity of the CA: tests request certificates
/// that production must never have.
#[derive(Clone, Debug)]
pub struct LeafRequest<'a> {
    /// The holder, such as `worker`. At most 64 characters (RFC 5280).
    pub common_name: &'a str,
    /// The subject alternative names.
    pub names: &'a [AlternativeName],
    /// The extended key usage.
    pub purpose: Purpose,
    /// The validity of the certificate.
    pub validity: Validity,
}

/// The side of a TLS connection that a certificate is accepted on (extended key usage).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// `clientAuth`.
    Client,
    /// `serverAuth`.
    Server,
    /// Both: cluster members are servers and clients of each other.
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

/// A subject alternative name, which a client compares with the name it connects to.
///
/// Created by parsing, so that TLS libraries accept every value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlternativeName(pub(super) SanType);

impl FromStr for AlternativeName {
    type Err = NameError;

    /// Parses an IP address, or a DNS name whose first label may be `*`. Letters become lower case.
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

const NOT_ASCII: &str = "it is not ASCII (use Punycode, `xn--…`)";

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
    // RFC 1123 has no underscore, but container names do, and TLS libraries accept it.
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

/// How long before its creation a certificate becomes valid at most, because the clock of a peer
/// may be behind. A certificate with a shorter lifetime becomes valid one lifetime before its
/// creation.
pub const BACK_DATED: Duration = Duration::from_secs(5 * 60);

/// A time span that X.509 can express: whole seconds between 1970 and 9999, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Validity {
    /// As [`Validity::from_time`], for now.
    ///
    /// # Errors
    /// [`ValidityError`], when the lifetime is shorter than a second or ends after the year 9999.
    pub fn from_now(lifetime: Duration) -> Result<Self, ValidityError> {
        Self::from_time(SystemTime::now(), lifetime)
    }

    /// Returns the span from [`BACK_DATED`] before `time`, or `lifetime` if that is shorter, until
    /// `lifetime` after it.
    ///
    /// # Errors
    /// As [`Validity::from_now`].
    pub fn from_time(time: SystemTime, lifetime: Duration) -> Result<Self, ValidityError> {
        if lifetime < Duration::from_secs(1) {
            return Err(ValidityError::TooShort);
        }
        let not_before = time.checked_sub(BACK_DATED.min(lifetime));
        let not_after = time.checked_add(lifetime);
        Self::between(
            not_before.ok_or(ValidityError::OutOfRange)?,
            not_after.ok_or(ValidityError::OutOfRange)?,
        )
    }

    /// Returns exactly this span, which may lie in the past or in the future. Fractions of seconds
    /// are dropped.
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

    /// Returns the first second.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// Returns the last second.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }
}

/// A time span that no certificate can have.
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

/// The CA could not be created, loaded or used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what they are")]
pub enum AuthorityError {
    #[error("failed to generate a random serial number")]
    Random,
    #[error("failed to create a key and certificate for `{common_name}`")]
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
    #[error("the private key does not match the CA certificate `{subject}`")]
    OtherKey { subject: String },
    /// The signing library does not support this kind of certificate.
    #[error("failed to use the CA certificate `{subject}`")]
    Unusable {
        subject: String,
        source: rcgen::Error,
    },
    /// A leaf certificate, or a CA certificate without the right to sign.
    #[error("the certificate `{subject}` is not allowed to sign certificates")]
    NotAuthority { subject: String },
}

impl AuthorityError {
    /// Returns whether a file cannot be read, or has unusable content.
    pub(super) fn concerns_file(&self) -> bool {
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
        for (lifetime, back_dated) in [(60, 60), (300, 300), (3600, 300)] {
            let validity = Validity::from_time(now, Duration::from_secs(lifetime)).unwrap();
            assert_eq!(validity.not_before(), at(1_000_000 - back_dated));
            assert_eq!(validity.not_after(), at(1_000_000 + lifetime));
        }
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
