//! What a CA is asked for: a name and a span of time for a new one; holder, names, purpose and span
//! of time for a certificate. Names and spans are checked when they are made.

use std::{
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rcgen::{ExtendedKeyUsagePurpose, SanType};

use keyutil::base::time::LAST_SECOND;

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
