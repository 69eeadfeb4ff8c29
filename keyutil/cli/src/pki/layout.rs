//! The parties, their certificates, and the path of each file.
//!
//! Each party has its own folder, which holds only what the party needs. The file names are those
//! of Kubernetes TLS secrets, so that a mounted secret fits without renaming.

use std::path::{Path, PathBuf};

use super::Purpose;

/// The three CAs. They are separate so that neither a client certificate is accepted as a server
/// certificate, nor one kind of server certificate as the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorityKind {
    /// Signs the certificates of workers, starters, people and the Web UI.
    Clients,
    /// Signs the certificate that the server presents to its clients.
    Frontend,
    /// Signs the certificates that cluster members present to each other. The server treats the
    /// holder of such a certificate as a system administrator, so no other party gets one.
    Internode,
}

impl AuthorityKind {
    /// All CAs.
    pub const ALL: [Self; 3] = [Self::Clients, Self::Frontend, Self::Internode];

    /// Returns the name used in file names and in the common name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Clients => "clients",
            Self::Frontend => "frontend",
            Self::Internode => "internode",
        }
    }

    /// Returns the parties whose certificates it signs.
    pub fn holders(self) -> impl Iterator<Item = Party> {
        Party::ALL
            .into_iter()
            .filter(move |party| party.issued_by() == self)
    }

    /// Returns the parties that verify certificates which it signed.
    pub fn verifiers(self) -> impl Iterator<Item = Party> {
        Party::ALL
            .into_iter()
            .filter(move |party| party.trusts() == self)
    }
}

/// The holder of a certificate.
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
    /// The server, to the clients above.
    Frontend,
    /// The server, to other cluster members.
    Internode,
}

impl Party {
    /// All parties.
    pub const ALL: [Self; 6] = [
        Self::Worker,
        Self::Starter,
        Self::Admin,
        Self::Ui,
        Self::Frontend,
        Self::Internode,
    ];

    /// Returns the name used in folder names and in the common name.
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

    /// Returns the DNS names and IP addresses that its certificate always has.
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Self::Worker => &["worker.temporal.local"],
            Self::Starter => &["starter.temporal.local"],
            Self::Admin => &["admin.temporal.local"],
            Self::Ui => &["ui.temporal.local"],
            Self::Frontend => &["localhost", "127.0.0.1", "::1", "frontend.temporal.local"],
            // `internode.client.serverName` of the server: it dials addresses, not names.
            Self::Internode => &["internode.temporal.local"],
        }
    }

    /// Returns the side of a connection that it is on.
    pub fn purpose(self) -> Purpose {
        match self {
            Self::Worker | Self::Starter | Self::Admin | Self::Ui => Purpose::Client,
            Self::Frontend => Purpose::Server,
            // The server also presents its internode certificate as a client; with `serverAuth`
            // alone its peer answers `bad_certificate`.
            Self::Internode => Purpose::ServerAndClient,
        }
    }

    /// Returns the CA that signs its certificate.
    pub fn issued_by(self) -> AuthorityKind {
        match self {
            Self::Worker | Self::Starter | Self::Admin | Self::Ui => AuthorityKind::Clients,
            Self::Frontend => AuthorityKind::Frontend,
            Self::Internode => AuthorityKind::Internode,
        }
    }

    /// Returns the CA that it verifies its peers with.
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
    /// The CAs that it trusts: `ca.crt`, or `client-ca.crt` for the frontend, where they differ
    /// from the CA of its own certificate.
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
    /// Creates the layout of this folder, without accessing it.
    pub fn new(dir: &Path) -> Self {
        let dir = dir.to_owned();
        Self { dir }
    }

    /// Returns the folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the folder of this party.
    pub fn party_folder(&self, party: Party) -> PathBuf {
        self.dir.join(party.name())
    }

    /// Returns the files of this party.
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

    /// Returns the folder of the CAs.
    pub fn authorities(&self) -> PathBuf {
        self.dir.join("ca")
    }

    /// Returns the files of the issuing CA, which only `keyutil pki` reads.
    pub fn authority(&self, kind: AuthorityKind) -> AuthorityFiles {
        self.authority_named(kind.name())
    }

    /// Returns the files of the CA that is trusted and will issue. They exist during a rotation.
    pub fn next_authority(&self, kind: AuthorityKind) -> AuthorityFiles {
        self.authority_named(&format!("{}-next", kind.name()))
    }

    /// Returns the certificate of the CA that is still trusted but no longer issues. It exists
    /// during a rotation; its key is destroyed.
    pub fn previous_authority(&self, kind: AuthorityKind) -> PathBuf {
        let name = format!("{}-previous.crt", kind.name());
        self.authorities().join(name)
    }

    /// Returns the record of when each step of a rotation was done.
    pub fn rotation_record(&self) -> PathBuf {
        self.authorities().join("rotation.json")
    }

    /// Returns the marker of an `init` that is running or was interrupted.
    pub fn unfinished_init(&self) -> PathBuf {
        self.authorities().join("init.unfinished")
    }

    fn authority_named(&self, name: &str) -> AuthorityFiles {
        let folder = self.authorities();
        AuthorityFiles {
            certificate: folder.join(format!("{name}.crt")),
            key: folder.join(format!("{name}.key")),
        }
    }
}
