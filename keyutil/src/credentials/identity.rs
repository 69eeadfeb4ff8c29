//! The client certificate and its key, checked as a pair.

use std::{
    fmt,
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use tokio_rustls::rustls::{
    self,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer},
    sign::CertifiedKey,
};

use super::reload::{Credential, INTERVAL, LoadError, Reloading};
use crate::{
    base::{causes, chain, time::rfc3339_seconds},
    diagnosis::{Class, Diagnose, Diagnosis, Step},
    x509::{
        certificate::{self, CertificateError, CertificateSummary},
        pem::{self, KeyKind, PemError},
    },
};

/// The certificate chain, leaf first, and the key of the leaf.
pub struct Identity {
    certified: Arc<CertifiedKey>,
    leaf: CertificateSummary,
}

impl Identity {
    /// Loads the pair, and reloads it when the files change.
    ///
    /// # Errors
    /// [`LoadError`], if a file is missing or malformed, if the two do not belong together for a
    /// second, or if the certificate is not valid now.
    pub fn follow(certificate: PathBuf, key: PathBuf) -> Result<Reloading<Self>, LoadError> {
        let files = vec![certificate, key];
        let begun = Instant::now();
        loop {
            let loaded = Reloading::load(files.clone(), |contents| {
                Ok(Self::parse(&contents[0], &contents[1], SystemTime::now())?)
            });
            // The files may be replaced at this moment, and one of each version was read.
            match &loaded {
                Err(error) if is_of_two_versions(error) && begun.elapsed() < INTERVAL => {
                    thread::sleep(Duration::from_millis(20));
                }
                _ => return loaded,
            }
        }
    }

    /// Parses a PEM chain and a PEM key: PKCS#8, PKCS#1 or SEC1; RSA, EC or Ed25519. Both may be in
    /// one file. The first of several keys is used.
    ///
    /// # Errors
    /// [`IdentityError`] says which of the two is wrong and why.
    pub fn parse(chain: &[u8], key: &[u8], now: SystemTime) -> Result<Self, IdentityError> {
        let chain = certificates(chain)?;
        let keys = key;
        let key = private_key(keys)?;
        // The parser has returned at least one.
        let (leaf, rest) = (&chain[0], &chain[1..]);
        let summary = CertificateSummary::from_der(leaf).map_err(IdentityError::Leaf)?;
        check_chain(&chain)?;
        let found = KeyKind::of(&key);
        let signing_key = aws_lc_rs::default_provider()
            .key_provider
            .load_private_key(key)
            .map_err(|source| IdentityError::UnusableKey { found, source })?;
        let public_key = signing_key.public_key();
        let belongs = |certificate: &CertificateDer<'_>| {
            let of_certificate = certificate::public_key(certificate).ok();
            of_certificate.as_deref() == public_key.as_deref()
        };
        if !belongs(leaf) {
            return Err(match pem::count_private_keys(keys) {
                _ if rest.iter().any(belongs) => IdentityError::Order,
                count @ 2.. => IdentityError::SeveralKeys { count },
                _ => IdentityError::Mismatch,
            });
        }
        let certified = CertifiedKey::new(chain.clone(), signing_key);
        if summary.not_after < now {
            return Err(IdentityError::Expired {
                serial: summary.serial,
                at: rfc3339_seconds(summary.not_after),
                now: rfc3339_seconds(now),
            });
        }
        if summary.not_before > now {
            return Err(IdentityError::NotYetValid {
                serial: summary.serial,
                from: rfc3339_seconds(summary.not_before),
                now: rfc3339_seconds(now),
            });
        }
        Ok(Self {
            certified: Arc::new(certified),
            leaf: summary,
        })
    }

    /// The chain and key, for the rustls config of one connection.
    pub fn certified(&self) -> Arc<CertifiedKey> {
        self.certified.clone()
    }

    /// The issuers of the certificates in the chain.
    pub fn issuers(&self) -> impl Iterator<Item = String> {
        let chain = self.certified.cert.iter();
        chain.filter_map(|der| Some(CertificateSummary::from_der(der).ok()?.issuer))
    }

    /// The leaf certificate.
    pub fn leaf(&self) -> &CertificateSummary {
        &self.leaf
    }
}

fn is_of_two_versions(error: &LoadError) -> bool {
    causes(error).any(|cause| {
        matches!(
            cause.downcast_ref(),
            Some(
                IdentityError::Mismatch | IdentityError::SeveralKeys { .. } | IdentityError::Order
            )
        )
    })
}

