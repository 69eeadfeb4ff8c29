//! Who holds which certificate, and in which file.
//!
//! Each party has a folder of its own with the file names of Kubernetes TLS secrets, so that a
//! mounted secret fits without renaming, and holds only what that party needs.

use std::path::{Path, PathBuf};

use super::Purpose;

/// The three CAs. They are apart so that a client certificate can never pass for a server, nor a
/// server of one kind for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorityKind {
    /// Signs what workers, starters and people present.
    Clients,
    /// Signs what the server shows to them.
    Frontend,
    /// Signs what the members of the cluster show to each other. Who has such a certificate is a
    /// system administrator, so nobody else gets one.
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
    /// The server, towards all of the above.
    Frontend,
    /// The server, towards itself.
    Internode,
}

impl Party {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Worker,
        Self::Starter,
        Self::Admin,
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
            Self::Frontend => &["localhost", "127.0.0.1", "::1", "frontend.temporal.local"],
            // The server's `internode.client.serverName`: it dials addresses, not names.
            Self::Internode => &["internode.temporal.local"],
        }
    }

    /// Which side of a connection it is on.
    #[must_use]
    pub fn purpose(self) -> Purpose {
        match self {
            Self::Worker | Self::Starter | Self::Admin => Purpose::Client,
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
            Self::Worker | Self::Starter | Self::Admin => AuthorityKind::Clients,
            Self::Frontend => AuthorityKind::Frontend,
            Self::Internode => AuthorityKind::Internode,
        }
    }

    /// The CA that it checks its peers with.
    #[must_use]
    pub fn trusts(self) -> AuthorityKind {
        match self {
            Self::Worker | Self::Starter | Self::Admin => AuthorityKind::Frontend,
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

    /// Where this party finds its files.
    #[must_use]
    pub fn party(&self, party: Party) -> PartyFiles {
        let folder = self.dir.join(party.name());
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

    /// Where `keyutil pki`, and nobody else, finds this CA.
    #[must_use]
    pub fn authority(&self, kind: AuthorityKind) -> AuthorityFiles {
        let folder = self.dir.join("ca");
        AuthorityFiles {
            certificate: folder.join(format!("{}.crt", kind.name())),
            key: folder.join(format!("{}.key", kind.name())),
        }
    }
}
