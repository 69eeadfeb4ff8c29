//! The development certificates in mutual TLS 1.3, in memory.

use std::time::{Duration, SystemTime};

use crate::common::handshake::{Side, handshake};
use crate::common::intermediate::root_and_intermediate;
use keyutil_cli::pki::{
    Authority, AuthorityRequest, InitOptions, Layout, Leaf, LeafRequest, Party, Purpose, Validity,
    init,
};

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn what_init_writes_works_under_every_name_of_the_server() {
    let certs = tempfile::tempdir().unwrap();
    init(&InitOptions::new(certs.path())).unwrap();
    let layout = Layout::new(certs.path());
    let server = Side::read(&layout, Party::Frontend);

    for party in [Party::Worker, Party::Starter, Party::Admin, Party::Ui] {
        let client = Side::read(&layout, party);
        for name in Party::Frontend.names() {
            handshake(&server, &client, name).await.unwrap();
        }
        let error = handshake(&server, &client, "example.com")
            .await
            .unwrap_err();
        assert!(error.contains("not valid for name"), "{error}");
    }
}

#[tokio::test]
async fn members_of_the_cluster_are_clients_and_servers_of_each_other_alone() {
    let certs = tempfile::tempdir().unwrap();
    init(&InitOptions::new(certs.path())).unwrap();
    let layout = Layout::new(certs.path());
    let internode = Side::read(&layout, Party::Internode);
    let worker = Side::read(&layout, Party::Worker);

    let name = "internode.temporal.local";
    handshake(&internode, &internode, name).await.unwrap();
    // Even a worker that trusts the internode CA.
    let intruder = Side {
        trust: internode.trust.clone(),
        ..worker
    };
    let error = handshake(&internode, &intruder, name).await.unwrap_err();
    assert!(error.contains("UnknownCA"), "{error}");
}

#[tokio::test]
async fn a_client_of_another_ca_is_refused() {
    let world = World::new(root("clients"));
    world
        .meet(&world.clients, Purpose::Client, now())
        .await
        .unwrap();

    let stranger = root("clients");
    let error = world
        .meet(&stranger, Purpose::Client, now())
        .await
        .unwrap_err();
    assert!(error.contains("UnknownCA"), "{error}");
}

#[tokio::test]
async fn a_client_that_is_unfit_is_refused() {
    let world = World::new(root("clients"));
    let time = SystemTime::now();
    let past = Validity::between(time - 2 * HOUR, time - HOUR).unwrap();
    let future = Validity::between(time + HOUR, time + 2 * HOUR).unwrap();
    for (purpose, validity) in [
        (Purpose::Client, past),
        (Purpose::Client, future),
        (Purpose::Server, now()),
    ] {
        let error = world
            .meet(&world.clients, purpose, validity)
            .await
            .unwrap_err();
        assert!(
            error.contains("received fatal alert"),
            "{purpose:?} {validity:?}: {error}"
        );
    }
}

#[tokio::test]
async fn a_client_of_an_intermediate_ca_is_accepted_by_the_root() {
    let [root, intermediate] = root_and_intermediate("root", 1);
    let world = World::new(root);
    world
        .meet(&intermediate, Purpose::Client, now())
        .await
        .unwrap();
}

/// A server, and the CA of its clients.
struct World {
    clients: Authority,
    frontend: Authority,
    server: Side,
}

impl World {
    fn new(clients: Authority) -> Self {
        let frontend = root("frontend");
        let leaf = issue(&frontend, Purpose::Server, now());
        let server = Side::new(leaf, &clients);
        Self {
            clients,
            frontend,
            server,
        }
    }

    async fn meet(
        &self,
        authority: &Authority,
        purpose: Purpose,
        validity: Validity,
    ) -> Result<(), String> {
        let client = Side::new(issue(authority, purpose, validity), &self.frontend);
        handshake(&self.server, &client, "localhost").await
    }
}

fn root(name: &str) -> Authority {
    let validity = now();
    Authority::generate(&AuthorityRequest { name, validity }).unwrap()
}

fn issue(authority: &Authority, purpose: Purpose, validity: Validity) -> Leaf {
    authority
        .issue(&LeafRequest {
            common_name: "worker",
            names: &["localhost".parse().unwrap()],
            purpose,
            validity,
        })
        .unwrap()
}

fn now() -> Validity {
    Validity::from_now(HOUR).unwrap()
}
