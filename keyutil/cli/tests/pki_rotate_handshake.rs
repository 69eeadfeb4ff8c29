//! The rotation of each CA, as both sides of a TLS connection see it.

use std::time::SystemTime;

use crate::common::client::look;
use crate::common::handshake::{Side, handshake};
use crate::common::peer::{Peer, call, mutual};
use keyutil::ConnectArgs;
use keyutil_cli::pki::{
    AuthorityKind, AuthorityOptions, InitOptions, Layout, Leaf, LeafOptions, Party, RotationStep,
    init, rotate_authority, rotate_leaf,
};
use tempfile::TempDir;
use tokio_rustls::rustls::ServerConfig;

/// Server and client, with the files as they were before the rotation and after each step.
struct History {
    _certs: TempDir,
    name: &'static str,
    servers: Vec<Side>,
    clients: Vec<Side>,
}

impl History {
    fn of(kind: AuthorityKind) -> Self {
        let certs = tempfile::tempdir().unwrap();
        init(&InitOptions::new(certs.path())).unwrap();
        let layout = Layout::new(certs.path());
        let (server, client, name) = match kind {
            AuthorityKind::Internode => {
                let name = "internode.temporal.local";
                (Party::Internode, Party::Internode, name)
            }
            _ => (Party::Frontend, Party::Worker, "localhost"),
        };
        let mut servers = vec![Side::read(&layout, server)];
        let mut clients = vec![Side::read(&layout, client)];
        let options = AuthorityOptions {
            servers_restarted: true,
            ..AuthorityOptions::default()
        };
        let mut now = SystemTime::now();
        for step in [
            RotationStep::Trust,
            RotationStep::Reissue,
            RotationStep::Retire,
        ] {
            rotate_authority(&layout, kind, step, &options, || now).unwrap();
            now += options.wait();
            servers.push(Side::read(&layout, server));
            clients.push(Side::read(&layout, client));
        }
        Self {
            _certs: certs,
            name,
            servers,
            clients,
        }
    }

    async fn meet(&self, server: usize, client: usize) -> Result<(), String> {
        handshake(&self.servers[server], &self.clients[client], self.name).await
    }
}

/// One side may be a step behind the other for as long as each step waits.
#[tokio::test]
async fn who_is_one_step_behind_is_not_refused() {
    for kind in AuthorityKind::ALL {
        let history = History::of(kind);
        for server in 0..4_usize {
            for client in 0..4 {
                if server.abs_diff(client) <= 1 {
                    let met = history.meet(server, client).await;
                    met.unwrap_or_else(|error| panic!("{kind:?} {server} {client}: {error}"));
                }
            }
        }
    }
}

#[tokio::test]
async fn who_is_two_steps_behind_is_refused() {
    for (kind, server, client, alert) in [
        // Not seen that there is a new CA; still showing a certificate of the old one.
        (AuthorityKind::Clients, 0, 2, "UnknownCA"),
        (AuthorityKind::Clients, 3, 1, "UnknownCA"),
        (AuthorityKind::Frontend, 2, 0, "UnknownIssuer"),
        (AuthorityKind::Frontend, 1, 3, "UnknownIssuer"),
        (AuthorityKind::Internode, 3, 1, ""),
        (AuthorityKind::Internode, 1, 3, ""),
    ] {
        let history = History::of(kind);
        let error = history.meet(server, client).await.unwrap_err();
        assert!(error.contains(alert), "{kind:?}: {error}");
    }
}

/// Which keeps the root CAs that it found when it started, and reads everything else again.
#[tokio::test]
async fn a_member_of_the_cluster_that_was_not_restarted_refuses_the_new_certificates() {
    let history = History::of(AuthorityKind::Internode);
    let [started, trusted] = [0, 1].map(|step| history.clients[step].trust.clone());
    for (trust, accepted) in [(started, false), (trusted, true)] {
        let client = Side {
            trust,
            ..history.clients[2].clone()
        };
        let met = handshake(&history.servers[2], &client, history.name).await;
        assert_eq!(met.is_ok(), accepted, "{met:?}");
    }
}

#[tokio::test]
async fn a_new_leaf_is_accepted_beside_the_old_one() {
    let certs = tempfile::tempdir().unwrap();
    init(&InitOptions::new(certs.path())).unwrap();
    let layout = Layout::new(certs.path());
    let old = [Party::Frontend, Party::Worker].map(|party| Side::read(&layout, party));
    for party in Party::ALL {
        rotate_leaf(&layout, party, &LeafOptions::default(), SystemTime::now).unwrap();
    }
    let new = [Party::Frontend, Party::Worker].map(|party| Side::read(&layout, party));
    for server in [&old[0], &new[0]] {
        for client in [&old[1], &new[1]] {
            handshake(server, client, "localhost").await.unwrap();
        }
    }
}

/// The client is that of worker and starter; the server reads its files again after each step, once
/// before and once after the client does.
#[tokio::test]
async fn a_running_worker_goes_through_the_rotation_of_both_cas() {
    let certs = tempfile::tempdir().unwrap();
    init(&InitOptions::new(certs.path())).unwrap();
    let layout = Layout::new(certs.path());
    let peer = Peer::start(server(&layout)).await;
    let files = layout.party(Party::Worker);
    let opened = crate::common::client::open(&ConnectArgs {
        address: format!("localhost:{}", peer.port),
        tls_cert_path: Some(files.certificate),
        tls_key_path: Some(files.key),
        tls_ca_path: Some(files.trust),
        ..ConnectArgs::default()
    });
    // Otherwise nothing after the first call would be a handshake.
    peer.end_each_connection();
    let options = AuthorityOptions::default();
    let mut now = SystemTime::now();
    let mut serials = vec![call(opened.session().channel()).await.serial];
    for kind in [AuthorityKind::Clients, AuthorityKind::Frontend] {
        for step in [
            RotationStep::Trust,
            RotationStep::Reissue,
            RotationStep::Retire,
        ] {
            rotate_authority(&layout, kind, step, &options, || now).unwrap();
            now += options.wait();
            if step == RotationStep::Retire {
                look(&opened);
                serials.push(call(opened.session().channel()).await.serial);
                peer.present(server(&layout));
            } else {
                peer.present(server(&layout));
                serials.push(call(opened.session().channel()).await.serial);
                look(&opened);
            }
            serials.push(call(opened.session().channel()).await.serial);
        }
    }
    serials.dedup();
    assert_eq!(serials.len(), 2, "one new certificate: {serials:?}");
}

fn server(layout: &Layout) -> ServerConfig {
    let side = Side::read(layout, Party::Frontend);
    let leaf = Leaf {
        certificate_pem: side.chain,
        key_pem: side.key.into(),
    };
    mutual(&leaf, &side.trust)
}
