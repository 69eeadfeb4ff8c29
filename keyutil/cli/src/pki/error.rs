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
#[allow(missing_docs, reason = "the messages say what they are")]
pub enum PkiError {
    /// What was asked for makes no sense. Nothing was touched.
    #[error("{}", list("refused what was asked for", mistakes))]
    Input { mistakes: Vec<Mistake> },
    /// There are files already, and they were not to be replaced. Nothing was touched.
    #[error(
        "{}",
        list(
            &format!("refused to overwrite {} of the {expected} files", found.len()),
            found.iter().map(|path| format!("`{}`", path.display()))
        )
    )]
    InTheWay {
        found: Vec<PathBuf>,
        /// How many files a finished run leaves behind.
        expected: usize,
    },
    /// What is there could not be looked at. Nothing was touched.
    #[error("failed to look for `{}`", path.display())]
    Inspect { path: PathBuf, source: io::Error },
    /// The lock that another process holds could not be waited for. Nothing was touched.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A key or certificate could not be made. Nothing was touched.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// An old file could not be removed: the one that marks a finished run, or what is left of a
    /// rotation. Nothing else was touched.
    #[error("failed to remove `{}`", path.display())]
    Remove { path: PathBuf, source: io::Error },
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
#[allow(missing_docs, reason = "the messages say what they are")]
pub enum AuthorityError {
    #[error("failed to draw a random serial number")]
    Random,
    #[error("failed to make a key and certificate for `{common_name}`")]
    Sign {
        common_name: String,
        source: rcgen::Error,
    },
    #[error("failed to read `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("failed to load the CA `{}`", path.display())]
    Load {
        path: PathBuf,
        source: Box<AuthorityError>,
    },
    #[error("the CA certificate is not a PEM block `CERTIFICATE`")]
    NotPem(#[source] PemError),
    #[error("failed to parse the CA certificate")]
    Certificate(#[source] CertificateError),
    #[error("failed to read the private key of the CA")]
    NoKey(#[source] PemError),
    #[error("failed to parse the private key of the CA")]
    Key(#[source] rcgen::Error),
    #[error("the private key does not belong to the CA certificate `{subject}`")]
    OtherKey { subject: String },
    /// A certificate of a kind that the signing library cannot sign with.
    #[error("failed to use the CA certificate `{subject}`")]
    Unusable {
        subject: String,
        source: rcgen::Error,
    },
    /// The certificate of a leaf, or of a CA that may only do something else.
    #[error("the certificate `{subject}` is not allowed to sign certificates")]
    NotAuthority { subject: String },
}

/// One thing in [`InitOptions`](super::InitOptions) that makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what they are")]
pub enum Mistake {
    #[error("the name of the folder is empty")]
    EmptyDirectory,
    #[error("{owner} name {fault}")]
    Name {
        owner: &'static str,
        fault: NameError,
    },
    #[error("{owner} lifetime `{}`: {fault}", days(*lifetime))]
    Lifetime {
        /// `CA` or `leaf`.
        owner: &'static str,
        lifetime: Duration,
        fault: ValidityError,
    },
    /// A leaf is worthless without its CA.
    #[error(
        "leaf lifetime `{}`: longer than the CA lifetime `{}`",
        days(*leaf),
        days(*authority)
    )]
    OutlivesAuthority { leaf: Duration, authority: Duration },
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
