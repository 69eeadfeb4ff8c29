//! The content of a certificate, for logs, checks and error messages.
//!
//! Certificates come from other parties. Every input leads to a value or an error, never to a
//! panic, and no text from a certificate brings control characters to a terminal.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use x509_parser::{
    certificate::X509Certificate,
    error::X509Error,
    extensions::{ExtendedKeyUsage, GeneralName, ParsedExtension},
    prelude::FromDer,
    time::ASN1Time,
    x509::{X509Name, X509Version},
};

use crate::base::{
    text::printable,
    time::{LAST_SECOND, is_near_end},
};

/// The parts of a certificate that identify it and decide how it can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateSummary {
    /// The distinguished name of the subject, such as `CN=worker`.
    pub subject: String,
    /// The distinguished name of the issuing CA.
    pub issuer: String,
    /// The serial number in upper-case hex, as `openssl x509 -serial` prints it.
    pub serial: String,
    /// The first second of its validity. Dates before 1970 read as 1970.
    pub not_before: SystemTime,
    /// The last second of its validity. Dates before 1970 read as 1970.
    pub not_after: SystemTime,
    /// The DNS names; a wildcard is written `*.example.com`.
    pub dns_names: Vec<String>,
    /// The IP addresses.
    pub ip_addresses: Vec<IpAddr>,
    /// The extended key usages. Empty if the certificate does not restrict its use.
    pub usages: Vec<KeyPurpose>,
    /// Whether it may sign other certificates.
    pub is_ca: bool,
}

/// An extended key usage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyPurpose {
    /// TLS server.
    ServerAuth,
    /// TLS client.
    ClientAuth,
    /// Any use.
    Any,
    /// Another use, as a dotted object identifier or a name.
    Other(String),
}

impl CertificateSummary {
    /// Parses one certificate in DER.
    ///
    /// # Errors
    /// [`CertificateError`], if the bytes are not exactly one X.509 certificate.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        let certificate = parse(der)?;
        let extension = |name| move |source| CertificateError::Extension { name, source };

        let names = certificate
            .subject_alternative_name()
            .map_err(extension("subjectAltName"))?
            .map(|extension| extension.value.general_names.as_slice())
            .unwrap_or_default();
        let (dns_names, ip_addresses) = read_names(names)?;
        let usages = certificate
            .extended_key_usage()
            .map_err(extension("extendedKeyUsage"))?
            .map(|extension| read_usages(extension.value))
            .unwrap_or_default();
        let may_sign = certificate
            .key_usage()
            .map_err(extension("keyUsage"))?
            .is_none_or(|extension| extension.value.key_cert_sign());
        let constraints = certificate
            .basic_constraints()
            .map_err(extension("basicConstraints"))?;
        let is_ca = match constraints {
            Some(extension) => extension.value.ca && may_sign,
            // A root of version 1 cannot say that it is one. OpenSSL and Go take it for a CA, too.
            None => {
                certificate.version() == X509Version::V1
                    && certificate.subject().as_raw() == certificate.issuer().as_raw()
            }
        };

        Ok(Self {
            subject: printable(&certificate.subject().to_string()),
            issuer: printable(&certificate.issuer().to_string()),
            serial: serial_text(certificate.raw_serial()),
            not_before: system_time(certificate.validity().not_before),
            not_after: system_time(certificate.validity().not_after),
            dns_names,
            ip_addresses,
            usages,
            is_ca,
        })
    }

    /// The DNS names and IP addresses.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let addresses = self.ip_addresses.iter().map(ToString::to_string);
        self.dns_names.iter().cloned().chain(addresses).collect()
    }

    /// Whether at most a tenth of its life is left at `now`.
    #[must_use]
    pub fn is_near_expiry(&self, now: SystemTime) -> bool {
        is_near_end(self.not_before, self.not_after, now)
    }

    /// Whether the extended key usages permit the use as a TLS client.
    #[must_use]
    pub fn permits_client(&self) -> bool {
        self.permits(&KeyPurpose::ClientAuth)
    }

    fn permits(&self, usage: &KeyPurpose) -> bool {
        self.usages.is_empty()
            || self.usages.contains(usage)
            || self.usages.contains(&KeyPurpose::Any)
    }
}

/// The public key of a certificate in DER, as a `SubjectPublicKeyInfo` in DER (RFC 5280 section
/// 4.1). Also supports certificates of version 1, which `openssl x509 -req` makes without
/// extensions and rustls does not parse.
///
/// # Errors
/// [`CertificateError`], if the bytes are not exactly one X.509 certificate.
pub fn public_key(der: &[u8]) -> Result<Vec<u8>, CertificateError> {
    Ok(parse(der)?.public_key().raw.to_vec())
}

