//! What other tools make, and what people mix up: each file is refused by what it is.

use std::{error::Error, fs, time::SystemTime};

use crate::common::maker::Maker;
use crate::common::openssl::{openssl, rsa_pkcs1};
use keyutil::{
    chain,
    credentials::{Identity, TrustBundle},
    token::SigningKey,
};

/// What is said of a file given as client key, as signing key, as client certificate and as CA.
struct Told([String; 4]);

impl Told {
    fn of(maker: &Maker, file: &str) -> Self {
        let text = fs::read(maker.path(file)).unwrap();
        let (certificate, key) = (maker.read("good.crt"), maker.read("good.key"));
        let now = SystemTime::now();
        let identity = |certificate: &[u8], key: &[u8]| {
            said(Identity::parse(certificate, key, now).map(|_| "taken"))
        };
        Self([
            identity(certificate.as_bytes(), &text),
            said(SigningKey::from_pem(&text).map(|_| "taken")),
            identity(&text, key.as_bytes()),
            said(TrustBundle::parse(&text).map(|_| "taken")),
        ])
    }

    fn check(&self, file: &str, expected: [&str; 4]) {
        for (told, expected) in self.0.iter().zip(expected) {
            assert!(told.contains(expected), "{file}: `{expected}` in `{told}`");
        }
    }
}

fn said<E: Error + 'static>(result: Result<&str, E>) -> String {
    match result {
        Ok(taken) => taken.to_owned(),
        Err(error) => chain(&error),
    }
}

fn with_good() -> Maker {
    let maker = Maker::new();
    maker.key("good.key");
    maker.certify("good", "ca");
    maker
}

