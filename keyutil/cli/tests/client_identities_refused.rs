//! Certificates and keys that cannot be presented: each is refused in words of its own.

use std::{fs, time::SystemTime};

use crate::common::client::{HOUR, World, issue, past};
use crate::common::maker::Maker;
use crate::common::openssl::{openssl, rsa_pkcs1};
use keyutil::{chain, credentials::Identity};
use keyutil_cli::pki::{Purpose, Validity};

#[test]
fn everything_else_is_refused_in_its_own_words() {
    let maker = Maker::new();
    for name in ["ec", "other"] {
        maker.key(&format!("{name}.key"));
        maker.certify(name, "ca");
    }
    maker.chain();
    rsa_pkcs1(maker.dir(), "rsa.key");
    openssl(
        maker.dir(),
        "ecparam -name secp256k1 -genkey -noout -out bitcoin.key",
    );
    openssl(
        maker.dir(),
        "pkcs8 -topk8 -in ec.key -passout pass:tops3cret -out locked.key",
    );
    openssl(
        maker.dir(),
        "rsa -in rsa.key -aes128 -passout pass:tops3cret -out locked-rsa.key",
    );
    openssl(maker.dir(), "x509 -in ec.crt -outform DER -out der.crt");
    openssl(maker.dir(), "ec -in ec.key -outform DER -out der.key");
    openssl(maker.dir(), "ec -in ec.key -pubout -out public.key");
    maker.write("empty", "");
    for name in ["ec.crt", "ec.key"] {
        let text = maker.read(name);
        maker.write(&format!("half-{name}"), &text[..text.len() / 2]);
    }
    let leaf = maker.read("leaf.crt");
    let intermediate = maker.read("intermediate.crt");
    maker.write("backwards.crt", &[&intermediate[..], &leaf].concat());
    maker.write("cut.crt", &[&leaf[..], &intermediate[..200]].concat());
    maker.write(
        "garbage.crt",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    fs::create_dir(maker.path("folder")).unwrap();

    let no_key = "the key file has no `PRIVATE KEY`";
    for (certificate, key, words) in [
        (
            "ec.crt",
            "other.key",
            "the key does not belong to the certificate",
        ),
        (
            "ec.crt",
            "rsa.key",
            "the key does not belong to the certificate",
        ),
        ("backwards.crt", "leaf.key", "wrong order"),
        ("cut.crt", "leaf.key", "the certificate file is not PEM"),
        ("half-ec.crt", "ec.key", "the certificate file is not PEM"),
        ("garbage.crt", "ec.key", "is not an X.509 certificate"),
        (
            "der.crt",
            "ec.key",
            "the certificate file has no `CERTIFICATE` block",
        ),
        (
            "ec.key",
            "ec.key",
            "the certificate file has no `CERTIFICATE` block",
        ),
        (
            "empty",
            "ec.key",
            "the certificate file has no `CERTIFICATE` block",
        ),
        ("ec.crt", "empty", no_key),
        ("ec.crt", "half-ec.key", no_key),
        ("ec.crt", "der.key", no_key),
        ("ec.crt", "public.key", no_key),
        ("ec.crt", "ec.crt", no_key),
        ("ec.crt", "locked.key", "the key is encrypted"),
        ("ec.crt", "locked-rsa.key", "the key is encrypted"),
        ("ec.crt", "bitcoin.key", "not one of RSA"),
        ("folder", "ec.key", "folder`: not a regular file"),
        ("ec.crt", "folder", "folder`: not a regular file"),
        ("missing", "ec.key", "missing`: No such file"),
        ("ec.crt", "missing", "missing`: No such file"),
    ] {
        let refused = maker.load(certificate, key).unwrap_err();
        assert!(refused.contains(words), "{certificate} {key}: {refused}");
        assert!(
            refused.contains(certificate) || refused.contains(key),
            "{refused}"
        );
        assert!(!refused.contains("tops3cret"), "{refused}");
    }
}

#[test]
fn a_certificate_out_of_its_time_is_refused_with_the_time() {
    let world = World::new();
    let tomorrow = SystemTime::now() + 24 * HOUR;
    let future = Validity::between(tomorrow, tomorrow + HOUR).unwrap();
    for (validity, words, time) in [
        (past(), "expired at", past().not_after()),
        (future, "is not valid before", future.not_before()),
    ] {
        world.present(&issue(&world.clients, Purpose::Client, validity));
        let refused = Identity::follow(world.path("tls.crt"), world.path("tls.key"));
        let refused = chain(&refused.unwrap_err());
        assert!(refused.contains(words), "{refused}");
        let hour = humantime::format_rfc3339_seconds(time).to_string();
        assert!(refused.contains(&hour[..14]), "{hour}: {refused}");
    }
}
