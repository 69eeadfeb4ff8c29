//! The names that a certificate is valid for.

use std::{fmt, net::IpAddr, str::FromStr};

/// A subject alternative name: what a client compares with the name it connected to.
///
/// Made by parsing, so every value is one that TLS libraries accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlternativeName(Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Dns(String),
    Ip(IpAddr),
}

impl AlternativeName {
    pub(super) fn to_rcgen(&self) -> Result<rcgen::SanType, rcgen::Error> {
        Ok(match &self.0 {
            Kind::Dns(name) => rcgen::SanType::DnsName(name.as_str().try_into()?),
            Kind::Ip(address) => rcgen::SanType::IpAddress(*address),
        })
    }
}

impl FromStr for AlternativeName {
    type Err = NameError;

    /// An IP address, or a DNS name, whose first label may be `*`. Letters become lower case.
    fn from_str(text: &str) -> Result<Self, NameError> {
        if let Ok(address) = text.parse() {
            return Ok(Self(Kind::Ip(address)));
        }
        match dns_fault(text) {
            None => Ok(Self(Kind::Dns(text.to_ascii_lowercase()))),
            Some(reason) => Err(NameError {
                name: text.to_owned(),
                reason,
            }),
        }
    }
}

impl fmt::Display for AlternativeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Dns(name) => f.write_str(name),
            Kind::Ip(address) => address.fmt(f),
        }
    }
}

/// A text that is neither a DNS name nor an IP address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is neither a DNS name nor an IP address: {reason}", name.escape_debug())]
pub struct NameError {
    name: String,
    reason: &'static str,
}

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
        return Some("it is not ASCII (write it in Punycode, `xn--…`)");
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
            assert_eq!(name.to_string(), printed);
            assert!(name.to_rcgen().is_ok(), "{text}");
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
}
