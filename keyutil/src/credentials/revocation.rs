//! Certificate revocation lists, by which clients refuse revoked server certificates.
//!
//! Every certificate of the server's chain is looked up in the list of its issuer. A certificate
//! whose issuer has no list in the file is accepted: during the rotation of a CA the new one has
//! none yet. A list that is out of date still revokes the certificates that it names, and is
//! reported.

use std::{
    cmp::Reverse,
    fmt,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::{Duration, Instant, SystemTime},
};

use tokio_rustls::rustls::{
    self, RootCertStore,
    client::{VerifierBuilderError, WebPkiServerVerifier},
    crypto::aws_lc_rs,
    pki_types::{CertificateRevocationListDer, TrustAnchor},
};

use super::reload::{Credential, LoadError, Reloading};
use crate::{
    base::{chain, time::rfc3339_seconds},
    diagnosis::{Class, Diagnose, Diagnosis, Step},
    x509::{
        pem::{self, PemError},
        revocation_list::RevocationListSummary,
    },
};

/// A set of certificate revocation lists (RFC 5280 section 5).
pub struct RevocationLists {
    lists: Vec<CertificateRevocationListDer<'static>>,
    summaries: Vec<RevocationListSummary>,
    distrust_after: Duration,
    /// When newer lists replaced these. Monotonic: a clock that is set back must not prolong their
    /// use.
    superseded: OnceLock<Instant>,
}

impl RevocationLists {
    /// Loads the lists of a PEM file, and reloads them when the file changes. A connection that was
    /// verified with earlier lists may be used for another `distrust_after`.
    ///
    /// # Errors
    /// [`LoadError`], if the file is missing or empty, or one of its lists is unusable.
    pub fn follow(file: PathBuf, distrust_after: Duration) -> Result<Reloading<Self>, LoadError> {
        Reloading::load(vec![file], move |contents| {
            Ok(Self::parse(&contents[0], distrust_after)?)
        })
    }

    fn parse(text: &[u8], distrust_after: Duration) -> Result<Self, RevocationError> {
        let lists = pem::revocation_lists(text).map_err(RevocationError::Pem)?;
        let mut parsed = Vec::new();
        for (index, list) in lists.iter().enumerate() {
            let number = index + 1;
            // Any root will do: it plays no part in the check of the lists, but there must be one.
            let any = || Vec::new().into();
            let root = TrustAnchor {
                subject: any(),
                subject_public_key_info: any(),
                name_constraints: None,
            };
            verifier(RootCertStore::from_iter([root]).into(), vec![list.clone()])
                .map_err(|source| RevocationError::Unusable { number, source })?;
            let summary = RevocationListSummary::from_der(list);
            let summary = summary.ok_or(RevocationError::Malformed { number })?;
            parsed.push((list.clone(), summary));
        }
        // Of the lists of one issuer the verifier asks the first: the newest must win, wherever it is in
        // the file.
        parsed.sort_by_key(|(_, summary)| Reverse(summary.this_update));
        let (lists, summaries) = parsed.into_iter().unzip();
        Ok(Self {
            lists,
            summaries,
            distrust_after,
            superseded: OnceLock::new(),
        })
    }

    /// The lists.
    pub fn lists(&self) -> &[RevocationListSummary] {
        &self.summaries
    }

    /// Whether connections that were verified with these lists must not be used any more.
    pub fn are_overdue(&self) -> bool {
        let superseded = self.superseded.get();
        superseded.is_some_and(|at| at.elapsed() >= self.distrust_after)
    }
}

/// The verifier of server certificates with these roots and the lists, if there are any.
///
/// # Errors
/// An error without roots, or for a list that rustls does not support.
pub fn server_verifier(
    roots: Arc<RootCertStore>,
    revoked: Option<&RevocationLists>,
) -> Result<Arc<WebPkiServerVerifier>, VerifierBuilderError> {
    verifier(
        roots,
        revoked.map_or_else(Vec::new, |revoked| revoked.lists.clone()),
    )
}

fn verifier(
    roots: Arc<RootCertStore>,
    lists: Vec<CertificateRevocationListDer<'static>>,
) -> Result<Arc<WebPkiServerVerifier>, VerifierBuilderError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    WebPkiServerVerifier::builder_with_provider(roots, provider)
        .with_crls(lists)
        .allow_unknown_revocation_status()
        .build()
}

impl Credential for RevocationLists {
    const KIND: &'static str = "revocation lists";

    fn identify(&self) -> String {
        let names = self.summaries.iter().map(|list| {
            let at = rfc3339_seconds(list.this_update);
            let revoked = list.revoked;
            format!("`{}` of {at} ({revoked} revoked)", list.issuer)
        });
        names.collect::<Vec<_>>().join(", ")
    }

    /// None: a list that is out of date stays in use.
    fn expires_at(&self) -> Option<SystemTime> {
        None
    }

    fn succeed(&mut self, previous: &Self) {
        let _ = previous.superseded.set(Instant::now());
    }

    fn warnings(&self, now: SystemTime) -> Vec<String> {
        let out_of_date = self.summaries.iter().filter_map(|list| {
            let due = list.next_update.filter(|due| *due < now)?;
            Some(format!(
                "the revocation list of `{}` is out of date: the next one was due at {}, and \
                 certificates that were revoked since are accepted",
                list.issuer,
                rfc3339_seconds(due)
            ))
        });
        out_of_date.collect()
    }
}

impl fmt::Debug for RevocationLists {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RevocationLists")
            .field(&self.identify())
            .finish()
    }
}

/// A file without usable revocation lists.
#[expect(missing_docs, reason = "the message says what a field is")]
#[derive(Debug, thiserror::Error)]
pub enum RevocationError {
    /// The file has no list, or a malformed block.
    #[error("the file has no usable `X509 CRL` block")]
    Pem(#[source] PemError),
    /// A block is not a list.
    #[error("block {number} of the file is not a certificate revocation list")]
    Malformed {
        /// Counted from 1.
        number: usize,
    },
    /// A list is of a kind that rustls does not support.
    #[error("revocation list {number} of the file cannot be used")]
    Unusable {
        /// Counted from 1.
        number: usize,
        #[source]
        source: rustls::client::VerifierBuilderError,
    },
}

impl Diagnose for RevocationError {
    fn diagnosis(&self) -> Diagnosis {
        Diagnosis {
            step: Step::Files,
            class: Class::ServerTls,
            cause: chain(self),
            hint: Some(
                "set `--tls-crl-path` to a file with complete revocation lists (version 2) in PEM: \
                 `openssl crl -in <file> -noout -text` shows what is in it"
                    .to_owned(),
            ),
        }
    }
}
