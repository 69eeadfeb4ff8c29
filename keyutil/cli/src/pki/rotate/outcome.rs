//! What a rotation tells of itself, to its caller and to the log.

use std::{path::PathBuf, time::SystemTime};

use humantime::format_rfc3339_seconds;
use tracing::info;

use super::Step;
use crate::pki::{AuthorityKind, Party};
use keyutil::x509::certificate::CertificateSummary;

/// A party has a new certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafRotated {
    /// Who.
    pub party: Party,
    /// What stood there before, if that could be read.
    pub old: Option<CertificateSummary>,
    /// What stands there now.
    pub new: CertificateSummary,
    /// Its life was cut at the end of its CA's.
    pub capped: bool,
}

/// A step of the rotation of a CA is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityRotated {
    /// Which CA.
    pub kind: AuthorityKind,
    /// Which step.
    pub step: Step,
    /// It was done before, and nothing was changed.
    pub already: bool,
    /// The CA that is going. Not known any more once it is gone.
    pub old: Option<CertificateSummary>,
    /// The CA that is coming.
    pub new: CertificateSummary,
    /// Whose certificates were made anew.
    pub leaves: Vec<LeafRotated>,
    /// The files of trusted CAs that were written.
    pub trust: Vec<PathBuf>,
    /// Parties without a folder, which were left out.
    pub absent: Vec<Party>,
    /// What comes next; nothing after [`Step::Retire`].
    pub next: Option<NextStep>,
}

/// How the rotation of a CA goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextStep {
    /// [`Step::Trust`] where no rotation is under way, or its first step was interrupted.
    pub step: Step,
    /// When the step before was done, where there is one and that is known.
    pub since: Option<SystemTime>,
    /// Not before.
    pub due: SystemTime,
}

impl NextStep {
    /// Whether a step was done, and others are still to be.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        self.step != Step::Trust
    }
}

impl LeafRotated {
    pub(super) fn log(&self) {
        info!(
            party = self.party.name(),
            old_serial = serial(self.old.as_ref()),
            new_serial = self.new.serial,
            issuer = self.new.issuer,
            expires_at = %format_rfc3339_seconds(self.new.not_after),
            "rotated a certificate"
        );
    }
}

impl AuthorityRotated {
    pub(super) fn log(&self) {
        if self.already {
            return;
        }
        for leaf in &self.leaves {
            leaf.log();
        }
        info!(
            authority = self.kind.name(),
            step = %self.step,
            old_serial = serial(self.old.as_ref()),
            new_serial = self.new.serial,
            issuer = self.new.issuer,
            expires_at = %format_rfc3339_seconds(self.new.not_after),
            "did a step of the rotation of a CA"
        );
    }
}

fn serial(certificate: Option<&CertificateSummary>) -> &str {
    certificate.map_or("none", |certificate| &certificate.serial)
}