#[test]
fn what_is_no_key_and_no_certificate_is_named() {
    let maker = with_good();
    openssl(maker.dir(), "ec -in good.key -pubout -out public.key");
    rsa_pkcs1(maker.dir(), "rsa.key");
    openssl(
        maker.dir(),
        "rsa -in rsa.key -RSAPublicKey_out -out rsa-public.key",
    );
    openssl(maker.dir(), "dsaparam -genkey -noout -out dsa8.key 2048");
    openssl(maker.dir(), "x509 -in good.crt -outform DER -out der.crt");
    openssl(maker.dir(), "ec -in good.key -outform DER -out der.key");
    openssl(maker.dir(), "x509 -in good.crt -trustout -out trusted.crt");
    openssl(
        maker.dir(),
        "crl2pkcs7 -nocrl -certfile good.crt -out good.p7b",
    );
    openssl(maker.dir(), "ecparam -name prime256v1 -out parameters");
    maker.archive("good", "good.p12");
    maker.write("dsa.key", &block("DSA PRIVATE KEY"));
    maker.write("ssh.key", &block("OPENSSH PRIVATE KEY"));
    maker.write("odd.key", &block("MY VERY OWN KEY"));
    maker.write("empty", " \n");
    maker.write(
        "indented",
        &maker
            .read("good.key")
            .replace('\n', "\n  ")
            .replacen("---", "  ---", 1),
    );
    maker.write("words", "to be filled in");
    maker.write("json", r#"{"private_key": "none"}"#);
    maker.write("token", "eyJhbGciOiJFUzI1NiJ9.e30.AAAA");
    let text = maker
        .read("good.key")
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect::<Vec<_>>();
    fs::write(maker.path("utf16"), text).unwrap();

    let all = |words| [words; 4];
    for (file, expected) in [
        (
            "public.key",
            [
                "contains a `PUBLIC KEY`, and a private key",
                "this is a public key",
                "contains a `PUBLIC KEY`, and a certificate",
                "contains a `PUBLIC KEY`",
            ],
        ),
        (
            "rsa-public.key",
            [
                "contains an `RSA PUBLIC KEY`",
                "this is a public key",
                "contains an `RSA PUBLIC KEY`",
                "contains an `RSA PUBLIC KEY`",
            ],
        ),
        ("good.csr", all("contains a `CERTIFICATE REQUEST`")),
        (
            "good.crt",
            [
                "contains a `CERTIFICATE`, and a private key",
                "contains a `CERTIFICATE`, and a private key",
                "taken",
                "is not the certificate of a CA",
            ],
        ),
        (
            "good.key",
            [
                "taken",
                "taken",
                "contains an `EC PRIVATE KEY`, and a certificate",
                "contains an `EC PRIVATE KEY`, and a certificate",
            ],
        ),
        ("dsa.key", all("contains a `DSA PRIVATE KEY`")),
        (
            "dsa8.key",
            [
                "the key (DSA)",
                "the key (DSA)",
                "PRIVATE KEY`, and a certificate",
                "PRIVATE KEY`, and a certificate",
            ],
        ),
        ("ssh.key", all("contains an `OPENSSH PRIVATE KEY`")),
        ("ssh.key", ["ssh-keygen -p", "ssh-keygen -p", "", ""]),
        ("odd.key", all("a PEM block of another kind")),
        ("der.crt", all("the file contains a certificate in DER")),
        (
            "der.crt",
            [
                "",
                "",
                "openssl x509 -inform DER",
                "openssl x509 -inform DER",
            ],
        ),
        ("der.key", all("the file contains a private key in DER")),
        (
            "der.key",
            [
                "openssl pkey -inform DER",
                "openssl pkey -inform DER",
                "",
                "",
            ],
        ),
        ("trusted.crt", all("contains a `TRUSTED CERTIFICATE`")),
        (
            "good.p7b",
            [
                "contains a `PKCS7`",
                "contains a `PKCS7`",
                "openssl pkcs7 -print_certs",
                "openssl pkcs7",
            ],
        ),
        ("parameters", all("contains an `EC PARAMETERS`")),
        ("good.p12", all("the file is a PKCS#12 archive")),
        ("good.p12", ["-nocerts", "-nocerts", "-nokeys", "-nokeys"]),
        ("empty", all("the file is empty")),
        ("indented", all("not at the start of a line")),
        ("words", all("has no `-----BEGIN …-----` line")),
        ("json", all("the file contains JSON")),
        ("token", all("the file contains a token")),
        ("utf16", all("UTF-16")),
    ] {
        Told::of(&maker, file).check(file, expected);
    }
}

#[test]
fn an_encrypted_key_is_named_in_either_form() {
    let maker = with_good();
    rsa_pkcs1(maker.dir(), "rsa.key");
    for words in [
        "pkcs8 -topk8 -in good.key -passout pass:tops3cret -out new",
        "rsa -in rsa.key -aes128 -passout pass:tops3cret -out rsa.old",
        "ec -in good.key -aes128 -passout pass:tops3cret -out old",
    ] {
        openssl(maker.dir(), words);
    }
    if !maker.read("rsa.old").contains("Proc-Type: 4,ENCRYPTED") {
        openssl(
            maker.dir(),
            "rsa -in rsa.key -traditional -aes128 -passout pass:tops3cret -out rsa.old",
        );
    }
    assert!(maker.read("new").contains("BEGIN ENCRYPTED PRIVATE KEY"));
    for file in ["old", "rsa.old"] {
        assert!(
            maker.read(file).contains("Proc-Type: 4,ENCRYPTED"),
            "{file}"
        );
    }
    for file in ["new", "old", "rsa.old"] {
        let text = maker.read(file);
        for (ends, text) in [
            ("crlf", text.replace('\n', "\r\n")),
            ("cr", text.replace('\n', "\r")),
            ("lf", text),
        ] {
            let name = format!("{file}.{ends}");
            maker.write(&name, &text);
            let encrypted = "key is encrypted";
            Told::of(&maker, &name).check(
                &name,
                [
                    encrypted,
                    encrypted,
                    "and a certificate",
                    "and a certificate",
                ],
            );
        }
    }
}

/// What TLS takes and the server's tokens do not, and what neither takes.
#[test]
fn a_key_of_the_wrong_kind_is_named() {
    let maker = with_good();
    let other = "does not belong to the certificate";
    let certificate = "and a certificate";
    for (kind, curve, client) in [
        ("P-384", "secp384r1", other),
        ("P-521", "secp521r1", other),
        ("secp256k1", "secp256k1", "the key (secp256k1)"),
    ] {
        let signing = format!("the key ({kind})");
        openssl(
            maker.dir(),
            &format!("ecparam -name {curve} -genkey -out sec1"),
        );
        openssl(maker.dir(), "pkcs8 -topk8 -nocrypt -in sec1 -out pkcs8");
        for file in ["sec1", "pkcs8"] {
            Told::of(&maker, file).check(file, [client, &signing, certificate, certificate]);
        }
    }
    for (kind, options, client) in [
        ("Ed25519", "-algorithm ED25519", other),
        ("X25519", "-algorithm X25519", "the key (X25519)"),
        ("Ed448", "-algorithm ED448", "the key (Ed448)"),
        ("RSA-PSS", "-algorithm RSA-PSS", "the key (RSA-PSS)"),
    ] {
        let signing = format!("the key ({kind})");
        openssl(maker.dir(), &format!("genpkey {options} -out odd"));
        Told::of(&maker, "odd").check(kind, [client, &signing, certificate, certificate]);
    }
    openssl(maker.dir(), "genrsa -out small 1024");
    Told::of(&maker, "small").check(
        "small",
        [
            "",
            "has 1024 bits and is too short",
            certificate,
            certificate,
        ],
    );
}

/// As OpenSSL does. That another one would fit is said.
#[test]
fn of_several_keys_the_first_is_taken() {
    let maker = with_good();
    maker.key("other.key");
    let (good, other) = (maker.read("good.key"), maker.read("other.key"));
    maker.write("good-first", &format!("{good}{other}"));
    maker.write("good-last", &format!("{other}{good}"));
    let kid = |file: &str| {
        let key = SigningKey::from_pem(maker.read(file).as_bytes()).unwrap();
        key.kid().to_owned()
    };
    assert_eq!(kid("good-first"), kid("good.key"));
    assert_eq!(kid("good-last"), kid("other.key"));
    Told::of(&maker, "good-first").check("good-first", ["taken", "taken", "", ""]);
    let first = "the first of the 2 private keys in the file does not belong";
    Told::of(&maker, "good-last").check("good-last", [first, "taken", "", ""]);
}

/// As editors, mail and `openssl` leave it; the certificate may stand before it.
#[test]
fn a_signing_key_is_read_in_every_usual_form() {
    let maker = with_good();
    rsa_pkcs1(maker.dir(), "rsa.key");
    openssl(
        maker.dir(),
        "pkcs8 -topk8 -nocrypt -in rsa.key -out rsa8.key",
    );
    openssl(
        maker.dir(),
        "pkcs8 -topk8 -nocrypt -in good.key -out good8.key",
    );
    let certificate = maker.read("good.crt");
    let kid = |text: &str| SigningKey::from_pem(text.as_bytes()).map(|key| key.kid().to_owned());
    for (one, other) in [("rsa.key", "rsa8.key"), ("good.key", "good8.key")] {
        let expected = kid(&maker.read(one)).unwrap();
        for file in [one, other] {
            let text = maker.read(file);
            for dressed in [
                text.replace('\n', "\r\n"),
                text.replace('\n', "\r"),
                text.replace('\n', " \n"),
                format!("\u{feff}{text}"),
                text.trim_end().to_owned(),
                format!("{certificate}{text}"),
                format!("Bag Attributes\n    localKeyID: 01\n{text}Kind regards\n"),
            ] {
                assert_eq!(
                    kid(&dressed).map_err(|error| chain(&error)),
                    Ok(expected.clone()),
                    "{file} {dressed}"
                );
            }
        }
    }
}

fn block(label: &str) -> String {
    format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n")
}
