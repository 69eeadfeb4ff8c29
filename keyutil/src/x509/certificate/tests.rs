use std::sync::LazyLock;

use proptest::prelude::*;
use rcgen::{ExtendedKeyUsagePurpose, SanType};

use super::*;
use crate::samples::issue;

static LEAF: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let names = [
        SanType::DnsName("*.temporal.local".try_into().unwrap()),
        SanType::IpAddress("::1".parse().unwrap()),
        SanType::IpAddress("10.0.0.7".parse().unwrap()),
    ];
    let usages = [
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    issue(&names, &usages, at(1_700_000_000), at(1_800_000_000)).leaf_der
});

#[test]
fn a_certificate_is_read_back_as_issued() {
    let summary = CertificateSummary::from_der(&LEAF).unwrap();

    assert_eq!(summary.subject, "CN=worker");
    assert_eq!(summary.issuer, "CN=clients CA");
    assert!(summary.serial.len() >= 32, "{}", summary.serial);
    assert_eq!(summary.not_before, at(1_700_000_000));
    assert_eq!(summary.not_after, at(1_800_000_000));
    assert_eq!(summary.dns_names, ["*.temporal.local"]);
    let addresses = summary.ip_addresses.iter().map(ToString::to_string);
    assert_eq!(addresses.collect::<Vec<_>>(), ["::1", "10.0.0.7"]);
    assert_eq!(
        summary.usages,
        [KeyPurpose::ServerAuth, KeyPurpose::ClientAuth]
    );
    assert!(!summary.is_ca);
}

#[test]
fn no_restriction_permits_everything() {
    let mut summary = CertificateSummary::from_der(&LEAF).unwrap();
    for (usages, client) in [
        (vec![], true),
        (vec![KeyPurpose::Any], true),
        (vec![KeyPurpose::ServerAuth], false),
        (vec![KeyPurpose::ClientAuth], true),
        (vec![KeyPurpose::Other("codeSigning".to_owned())], false),
    ] {
        summary.usages = usages;
        assert_eq!(summary.permits_client(), client, "{:?}", summary.usages);
    }
}

#[test]
fn serials_are_formatted_as_openssl_prints_them() {
    for (raw, text) in [
        (&[0x0a, 0xff][..], "0AFF"),
        (&[0x00, 0x80], "80"),
        (&[0x00], "00"),
        (&[], ""),
    ] {
        assert_eq!(serial_text(raw), text);
    }
}

#[test]
fn names_are_escaped_for_terminals() {
    assert_eq!(printable("a\u{1b}[31m\nü"), "a\\u{1b}[31m\\nü");
}

#[test]
fn bytes_after_a_certificate_are_an_error() {
    let error = CertificateSummary::from_der(&[LEAF.as_slice(), b"\n"].concat()).unwrap_err();
    assert_eq!(error.to_string(), "1 bytes follow the certificate");
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        exercise(&bytes);
    }

    // Almost valid input gets much further into the parser than arbitrary bytes.
    #[test]
    fn damaged_certificates_never_panic(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        length in any::<prop::sample::Index>(),
        cut: bool,
    ) {
        let mut der = LEAF.clone();
        for (index, byte) in damage {
            let index = index.index(der.len());
            der[index] = byte;
        }
        if cut {
            der.truncate(length.index(der.len()));
        }
        exercise(&der);
    }
}

/// Parses, and formats the result in the ways in which callers do.
fn exercise(der: &[u8]) {
    match CertificateSummary::from_der(der) {
        Ok(summary) => {
            let _ = format!("{summary:?}");
            for time in [summary.not_before, summary.not_after] {
                let _ = humantime::format_rfc3339_seconds(time).to_string();
            }
        }
        Err(error) => {
            let _ = format!("{:#}", anyhow::Error::new(error));
        }
    }
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}
