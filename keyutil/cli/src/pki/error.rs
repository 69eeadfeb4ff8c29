//! What can go wrong with the development certificates.

use std::{io, path::PathBuf, time::Duration};

use super::{NameError, ValidityError};
use crate::files::{LockError, WriteError};
use keyutil::{
    base::chain,
    diagnosis::{Class, Diagnose, Diagnosis, Step},
    x509::{certificate::CertificateError, pem::PemError},
};

/// The certificates could not be made or written.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// What was asked for makes no sense. Nothing was touched.
    #[error("{}", list("refused what was asked for", mistakes))]
    Input {
        /// All mistakes, not only the first.
        mistakes: Vec<Mistake>,
    },
    /// There are files already, and they were not to be replaced. Nothing was touched.
    #[error(
        "{}",
        list(
            &format!("refused to overwrite {} of the {expected} files", found.len()),
            found.iter().map(|path| format!("`{}`", path.display()))
        )
    )]
    InTheWay {
        /// What is there.
        found: Vec<PathBuf>,
        /// How many files a finished run leaves behind.
        expected: usize,
    },
    /// It could not be found out what is there. Nothing was touched.
    #[error("failed to look for `{}`", path.display())]
    Inspect {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody else's lock could not be waited for. Nothing was touched.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A key or certificate could not be made. Nothing was touched.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// An old file could not be removed: the one that marks a finished run, or what is left of a
    /// rotation. Nothing else was touched.
    #[error("failed to remove `{}`", path.display())]
    Remove {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file could not be written. Some of the others may have been.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl PkiError {
    /// Whether the caller has to ask for something else, rather than the machine to be mended.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Input { .. })
    }

    /// What to do about it, where that is known.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::InTheWay { found, expected } if found.len() < *expected => Some(
                "the set is not complete, as after an interrupted run: `--force` replaces all of it",
            ),
            Self::InTheWay { .. } => Some(
                "`--force` replaces all of them; who still holds an old certificate is refused \
                 from then on",
            ),
            Self::Write(_) => Some(
                "the set may now be incomplete; when the cause is mended, run again with `--force`",
            ),
            _ => None,
        }
    }
}

/// A CA could not be made, loaded or used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The operating system gave no random bytes.
    #[error("failed to draw a random serial number")]
    Random,
    /// The crypto library failed.
    #[error("failed to make a key and certificate for `{common_name}`")]
    Sign {
        /// The name of the holder.
        common_name: String,
        /// What the library says.
        #[source]
        source: rcgen::Error,
    },
    /// A file could not be read.
    #[error("failed to read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The files of a CA were read but are no good.
    #[error("failed to load the CA `{}`", path.display())]
    Load {
        /// The file with its certificate.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<AuthorityError>,
    },
    /// There is no certificate in PEM.
    #[error("the CA certificate is not a PEM block `CERTIFICATE`")]
    NotPem(#[source] PemError),
    /// There is one, but it is malformed.
    #[error("failed to parse the CA certificate")]
    Certificate(#[source] CertificateError),
    /// There is no private key in PEM.
    #[error("failed to read the private key of the CA")]
    NoKey(#[source] PemError),
    /// The key is not one that can be used.
    #[error("failed to parse the private key of the CA")]
    Key(#[source] rcgen::Error),
    /// The key is that of another certificate.
    #[error("the private key does not belong to the CA certificate `{subject}`")]
    OtherKey {
        /// Who the certificate is for.
        subject: String,
    },
    /// A certificate of a kind that the signing library cannot sign with.
    #[error("failed to use the CA certificate `{subject}`")]
    Unusable {
        /// Who the certificate is for.
        subject: String,
        /// What the library says.
        #[source]
        source: rcgen::Error,
    },
    /// The certificate of a leaf, or of a CA that may only do something else.
    #[error("the certificate `{subject}` is not allowed to sign certificates")]
    NotAuthority {
        /// Who the certificate is for.
        subject: String,
    },
}

/// One thing in [`InitOptions`](super::InitOptions) that makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mistake {
    /// No folder.
    #[error("the name of the folder is empty")]
    EmptyDirectory,
    /// A name that no certificate can have.
    #[error("{owner} name {fault}")]
    Name {
        /// Whose certificate it was for.
        owner: &'static str,
        /// What is wrong with it.
        fault: NameError,
    },
    /// A time span that no certificate can have.
    #[error("{owner} lifetime `{}`: {fault}", days(*lifetime))]
    Lifetime {
        /// `CA` or `leaf`.
        owner: &'static str,
        /// What was asked for.
        lifetime: Duration,
        /// What is wrong with it.
        fault: ValidityError,
    },
    /// A leaf is worthless without its CA.
    #[error(
        "leaf lifetime `{}`: longer than the CA lifetime `{}`",
        days(*leaf),
        days(*authority)
    )]
    OutlivesAuthority {
        /// Lifetime of the leaves.
        leaf: Duration,
        /// Lifetime of the CAs.
        authority: Duration,
    },
}

pub(super) fn list<T: ToString>(title: &str, items: impl IntoIterator<Item = T>) -> String {
    let lines = items
        .into_iter()
        .map(|item| format!("\n  {}", item.to_string()));
    format!("{title}:{}", lines.collect::<String>())
}

/// humantime knows months, and writes 90 days as `2months 29days 2h 52m 48s`.
pub(super) fn days(span: Duration) -> String {
    const DAY: u64 = 24 * 60 * 60;
    match span.as_secs() {
        seconds if seconds >= DAY && seconds.is_multiple_of(DAY) => format!("{}d", seconds / DAY),
        _ => humantime::format_duration(span).to_string(),
    }
}

impl Diagnose for PkiError {
    fn diagnosis(&self) -> Diagnosis {
        let (step, class) = match self {
            _ if self.is_usage() => (Step::Configuration, Class::Usage),
            _ => (Step::Files, Class::Other),
        };
        Diagnosis {
            step,
            class,
            cause: chain(self),
            hint: self.hint().map(str::to_owned),
        }
    }
}