/// Rejects what the server's TLS cannot parse. Its alert would not give the reason.
fn check_chain(chain: &[CertificateDer<'_>]) -> Result<(), IdentityError> {
    if chain.len() > LONGEST_CHAIN {
        return Err(IdentityError::ChainTooLong { count: chain.len() });
    }
    for (index, certificate) in chain.iter().enumerate() {
        let number = index + 1;
        CertificateSummary::from_der(certificate)
            .map_err(|source| IdentityError::Chain { number, source })?;
        if certificate::has_negative_serial(certificate) {
            return Err(IdentityError::NegativeSerial { number });
        }
    }
    Ok(())
}

/// More levels than any PKI has. A longer file is probably a CA bundle for `--tls-ca-path`.
const LONGEST_CHAIN: usize = 16;

fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    pem::certificates(text).map_err(|error| match error {
        PemError::NoBlock { .. } => IdentityError::NoCertificate(error),
        _ => IdentityError::Certificate(error),
    })
}

fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, IdentityError> {
    pem::private_key(text).map_err(|error| match error {
        PemError::Encrypted => IdentityError::EncryptedKey,
        _ => IdentityError::Key(error),
    })
}

impl Credential for Identity {
    const KIND: &'static str = "client certificate";

    fn identify(&self) -> String {
        format!(
            "serial {}, issued by `{}`",
            self.leaf.serial, self.leaf.issuer
        )
    }

    fn id(&self) -> Option<String> {
        Some(self.leaf.serial.clone())
    }

    fn valid_from(&self) -> Option<SystemTime> {
        Some(self.leaf.not_before)
    }

    fn expires_at(&self) -> Option<SystemTime> {
        Some(self.leaf.not_after)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("leaf", &self.leaf)
            .finish_non_exhaustive()
    }
}

/// A certificate and key that cannot be used. Never contains a part of the key.
#[expect(missing_docs, reason = "the message says what a field is")]
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The certificate file has a malformed block.
    #[error("the certificate file is not PEM")]
    Certificate(#[source] PemError),
    /// The certificate file has no certificate.
    #[error("the certificate file has no `CERTIFICATE` block")]
    NoCertificate(#[source] PemError),
    /// The first block is not a certificate.
    #[error("the first block of the certificate file is not an X.509 certificate")]
    Leaf(#[source] CertificateError),
    /// A later block is not a certificate.
    #[error("block {number} of the certificate file is not an X.509 certificate")]
    Chain {
        /// Counted from 1.
        number: usize,
        #[source]
        source: CertificateError,
    },
    /// RFC 5280 section 4.1.2.2 forbids it, and Go refuses it.
    #[error(
        "certificate {number} of the certificate file has a negative serial number, which servers reject"
    )]
    NegativeSerial {
        /// Counted from 1.
        number: usize,
    },
    /// The file is probably a CA bundle.
    #[error(
        "the certificate file has {count} certificates, and a chain has at most {LONGEST_CHAIN}"
    )]
    ChainTooLong { count: usize },
    /// The key file has no usable block.
    #[error("the key file has no `PRIVATE KEY`, `EC PRIVATE KEY` or `RSA PRIVATE KEY` block")]
    Key(#[source] PemError),
    /// The key is encrypted with a passphrase.
    #[error("the key is encrypted: decrypt it with `openssl pkey -in <file> -out <new file>`")]
    EncryptedKey,
    /// The crypto library does not support the key.
    #[error("the key ({found}) is malformed, or not one of RSA, P-256, P-384, P-521 and Ed25519")]
    UnusableKey {
        found: KeyKind,
        #[source]
        source: rustls::Error,
    },
    /// Key and certificate do not belong together.
    #[error("the key does not belong to the certificate")]
    Mismatch,
    /// The first of several keys does not belong to the certificate.
    #[error(
        "the first of the {count} private keys in the file does not belong to the certificate: remove the others"
    )]
    SeveralKeys { count: usize },
    /// The key belongs to a later certificate of the file.
    #[error(
        "the certificates are in the wrong order: the one that belongs to the key must be first, followed by its issuer"
    )]
    Order,
    /// The certificate has expired.
    #[error(
        "the certificate with serial {serial} expired at {at} (the clock of this machine: {now})"
    )]
    Expired {
        serial: String,
        /// RFC 3339.
        at: String,
        now: String,
    },
    /// The certificate is not valid yet.
    #[error(
        "the certificate with serial {serial} is not valid before {from} (the clock of this machine: {now})"
    )]
    NotYetValid {
        serial: String,
        /// RFC 3339.
        from: String,
        now: String,
    },
}

