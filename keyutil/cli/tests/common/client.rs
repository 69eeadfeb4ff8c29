//! A client whose credentials are files of the test's own, and the CAs that issue them.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use keyutil::{
    ConnectArgs,
    connect::{self, PendingConnection},
    credentials::{Identity, Refresh},
    probe::{Connector, Security, TrustSource},
    settings::Settings,
};
use keyutil_cli::pki::{Authority, AuthorityRequest, Leaf, LeafRequest, Purpose, Validity};
use secrecy::ExposeSecret;
use tempfile::TempDir;

pub const HOUR: Duration = Duration::from_secs(3600);

/// Both CAs, and `tls.crt`, `tls.key` and `ca.crt` of one client.
pub struct World {
    folder: TempDir,
    pub clients: Authority,
    pub frontend: Authority,
}

impl World {
    pub fn new() -> Self {
        let world = Self {
            folder: tempfile::tempdir().unwrap(),
            clients: authority("clients"),
            frontend: authority("frontend"),
        };
        world.present(&issue(&world.clients, Purpose::Client, now()));
        world.trust(&[&world.frontend]);
        world
    }

    /// The server's certificate, as it should be.
    pub fn server(&self) -> Leaf {
        issue(&self.frontend, Purpose::Server, now())
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// Replaces the client's certificate and key on disk.
    pub fn present(&self, leaf: &Leaf) {
        fs::write(self.path("tls.key"), leaf.key_pem.expose_secret()).unwrap();
        fs::write(self.path("tls.crt"), &leaf.certificate_pem).unwrap();
    }

    /// Replaces the bundle that the client trusts on disk.
    pub fn trust(&self, authorities: &[&Authority]) {
        let bundle: String = authorities
            .iter()
            .map(|one| one.certificate_pem())
            .collect();
        fs::write(self.path("ca.crt"), bundle).unwrap();
    }

    pub fn args(&self, port: u16) -> ConnectArgs {
        ConnectArgs {
            address: format!("127.0.0.1:{port}"),
            tls_cert_path: Some(self.path("tls.crt")),
            tls_key_path: Some(self.path("tls.key")),
            tls_ca_path: Some(self.path("ca.crt")),
            connect_timeout: Duration::from_secs(1),
            ..ConnectArgs::default()
        }
    }

    pub fn open(&self, port: u16) -> PendingConnection {
        open(&self.args(port))
    }
}

pub fn open(args: &ConnectArgs) -> PendingConnection {
    connect::open(Settings::new(args, "test").unwrap()).unwrap()
}

/// The same, with a changed connector.
pub fn open_with(
    args: &ConnectArgs,
    change: impl FnOnce(Connector) -> Connector,
) -> PendingConnection {
    let mut settings = Settings::new(args, "test").unwrap();
    settings.connector = change(settings.connector);
    connect::open(settings).unwrap()
}

/// Looks at the files now, as the watch does once a second.
pub fn look(opened: &PendingConnection) {
    let Security::Tls {
        identity,
        trust,
        revoked,
        ..
    } = opened.session().channel().connector().security()
    else {
        panic!("no TLS");
    };
    if let Some(identity) = identity {
        identity.refresh();
    }
    if let TrustSource::File(trust) = trust {
        trust.refresh();
    }
    if let Some(revoked) = revoked {
        revoked.refresh();
    }
}

pub fn authority(name: &str) -> Authority {
    let request = AuthorityRequest {
        name,
        validity: now(),
    };
    Authority::generate(&request).unwrap()
}

pub fn issue(authority: &Authority, purpose: Purpose, validity: Validity) -> Leaf {
    let names = ["localhost", "127.0.0.1"].map(|name| name.parse().unwrap());
    let request = LeafRequest {
        common_name: "test",
        names: &names,
        purpose,
        validity,
    };
    authority.issue(&request).unwrap()
}

pub fn now() -> Validity {
    Validity::from_now(HOUR).unwrap()
}

pub fn past() -> Validity {
    let now = SystemTime::now();
    Validity::between(now - 2 * HOUR, now - HOUR).unwrap()
}

/// As the server sees it.
pub fn serial(leaf: &Leaf) -> String {
    let chain = leaf.certificate_pem.as_bytes();
    let key = leaf.key_pem.expose_secret().as_bytes();
    let identity = Identity::parse(chain, key, SystemTime::now()).unwrap();
    identity.leaf().serial.clone()
}
