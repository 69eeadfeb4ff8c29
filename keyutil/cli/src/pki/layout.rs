//! Who holds which certificate, and in which file.
//!
//! Each party has a folder of its own with the file names of Kubernetes TLS secrets, so that a
//! mounted secret fits without renaming, and holds only what that party needs.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::Purpose;
use crate::files;

/// The three CAs. They are apart so that a client certificate can never pass for a server, nor a
/// server of one kind for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorityKind {
    /// Signs what workers, starters, people and the Web UI present.
    Clients,
    /// Signs what the server shows to them.
    Frontend,
    /// Signs what the members of the cluster show to each other. Who has such a certificate is a
    /// system administrator, so no other party gets one.
    Internode,
}

impl AuthorityKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Clients, Self::Frontend, Self::Internode];

    /// As in file names and in the common name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Clients => "clients",
            Self::Frontend => "frontend",
            Self::Internode => "internode",
        }
    }

    /// Whose certificates it signs.
    pub fn holders(self) -> impl Iterator<Item = Party> {
        Party::ALL
            .into_iter()
            .filter(move |party| party.issued_by() == self)
    }

    /// Who checks certificates that it signed.
    pub fn verifiers(self) -> impl Iterator<Item = Party> {
        Party::ALL
            .into_iter()
            .filter(move |party| party.trusts() == self)
    }
}

/// Who gets a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    /// Runs workflows and activities.
    Worker,
    /// Starts workflows.
    Starter,
    /// A person with the Temporal CLI, and health checks.
    Admin,
    /// The Web UI.
    Ui,
    /// The server, towards all of the above.
    Frontend,
    /// The server, towards itself.
    Internode,
}

impl Party {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Worker,
        Self::Starter,
        Self::Admin,
        Self::Ui,
        Self::Frontend,
        Self::Internode,
    ];

    /// As in folder names and in the common name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Starter => "starter",
            Self::Admin => "admin",
            Self::Ui => "ui",
            Self::Frontend => "frontend",
            Self::Internode => "internode",
        }
    }

    /// DNS names and IP addresses that its certificate always has.
    #[must_use]
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Self::Worker => &["worker.temporal.local"],
            Self::Starter => &["starter.temporal.local"],
            Self::Admin => &["admin.temporal.local"],
            Self::Ui => &["ui.temporal.local"],
            Self::Frontend => &["localhost", "127.0.0.1", "::1", "frontend.temporal.local"],
            // The server's `internode.client.serverName`: it dials addresses, not names.
            Self::Internode => &["internode.temporal.local"],
        }
    }

    /// Which side of a connection it is on.
    #[must_use]
    pub fn purpose(self) -> Purpose {
        match self {
            Self::Worker | Self::Starter | Self::Admin | Self::Ui => Purpose::Client,
            Self::Frontend => Purpose::Server,
            // The server shows its internode certificate as a client, too; with `serverAuth` alone
            // its peer answers `bad_certificate`.
            Self::Internode => Purpose::ServerAndClient,
        }
    }

    /// The CA that signs its certificate.
    #[must_use]
    pub fn issued_by(self) -> AuthorityKind {
        match self {
            Self::Worker | Self::Starter | Self::Admin | Self::Ui => AuthorityKind::Clients,
            Self::Frontend => AuthorityKind::Frontend,
            Self::Internode => AuthorityKind::Internode,
        }
    }

    /// The CA that it checks its peers with.
    #[must_use]
    pub fn trusts(self) -> AuthorityKind {
        match self {
            Self::Worker | Self::Starter | Self::Admin | Self::Ui => AuthorityKind::Frontend,
            Self::Frontend => AuthorityKind::Clients,
            Self::Internode => AuthorityKind::Internode,
        }
    }
}

/// The folder that `keyutil pki` writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    dir: PathBuf,
}

/// The files of one party.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartyFiles {
    /// `tls.crt`: its certificate.
    pub certificate: PathBuf,
    /// `tls.key`: its private key.
    pub key: PathBuf,
    /// `ca.crt`, or `client-ca.crt` for the frontend, as it is not the CA of its own certificate:
    /// what it checks its peers with.
    pub trust: PathBuf,
}

/// The files of one CA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityFiles {
    /// `ca/<name>.crt`
    pub certificate: PathBuf,
    /// `ca/<name>.key`
    pub key: PathBuf,
}

impl Layout {
    /// The files below this folder. Nothing is looked at.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        let dir = dir.to_owned();
        Self { dir }
    }

    /// The folder itself.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The folder of this party.
    #[must_use]
    pub fn party_folder(&self, party: Party) -> PathBuf {
        self.dir.join(party.name())
    }

    /// Where this party finds its files.
    #[must_use]
    pub fn party(&self, party: Party) -> PartyFiles {
        let folder = self.party_folder(party);
        let trust = match party {
            Party::Frontend => "client-ca.crt",
            _ => "ca.crt",
        };
        PartyFiles {
            certificate: folder.join("tls.crt"),
            key: folder.join("tls.key"),
            trust: folder.join(trust),
        }
    }

    /// The folder of the CAs.
    #[must_use]
    pub fn authorities(&self) -> PathBuf {
        self.dir.join("ca")
    }

    /// The files of the CA that issues, for `keyutil pki` alone.
    #[must_use]
    pub fn authority(&self, kind: AuthorityKind) -> AuthorityFiles {
        self.authority_named(kind.name())
    }

    /// While it is being rotated: the one that is trusted already, and will issue.
    #[must_use]
    pub fn next_authority(&self, kind: AuthorityKind) -> AuthorityFiles {
        self.authority_named(&format!("{}-next", kind.name()))
    }

    /// While it is being rotated: the certificate of the one that issues no more, and is trusted
    /// still. Its key is gone.
    #[must_use]
    pub fn previous_authority(&self, kind: AuthorityKind) -> PathBuf {
        let name = format!("{}-previous.crt", kind.name());
        self.authorities().join(name)
    }

    /// When each step of a rotation was done.
    #[must_use]
    pub fn rotation_record(&self) -> PathBuf {
        self.authorities().join("rotation.json")
    }

    /// There while the whole set is being made, and after a run that was interrupted.
    #[must_use]
    pub fn unfinished_init(&self) -> PathBuf {
        self.authorities().join("init.unfinished")
    }

    /// Removes what an interrupted run has left half written in the folders of the parties, such as
    /// private keys. The caller holds the lock.
    ///
    /// # Errors
    /// The folder, and why.
    pub(super) fn sweep_parties(&self) -> Result<(), (PathBuf, io::Error)> {
        for party in Party::ALL {
            let path = self.party_folder(party);
            if path.is_dir() {
                files::sweep(&path, Duration::ZERO).map_err(|source| (path, source))?;
            }
        }
        Ok(())
    }

    fn authority_named(&self, name: &str) -> AuthorityFiles {
        let folder = self.authorities();
        AuthorityFiles {
            certificate: folder.join(format!("{name}.crt")),
            key: folder.join(format!("{name}.key")),
        }
    }
}
