//! `keyutil pki list`: all certificates, and problems with them.
//!
//! Nothing is changed, except that an interrupted replacement of a pair is completed. Files are
//! read without a lock: a listing during a rotation may show a step that is half done.

use std::{fs, time::SystemTime};

use humantime::format_rfc3339_seconds;

use super::{
    AuthorityKind, AuthorityOptions, FileError, Layout, NextStep, Party, RotateError,
    bundle::Bundle,
    rotate::{self, RotationState},
};
use keyutil::{base::chain, credentials::Identity, x509::certificate::CertificateSummary};

/// The content of a certificate folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The certificates of all CAs.
    pub authorities: Vec<ListedAuthority>,
    /// The certificates of all parties.
    pub leaves: Vec<ListedLeaf>,
    /// The problems, one line each.
    pub problems: Vec<String>,
}

/// The certificate of one CA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedAuthority {
    /// The kind of CA.
    pub kind: AuthorityKind,
    /// The role of the CA in its rotation.
    pub role: AuthorityRole,
    /// `None` if it cannot be read.
    pub certificate: Option<CertificateSummary>,
    /// The next step of the rotation. Only given for the issuing CA, and only if its files are
    /// readable.
    pub next: Option<NextStep>,
}

/// The role of a CA in its rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorityRole {
    /// Issues certificates.
    Issues,
    /// Is trusted, and will issue.
    Next,
    /// Is trusted, but no longer issues.
    Previous,
}

/// The certificate of one party.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedLeaf {
    /// The holder.
    pub party: Party,
    /// Whether the party has a folder here.
    pub here: bool,
    /// `None` if it cannot be read.
    pub certificate: Option<CertificateSummary>,
    /// The serial numbers of the CAs that the party trusts.
    pub trusts: Vec<String>,
}

/// Reads all certificates. Missing and broken files are reported as problems.
///
/// # Errors
/// [`RotateError::NoAuthorities`], when the folder does not exist.
pub fn list(
    layout: &Layout,
    options: &AuthorityOptions,
    now: SystemTime,
) -> Result<Listing, RotateError> {
    if !layout.dir().is_dir() {
        let path = layout.dir().to_owned();
        return Err(RotateError::NoAuthorities { path });
    }
    // If this fails, the list shows the pair as a problem.
    let _ = rotate::mend(layout);
    let mut listing = Listing::default();
    for kind in AuthorityKind::ALL {
        listing.look_at_authority(layout, kind, options, now);
    }
    for party in Party::ALL {
        listing.look_at_party(layout, party, now);
    }
    Ok(listing)
}

impl Listing {
    fn look_at_authority(
        &mut self,
        layout: &Layout,
        kind: AuthorityKind,
        options: &AuthorityOptions,
        now: SystemTime,
    ) {
        let owner = format!("{} CA", kind.name());
        let next = match RotationState::read(layout, kind) {
            Ok(state) => Some(state.next_step(options, now)),
            Err(error) => {
                self.problems.push(format!("{owner}: {}", chain(&error)));
                None
            }
        };
        for (role, path) in [
            (AuthorityRole::Issues, layout.authority(kind).certificate),
            (AuthorityRole::Next, layout.next_authority(kind).certificate),
            (AuthorityRole::Previous, layout.previous_authority(kind)),
        ] {
            // An unreadable file has been reported above.
            let read = Bundle::read(&path);
            if role != AuthorityRole::Issues && read.as_ref().is_err_and(FileError::is_missing) {
                continue;
            }
            let interrupted =
                role == AuthorityRole::Next && next.is_some_and(|next| !next.is_under_way());
            if interrupted {
                let problem = "the step `trust` was interrupted: run it again";
                self.problems.push(format!("{owner}: {problem}"));
            }
            let certificate = read.ok().map(|bundle| bundle.first().summary().clone());
            self.check_time(&owner, certificate.as_ref(), now);
            if role == AuthorityRole::Issues {
                self.check_renewal(&owner, certificate.as_ref(), now);
            }
            self.authorities.push(ListedAuthority {
                kind,
                role,
                certificate,
                next: next.filter(|_| role == AuthorityRole::Issues),
            });
        }
    }

