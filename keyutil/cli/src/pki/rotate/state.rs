//! What is on disk of one CA: how far its rotation is, who has its certificates, and who checks
//! them.

use std::{
    fs,
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use super::{RotateError, Step, record::Record};
use crate::pki::{
    Authority, AuthorityKind, FileError, Layout, Party, PartyFiles,
    bundle::{Bundle, Certificate},
};
use keyutil::credentials::{Identity, IdentityError};

/// Everything that a step depends on, beside the time and what was asked for.
pub(super) struct State {
    pub(super) kind: AuthorityKind,
    pub(super) layout: Layout,
    pub(super) stage: Stage,
    pub(super) holders: Vec<Holder>,
    pub(super) verifiers: Vec<Verifier>,
    /// Holders and verifiers without a folder: they live on other machines.
    pub(super) absent: Vec<Party>,
    pub(super) record: Record,
}

/// How far the rotation is.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one at a time, and it is not moved about"
)]
pub(super) enum Stage {
    /// There is none.
    Idle(Current),
    /// There is a new CA. It has issued some leaves, if the step `reissue` was interrupted early.
    Begun { old: Current, new: Current },
    /// The step `reissue` was interrupted late. The files of the CA that issues may be a
    /// certificate of the one and a key of the other.
    Promoting { old: Certificate, new: Current },
    /// The new CA issues; the old one is still trusted.
    Reissued { old: Certificate, new: Current },
}

/// A CA that can issue.
pub(super) struct Current {
    pub(super) authority: Authority,
    pub(super) certificate: Certificate,
}

/// A party that has its certificate from this CA.
pub(super) struct Holder {
    pub(super) party: Party,
    pub(super) files: PartyFiles,
    /// `None` for a file that is missing or broken: what it says is lost then.
    pub(super) chain: Option<Bundle>,
    pub(super) presence: Presence,
    /// Whether the key belongs to the certificate.
    pub(super) paired: bool,
}

/// A file of certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    Missing,
    Broken,
    Whole,
}

/// A party that checks its peers with this CA.
pub(super) struct Verifier {
    pub(super) party: Party,
    pub(super) path: PathBuf,
    /// `None` for a file that is missing or broken.
    pub(super) bundle: Option<Bundle>,
}

impl State {
    pub(super) fn read(layout: &Layout, kind: AuthorityKind) -> Result<Self, RotateError> {
        let (here, absent): (Vec<_>, Vec<_>) = Party::ALL
            .into_iter()
            .filter(|party| party.issued_by() == kind || party.trusts() == kind)
            .partition(|party| layout.party_folder(*party).is_dir());
        let holders = here.iter().filter(|party| party.issued_by() == kind);
        let verifiers = here.iter().filter(|party| party.trusts() == kind);
        Ok(Self {
            kind,
            layout: layout.clone(),
            stage: Stage::read(layout, kind)?,
            holders: holders
                .map(|party| Holder::read(layout, *party))
                .collect::<Result<_, _>>()?,
            verifiers: verifiers
                .map(|party| Verifier::read(layout, *party))
                .collect::<Result<_, _>>()?,
            absent,
            record: Record::read(&layout.rotation_record()),
        })
    }

    /// The step that was finished last, and the serial number of the new CA. `None` where there
    /// is no rotation, or its first step was interrupted.
    pub(super) fn done(&self) -> Option<(Step, &str)> {
        match &self.stage {
            Stage::Idle(_) => None,
            Stage::Begun { new, .. } => {
                let trusted = self.verifiers.iter().all(|verifier| verifier.trusts(new));
                trusted.then(|| (Step::Trust, new.serial()))
            }
            Stage::Promoting { new, .. } => Some((Step::Trust, new.serial())),
            Stage::Reissued { new, .. } => Some((Step::Reissue, new.serial())),
        }
    }

    /// When it was finished, as far as that is known at `now`.
    pub(super) fn since(&self, now: SystemTime) -> Option<SystemTime> {
        let (step, serial) = self.done()?;
        self.record.since(self.kind, step, serial, now)
    }

    /// The step that comes next.
    pub(super) fn next(&self) -> Step {
        match self.done() {
            None => Step::Trust,
            Some((Step::Trust, _)) => Step::Reissue,
            Some(_) => Step::Retire,
        }
    }
}

