//! Certificates and keys as the openssl command makes them.

use std::{fs, path::Path};

use keyutil::{chain, credentials::Identity};
use tempfile::TempDir;

use crate::common::openssl::{openssl, rsa_pkcs1, try_openssl};

/// A folder with a CA that openssl made.
pub struct Maker {
    folder: TempDir,
}

impl Maker {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let maker = Self { folder };
        maker.write("openssl.cnf", CONFIG);
        openssl(
            maker.dir(),
            "req -x509 -new -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 30 \
             -subj /CN=clients -config openssl.cnf -extensions authority",
        );
        maker
    }

    /// Keys of every kind, each with a certificate.
    pub fn keys(&self) -> Vec<(String, String)> {
        rsa_pkcs1(self.dir(), "pkcs1.key");
        assert!(self.read("pkcs1.key").contains("BEGIN RSA PRIVATE KEY"));
        openssl(self.dir(), "genpkey -algorithm RSA -out pkcs8.key");
        assert!(self.read("pkcs8.key").contains("BEGIN PRIVATE KEY"));
        openssl(self.dir(), "ecparam -name prime256v1 -genkey -out sec1.key");
        let sec1 = self.read("sec1.key");
        assert!(sec1.contains("EC PARAMETERS") && sec1.contains("BEGIN EC PRIVATE KEY"));
        openssl(
            self.dir(),
            "pkcs8 -topk8 -nocrypt -in sec1.key -out ec8.key",
        );
        openssl(
            self.dir(),
            "ecparam -name secp384r1 -genkey -noout -out p384.key",
        );
        let mut names = vec!["pkcs1", "pkcs8", "sec1", "ec8", "p384"];
        // The LibreSSL of macOS does not know it.
        if try_openssl(self.dir(), "genpkey -algorithm ED25519 -out ed25519.key")
            .status
            .success()
        {
            names.push("ed25519");
        }
        for name in &names {
            self.certify(name, "ca");
        }
        names.into_iter().map(pair).collect()
    }

    /// One pair, as editors, mail and `openssl x509 -text` leave it.
    pub fn texts(&self) -> Vec<(String, String)> {
        self.key("plain.key");
        self.certify("plain", "ca");
        let (certificate, key) = (self.read("plain.crt"), self.read("plain.key"));
        for (name, dressed) in [
            (
                "crlf",
                &(|text: &str| text.replace('\n', "\r\n")) as &dyn Fn(&str) -> String,
            ),
            ("bom", &|text| format!("\u{feff}{text}")),
            ("open", &|text| text.trim_end().to_owned()),
            ("cr", &|text| text.replace('\n', "\r")),
            ("spaces", &|text| text.replace('\n', "  \n")),
            ("words", &|text| {
                format!("subject=CN = x\n\n{text}Kind regards\n-- \n")
            }),
        ] {
            self.write(&format!("{name}.crt"), &dressed(&certificate));
            self.write(&format!("{name}.key"), &dressed(&key));
        }
        openssl(self.dir(), "x509 -in plain.crt -text -out text.crt");
        openssl(self.dir(), "ec -in plain.key -text -out text.key");
        let mut pairs: Vec<_> = ["crlf", "cr", "bom", "open", "spaces", "words", "text"]
            .into_iter()
            .map(pair)
            .collect();
        pairs.push(self.one_file());
        pairs
    }

    /// Certificate and key in one file, between what `openssl pkcs12` says of them.
    fn one_file(&self) -> (String, String) {
        self.archive("plain", "plain.p12");
        openssl(
            self.dir(),
            "pkcs12 -in plain.p12 -passin pass: -nodes -out bags.pem",
        );
        assert!(self.read("bags.pem").contains("Bag Attributes"));
        ("bags.pem".to_owned(), "bags.pem".to_owned())
    }

    /// A PKCS#12 archive without a password.
    pub fn archive(&self, name: &str, file: &str) {
        openssl(
            self.dir(),
            &format!("pkcs12 -export -in {name}.crt -inkey {name}.key -passout pass: -out {file}"),
        );
    }

    /// A leaf of an intermediate CA, which the server does not know.
    pub fn chain(&self) -> Vec<(String, String)> {
        self.key("intermediate.key");
        self.sign("intermediate", "ca", "authority");
        self.key("leaf.key");
        self.certify("leaf", "intermediate");
        let (leaf, issuer) = (self.read("leaf.crt"), self.read("intermediate.crt"));
        self.write("chain.crt", &format!("{leaf}issued by\n{issuer}"));
        vec![("chain.crt".to_owned(), "leaf.key".to_owned())]
    }

    pub fn key(&self, file: &str) {
        openssl(
            self.dir(),
            &format!("ecparam -name prime256v1 -genkey -noout -out {file}"),
        );
    }

    pub fn certify(&self, name: &str, issuer: &str) {
        self.sign(name, issuer, "client");
    }

    pub fn sign(&self, name: &str, issuer: &str, extensions: &str) {
        openssl(
            self.dir(),
            &format!(
                "req -new -key {name}.key -subj /CN={name} -config openssl.cnf -out {name}.csr"
            ),
        );
        openssl(
            self.dir(),
            &format!(
                "x509 -req -in {name}.csr -CA {issuer}.crt -CAkey {issuer}.key -CAcreateserial \
                 -days 30 -sha256 -extfile openssl.cnf -extensions {extensions} -out {name}.crt"
            ),
        );
    }

    /// The serial of what was loaded, or the error in words.
    pub fn load(&self, certificate: &str, key: &str) -> Result<String, String> {
        match Identity::follow(self.path(certificate), self.path(key)) {
            Ok(identity) => Ok(identity.current().leaf().serial.clone()),
            Err(error) => Err(chain(&error)),
        }
    }

    pub fn dir(&self) -> &Path {
        self.folder.path()
    }

    pub fn path(&self, file: &str) -> std::path::PathBuf {
        self.dir().join(file)
    }

    pub fn read(&self, file: &str) -> String {
        fs::read_to_string(self.path(file)).unwrap()
    }

    pub fn write(&self, file: &str, text: &str) {
        fs::write(self.path(file), text).unwrap();
    }
}

fn pair(name: &str) -> (String, String) {
    (format!("{name}.crt"), format!("{name}.key"))
}

const CONFIG: &str = "
[req]
distinguished_name = name
[name]
CN = a name, for the programs that want one here
[authority]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
[client]
basicConstraints = CA:FALSE
extendedKeyUsage = clientAuth
";
