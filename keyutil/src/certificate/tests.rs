use std::sync::LazyLock;

use proptest::prelude::*;
use x509_parser::pem::Pem;

use super::*;
use crate::pki::{Authority, AuthorityRequest, LeafRequest, Purpose, Validity};

static LEAF: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let validity = Validity::between(at(1_700_000_000), at(1_800_000_000)).unwrap();
    let authority = Authority::generate(&AuthorityRequest {
        name: "clients",
        validity,
    });
    let leaf = authority.unwrap().issue(&LeafRequest {
        common_name: "worker",
        names: &["*.temporal.local", "::1", "10.0.0.7"].map(|name| name.parse().unwrap()),
        purpose: Purpose::ServerAndClient,
        validity,
    });
    let pem = leaf.unwrap().certificate_pem;
    let block = Pem::iter_from_buffer(pem.as_bytes()).next();
    block.unwrap().unwrap().contents
});

#[test]
fn everything_that_was_asked_for_is_read_back() {
    let summary = CertificateSummary::from_der(&LEAF).unwrap();

    assert_eq!(summary.subject, "CN=worker");
    let issuer = summary.issuer.strip_prefix("CN=temporal clients CA ");
    assert_eq!(issuer.map(str::len), Some(8), "{}", summary.issuer);
    assert_eq!(summary.serial.len(), 32, "{}", summary.serial);
    assert_eq!(summary.not_before, at(1_700_000_000));
    assert_eq!(summary.not_after, at(1_800_000_000));
    assert_eq!(summary.dns_names, ["*.temporal.local"]);
    let addresses = summary.ip_addresses.iter().map(ToString::to_string);
    assert_eq!(addresses.collect::<Vec<_>>(), ["::1", "10.0.0.7"]);
    assert_eq!(summary.usages, [Usage::ServerAuth, Usage::ClientAuth]);
    assert!(!summary.is_ca);
}

#[test]
fn no_restriction_permits_everything() {
    let mut summary = CertificateSummary::from_der(&LEAF).unwrap();
    for (usages, client, server) in [
        (vec![], true, true),
        (vec![Usage::Any], true, true),
        (vec![Usage::ServerAuth], false, true),
        (vec![Usage::ClientAuth], true, false),
        (vec![Usage::Other("codeSigning".to_owned())], false, false),
    ] {
        summary.usages = usages;
        let found = (summary.permits_client(), summary.permits_server());
        assert_eq!(found, (client, server), "{:?}", summary.usages);
    }
}

#[test]
fn serials_look_as_openssl_prints_them() {
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
fn terminals_are_safe_from_names() {
    assert_eq!(printable("a\u{1b}[31m\nü"), "a\\u{1b}[31m\\nü");
}

#[test]
fn what_follows_a_certificate_is_not_ignored() {
    let error = CertificateSummary::from_der(&[LEAF.as_slice(), b"\n"].concat()).unwrap_err();
    assert_eq!(error.to_string(), "1 bytes follow the certificate");
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        exercise(&bytes);
    }

    // Nearly right bytes get much further into the parser than arbitrary ones.
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

/// Reads, and prints what was read in the ways in which callers print it.
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
