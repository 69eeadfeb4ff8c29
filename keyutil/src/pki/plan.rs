//! From what was asked for to what is to be written, without touching the disk.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use secrecy::SecretString;

use super::{
    AlternativeName, Authority, AuthorityError, AuthorityKind, AuthorityRequest, InitOptions,
    Layout, LeafRequest, Mistake, Party, PkiError, Validity, Written,
};
use crate::files::Mode;

/// [`InitOptions`] without mistakes.
pub(super) struct Plan {
    layout: Layout,
    authority_validity: Validity,
    leaf_validity: Validity,
    parties: Vec<(Party, Vec<AlternativeName>)>,
}

/// A file that exists only in memory.
pub(super) struct NewFile {
    pub(super) written: Written,
    pub(super) content: SecretString,
    pub(super) mode: Mode,
}

impl Plan {
    pub(super) fn check(options: &InitOptions, now: SystemTime) -> Result<Self, PkiError> {
        let mut mistakes = Vec::new();
        if options.dir.as_os_str().is_empty() {
            mistakes.push(Mistake::EmptyDirectory);
        }
        let (leaf, authority) = (options.leaf_lifetime, options.authority_lifetime);
        let authority_validity = check_lifetime("CA", authority, now, &mut mistakes);
        let leaf_validity = check_lifetime("leaf", leaf, now, &mut mistakes);
        if authority_validity.is_some() && leaf_validity.is_some() && leaf > authority {
            mistakes.push(Mistake::OutlivesAuthority { leaf, authority });
        }
        let parties = Party::ALL.map(|party| {
            let more: &[String] = match party {
                Party::Worker | Party::Starter | Party::Admin | Party::Ui => &[],
                Party::Frontend => &options.frontend_names,
                Party::Internode => &options.internode_names,
            };
            (party, check_names(party, more, &mut mistakes))
        });
        match (authority_validity, leaf_validity) {
            (Some(authority_validity), Some(leaf_validity)) if mistakes.is_empty() => Ok(Self {
                layout: Layout::new(&options.dir),
                authority_validity,
                leaf_validity,
                parties: parties.into(),
            }),
            _ => Err(PkiError::Input { mistakes }),
        }
    }

    /// All files, in the order in which they are to be written: the CAs last.
    pub(super) fn make(&self) -> Result<Vec<NewFile>, AuthorityError> {
        let authorities = Authorities {
            clients: self.authority(AuthorityKind::Clients)?,
            frontend: self.authority(AuthorityKind::Frontend)?,
            internode: self.authority(AuthorityKind::Internode)?,
        };
        let mut files = Vec::new();
        for (party, names) in &self.parties {
            files.extend(self.party(*party, names, &authorities)?);
        }
        for kind in AuthorityKind::ALL {
            let (name, authority) = (kind.name(), authorities.of(kind));
            let paths = self.layout.authority(kind);
            files.push(NewFile::authority(
                paths.certificate,
                format!("{name} CA"),
                authority,
            ));
            files.push(NewFile::key(
                paths.key,
                format!("private key of the {name} CA"),
                authority.key_pem(),
            ));
        }
        Ok(files)
    }

    fn authority(&self, kind: AuthorityKind) -> Result<Authority, AuthorityError> {
        Authority::generate(&AuthorityRequest {
            name: kind.name(),
            validity: self.authority_validity,
        })
    }

    fn party(
        &self,
        party: Party,
        names: &[AlternativeName],
        authorities: &Authorities,
    ) -> Result<[NewFile; 3], AuthorityError> {
        let name = party.name();
        let leaf = authorities.of(party.issued_by()).issue(&LeafRequest {
            common_name: name,
            names,
            purpose: party.purpose(),
            validity: self.leaf_validity,
        })?;
        let paths = self.layout.party(party);
        let trusted = party.trusts();
        Ok([
            NewFile::authority(
                paths.trust,
                format!("{} CA, which {name} trusts", trusted.name()),
                authorities.of(trusted),
            ),
            NewFile::key(paths.key, format!("private key of {name}"), leaf.key_pem),
            NewFile {
                written: Written {
                    path: paths.certificate,
                    description: format!("certificate of {name}"),
                    expires_at: Some(self.leaf_validity.not_after()),
                },
                content: leaf.certificate_pem.into(),
                mode: Mode::Public,
            },
        ])
    }
}

impl NewFile {
    fn authority(path: PathBuf, description: String, authority: &Authority) -> Self {
        Self {
            written: Written {
                path,
                description,
                expires_at: Some(authority.summary().not_after),
            },
            content: authority.certificate_pem().into(),
            mode: Mode::Public,
        }
    }

    fn key(path: PathBuf, description: String, content: SecretString) -> Self {
        Self {
            written: Written {
                path,
                description,
                expires_at: None,
            },
            content,
            mode: Mode::Private,
        }
    }
}

struct Authorities {
    clients: Authority,
    frontend: Authority,
    internode: Authority,
}

impl Authorities {
    fn of(&self, kind: AuthorityKind) -> &Authority {
        match kind {
            AuthorityKind::Clients => &self.clients,
            AuthorityKind::Frontend => &self.frontend,
            AuthorityKind::Internode => &self.internode,
        }
    }
}

fn check_lifetime(
    owner: &'static str,
    lifetime: Duration,
    now: SystemTime,
    mistakes: &mut Vec<Mistake>,
) -> Option<Validity> {
    let validity = Validity::from_time(now, lifetime);
    validity
        .map_err(|fault| {
            mistakes.push(Mistake::Lifetime {
                owner,
                lifetime,
                fault,
            });
        })
        .ok()
}

/// The names that the party always has, and more, each once.
fn check_names(party: Party, more: &[String], mistakes: &mut Vec<Mistake>) -> Vec<AlternativeName> {
    let mut names = Vec::new();
    let always = party.names().iter().copied();
    for text in always.chain(more.iter().map(String::as_str)) {
        match text.parse() {
            Ok(name) if names.contains(&name) => {}
            Ok(name) => names.push(name),
            Err(fault) => mistakes.push(Mistake::Name {
                owner: party.name(),
                fault,
            }),
        }
    }
    names
}