impl Stage {
    pub(super) fn read(layout: &Layout, kind: AuthorityKind) -> Result<Self, RotateError> {
        let next = layout.next_authority(kind);
        // A key alone is what an interruption leaves behind; a certificate alone is not.
        let new = match next.certificate.exists() {
            true => {
                Some(Authority::read(&next).map_err(|source| RotateError::Next { kind, source })?)
            }
            false => None,
        };
        let old = match Bundle::read(&layout.previous_authority(kind)) {
            Ok(bundle) => Some(bundle.first().clone()),
            Err(error) if error.is_missing() => None,
            Err(error) => return Err(error.into()),
        };
        let in_place = || -> Result<Current, RotateError> {
            let authority = Authority::read(&layout.authority(kind))?;
            Ok(Current::of(layout, kind, authority)?)
        };
        Ok(match (new, old) {
            (None, None) => Self::Idle(in_place()?),
            (Some(new), None) => Self::Begun {
                old: in_place()?,
                new: Current::of(layout, kind, new)?,
            },
            (Some(new), Some(old)) => Self::Promoting {
                old,
                new: Current::of(layout, kind, new)?,
            },
            (None, Some(old)) => Self::Reissued {
                old,
                new: in_place()?,
            },
        })
    }

    /// The CA that signs a leaf now.
    pub(super) fn issuer(&self) -> &Current {
        match self {
            Self::Idle(current) => current,
            Self::Begun { old, .. } => old,
            Self::Promoting { new, .. } | Self::Reissued { new, .. } => new,
        }
    }
}

impl Current {
    pub(super) fn of(
        layout: &Layout,
        kind: AuthorityKind,
        authority: Authority,
    ) -> Result<Self, FileError> {
        let bundle = Bundle::parse(authority.certificate_pem().as_bytes());
        let bundle = bundle.map_err(|source| FileError::Parse {
            path: layout.authority(kind).certificate,
            source,
        })?;
        Ok(Self {
            authority,
            certificate: bundle.first().clone(),
        })
    }

    pub(super) fn serial(&self) -> &str {
        &self.authority.summary().serial
    }
}

impl Holder {
    pub(super) fn read(layout: &Layout, party: Party) -> Result<Self, FileError> {
        let files = layout.party(party);
        let (presence, chain) = look(Bundle::read(&files.certificate))?;
        let paired = match (fs::read(&files.certificate), fs::read(&files.key)) {
            (Ok(certificate), Ok(key)) => belong_together(&certificate, &key),
            _ => false,
        };
        Ok(Self {
            party,
            files,
            chain,
            presence,
            paired,
        })
    }

    /// Whether its certificate is one of this CA, whatever the key.
    pub(super) fn is_issued_by(&self, authority: &Current) -> bool {
        let leaf = self.chain.as_ref().map(Bundle::first);
        leaf.is_some_and(|leaf| leaf.is_issued_by(&authority.certificate))
    }
}

impl Verifier {
    fn read(layout: &Layout, party: Party) -> Result<Self, FileError> {
        let path = layout.party(party).trust;
        let (_, bundle) = look(Bundle::read(&path))?;
        Ok(Self {
            party,
            path,
            bundle,
        })
    }

    pub(super) fn trusts(&self, authority: &Current) -> bool {
        let bundle = self.bundle.as_ref();
        bundle.is_some_and(|bundle| bundle.contains(&authority.certificate))
    }
}

/// A party's file that is missing or broken is made anew. One that cannot be read at all may be
/// as good as any.
fn look(read: Result<Bundle, FileError>) -> Result<(Presence, Option<Bundle>), FileError> {
    match read {
        Ok(bundle) => Ok((Presence::Whole, Some(bundle))),
        Err(error) if error.is_missing() => Ok((Presence::Missing, None)),
        Err(FileError::Parse { .. }) => Ok((Presence::Broken, None)),
        Err(error) => Err(error),
    }
}

fn belong_together(certificate: &[u8], key: &[u8]) -> bool {
    match Identity::parse(certificate, key, UNIX_EPOCH) {
        // What is not valid in 1970 has passed all other checks.
        Ok(_) | Err(IdentityError::NotYetValid { .. } | IdentityError::Expired { .. }) => true,
        Err(_) => false,
    }
}