    fn look_at_party(&mut self, layout: &Layout, party: Party, now: SystemTime) {
        let mut leaf = ListedLeaf {
            party,
            here: layout.party_folder(party).is_dir(),
            certificate: None,
            trusts: Vec::new(),
        };
        if leaf.here {
            let files = layout.party(party);
            if let Some(found) = self.read(party, Bundle::read(&files.certificate)) {
                leaf.certificate = Some(found.first().summary().clone());
                self.check_renewal(party.name(), leaf.certificate.as_ref(), now);
                self.check_pair(layout, party, now);
                self.check_verifiers(layout, party, &found);
            }
            if let Some(found) = self.read(party, Bundle::read(&files.trust)) {
                for authority in found.certificates() {
                    let authority = authority.summary();
                    leaf.trusts.push(authority.serial.clone());
                    let owner = format!("{}, trusted CA", party.name());
                    self.check_time(&owner, Some(authority), now);
                }
            }
        }
        self.leaves.push(leaf);
    }

    fn read(&mut self, party: Party, read: Result<Bundle, FileError>) -> Option<Bundle> {
        let report = |error: FileError| {
            let problem = format!("{}: {}", party.name(), chain(&error));
            self.problems.push(problem);
        };
        read.map_err(report).ok()
    }

    fn check_pair(&mut self, layout: &Layout, party: Party, now: SystemTime) {
        let files = layout.party(party);
        let problem = match (fs::read(&files.certificate), fs::read(&files.key)) {
            (Ok(certificate), Ok(key)) => match Identity::parse(&certificate, &key, now) {
                Ok(_) => return,
                Err(error) => chain(&error),
            },
            (Err(error), _) => format!("failed to read its certificate: {error}"),
            (_, Err(error)) => format!("failed to read `{}`: {error}", files.key.display()),
        };
        self.problems.push(format!("{}: {problem}", party.name()));
    }

    /// Checks that the parties which verify this certificate trust its issuer.
    fn check_verifiers(&mut self, layout: &Layout, party: Party, leaf: &Bundle) {
        for verifier in party.issued_by().verifiers() {
            let Ok(trusted) = Bundle::read(&layout.party(verifier).trust) else {
                // Reported at the verifier, if it has a folder.
                continue;
            };
            if !leaf.leads_to(&trusted) {
                self.problems.push(format!(
                    "{}: its certificate is issued by `{}`, which {} does not trust",
                    party.name(),
                    leaf.first().summary().issuer,
                    verifier.name()
                ));
            }
        }
    }

    /// Checks that the certificate was renewed in time.
    fn check_renewal(
        &mut self,
        owner: &str,
        certificate: Option<&CertificateSummary>,
        now: SystemTime,
    ) {
        let near = certificate.filter(|found| found.is_near_expiry(now) && found.not_after >= now);
        self.problems.extend(near.map(|certificate| {
            format!(
                "{owner}: less than a tenth of the life of its certificate is left, which expires at {}",
                time(certificate.not_after)
            )
        }));
    }

    fn check_time(
        &mut self,
        owner: &str,
        certificate: Option<&CertificateSummary>,
        now: SystemTime,
    ) {
        let Some(certificate) = certificate else {
            return;
        };
        let at = match certificate {
            late if late.not_after < now => format!("expired at {}", time(late.not_after)),
            early if early.not_before > now => {
                format!("is not valid before {}", time(early.not_before))
            }
            _ => return,
        };
        let serial = &certificate.serial;
        self.problems.push(format!(
            "{owner}: the certificate with serial {serial} {at}"
        ));
    }
}

fn time(time: SystemTime) -> String {
    format_rfc3339_seconds(time).to_string()
}