/// Whether the first certificate in DER names the second as its issuer: by name and, if both have
/// it, by the key identifier. The signature is not verified.
pub fn names_as_issuer(certificate: &[u8], issuer: &[u8]) -> bool {
    let (Ok(certificate), Ok(issuer)) = (parse(certificate), parse(issuer)) else {
        return false;
    };
    let expected =
        certificate
            .iter_extensions()
            .find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::AuthorityKeyIdentifier(key) => key.key_identifier.as_ref(),
                _ => None,
            });
    let found = issuer
        .iter_extensions()
        .find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(key) => Some(key),
            _ => None,
        });
    let same_key = match (expected, found) {
        (Some(expected), Some(found)) => expected == found,
        _ => true,
    };
    same_key && certificate.issuer().as_raw() == issuer.subject().as_raw()
}

/// A distinguished name in DER, as in a TLS server's list of accepted CAs.
pub fn distinguished_name(der: &[u8]) -> String {
    match X509Name::from_der(der) {
        Ok((_, name)) => printable(&name.to_string()),
        Err(_) => "a name that cannot be read".to_owned(),
    }
}

/// Whether the serial number is negative, which some tools write by mistake.
pub fn has_negative_serial(der: &[u8]) -> bool {
    parse(der).is_ok_and(|certificate| {
        let first = certificate.raw_serial().first();
        first.is_some_and(|byte| byte & 0x80 != 0)
    })
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, CertificateError> {
    let (rest, certificate) =
        X509Certificate::from_der(der).map_err(|error| CertificateError::Parse {
            source: match error {
                x509_parser::nom::Err::Error(error) | x509_parser::nom::Err::Failure(error) => {
                    error
                }
                x509_parser::nom::Err::Incomplete(_) => X509Error::InvalidCertificate,
            },
        })?;
    if rest.is_empty() {
        Ok(certificate)
    } else {
        Err(CertificateError::TrailingBytes { count: rest.len() })
    }
}

/// Bytes that are not a usable certificate.
#[expect(missing_docs, reason = "the message says what a field is")]
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The structure is invalid.
    #[error("not an X.509 certificate in DER")]
    Parse {
        #[source]
        source: X509Error,
    },
    /// The certificate is followed by more bytes.
    #[error("{count} bytes follow the certificate")]
    TrailingBytes { count: usize },
    /// An extension is duplicate or malformed.
    #[error("the certificate's extension `{name}` is malformed")]
    Extension {
        /// The name of the extension in RFC 5280.
        name: &'static str,
        #[source]
        source: X509Error,
    },
}

fn read_names(names: &[GeneralName<'_>]) -> Result<(Vec<String>, Vec<IpAddr>), CertificateError> {
    let mut dns_names = Vec::new();
    let mut ip_addresses = Vec::new();
    for name in names {
        match name {
            GeneralName::DNSName(name) => dns_names.push(printable(name)),
            GeneralName::IPAddress(octets) => ip_addresses.push(read_address(octets)?),
            // E-mail addresses, URIs and other names play no part in TLS.
            _ => {}
        }
    }
    Ok((dns_names, ip_addresses))
}

fn read_address(octets: &[u8]) -> Result<IpAddr, CertificateError> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    let v6 = <[u8; 16]>::try_from(octets).map(IpAddr::from);
    v4.or(v6).map_err(|_| CertificateError::Extension {
        name: "subjectAltName",
        source: X509Error::InvalidAttributes,
    })
}

fn read_usages(usage: &ExtendedKeyUsage<'_>) -> Vec<KeyPurpose> {
    let other = |name: &str| KeyPurpose::Other(name.to_owned());
    let known = [
        (usage.server_auth, KeyPurpose::ServerAuth),
        (usage.client_auth, KeyPurpose::ClientAuth),
        (usage.any, KeyPurpose::Any),
        (usage.code_signing, other("codeSigning")),
        (usage.email_protection, other("emailProtection")),
        (usage.time_stamping, other("timeStamping")),
        (usage.ocsp_signing, other("OCSPSigning")),
    ];
    let known = known
        .into_iter()
        .filter_map(|(set, usage)| set.then_some(usage));
    let unknown = usage.other.iter().map(|oid| other(&oid.to_id_string()));
    known.chain(unknown).collect()
}

fn serial_text(raw: &[u8]) -> String {
    // DER inserts a zero byte before a number whose first bit is set.
    let digits = match raw {
        [0, rest @ ..] if !rest.is_empty() => rest,
        all => all,
    };
    upper_hex(digits)
}

/// The bytes in upper-case hex.
pub fn upper_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

/// Clamped to the range of the date formatters.
pub(super) fn system_time(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    UNIX_EPOCH + Duration::from_secs(seconds.min(LAST_SECOND))
}

#[cfg(test)]
mod tests;