impl IdentityError {
    fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Expired { .. } => {
                "renew the certificate, or correct the clock of this machine; for development: \
                 `keyutil pki rotate worker` (or `starter`, `admin`)"
            }
            Self::NotYetValid { .. } => {
                "correct the clock of this machine, or wait until the certificate is valid"
            }
            Self::Mismatch => {
                "use the key with which the certificate was requested: `openssl x509 -noout \
                 -pubkey -in <certificate>` and `openssl pkey -pubout -in <key>` must print the \
                 same"
            }
            Self::Order => "put the client certificate first in the file, followed by its issuer",
            // The message says what to do.
            Self::EncryptedKey => return None,
            // The message says what to do.
            Self::SeveralKeys { .. } => return None,
            Self::UnusableKey { .. } => {
                "issue a certificate for another key: `openssl genpkey -algorithm EC -pkeyopt \
                 ec_paramgen_curve:P-256`"
            }
            Self::Key(_) => {
                "set `--tls-key-path` to the private key in PEM, and `--tls-cert-path` to the \
                 certificate"
            }
            _ => {
                "set `--tls-cert-path` to the certificate in PEM; `openssl x509 -noout -subject \
                 -in <file>` must be able to read it"
            }
        })
    }
}

impl Diagnose for IdentityError {
    fn diagnosis(&self) -> Diagnosis {
        Diagnosis {
            step: Step::Files,
            class: Class::ClientCertificate,
            cause: chain(self),
            hint: self.hint().map(str::to_owned),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        path::Path,
        sync::atomic::{AtomicBool, Ordering},
    };

    use super::*;
    use crate::{base::chain, credentials::TrustBundle, samples, token::SigningKey};

    /// Keys as YAML folding, a variable or a chat window leave them. The parser quotes the whole
    /// line.
    #[test]
    fn a_key_that_lost_its_line_ends_is_not_repeated() {
        let leaf = samples::client();
        let key = &leaf.key_pem;
        let now = SystemTime::now();
        for flat in [
            key.replace('\n', ""),
            key.replace('\n', " "),
            key.replace('\n', "\\n"),
        ] {
            let flat = flat.as_bytes();
            let told = [
                chain(&Identity::parse(leaf.leaf_pem.as_bytes(), flat, now).unwrap_err()),
                chain(&Identity::parse(flat, flat, now).unwrap_err()),
                chain(&TrustBundle::parse(flat).unwrap_err()),
                chain(&SigningKey::from_pem(flat).unwrap_err()),
            ];
            for told in told {
                // `MII`, the start of a key in base64, as text and as a list of bytes.
                assert!(!told.contains("MII") && !told.contains("77, 73"), "{told}");
                assert!(told.contains("lost its line breaks"), "{told}");
            }
        }
    }

    /// Programs start while the kubelet swaps a mounted secret again and again.
    #[cfg(unix)]
    #[test]
    fn a_start_during_the_swap_of_a_volume_succeeds() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for version in ["v1", "v2"] {
            let leaf = samples::client();
            fs::create_dir(path(version)).unwrap();
            fs::write(path(version).join("tls.crt"), leaf.leaf_pem).unwrap();
            fs::write(path(version).join("tls.key"), leaf.key_pem).unwrap();
        }
        symlink("v1", path("..data")).unwrap();
        for name in ["tls.crt", "tls.key"] {
            symlink(Path::new("..data").join(name), path(name)).unwrap();
        }
        let stopped = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                for version in ["v2", "v1"].iter().cycle() {
                    symlink(version, path("..new")).unwrap();
                    fs::rename(path("..new"), path("..data")).unwrap();
                    if stopped.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
            let starts = || Identity::follow(path("tls.crt"), path("tls.key"));
            let failed = (0..300).find_map(|start| Some((start, starts().err()?)));
            stopped.store(true, Ordering::Relaxed);
            assert!(failed.is_none(), "{failed:?}");
        });
    }

    #[test]
    fn a_chain_that_no_server_can_read_is_refused() {
        let leaf = samples::client();
        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let broken = format!("{}{garbage}", leaf.leaf_pem);
        let long = leaf.leaf_pem.repeat(LONGEST_CHAIN + 1);
        for (text, words) in [(broken, "block 2"), (long, "at most 16")] {
            let key = leaf.key_pem.as_bytes();
            let error = Identity::parse(text.as_bytes(), key, SystemTime::now());
            let told = error.unwrap_err().to_string();
            assert!(told.contains(words), "{words}: {told}");
        }
    }
}
