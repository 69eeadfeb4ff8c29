//! The real server, plain.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use sandbox::guard::Guard;
use sandbox::ports::Ports;
use sandbox::server::{Persistence, Server, ServerError, ServerPorts, ServerSettings};
use tokio::net::TcpStream;

use crate::support;

struct World {
    guard: Guard,
    settings: ServerSettings,
    _ports: Ports,
}

impl World {
    fn new() -> Self {
        let guard = Guard::new("server-test-").unwrap();
        let ports = Ports::reserve(ServerPorts::COUNT).unwrap();
        let first = ServerPorts::starting_at(ports.range().start);
        let settings = ServerSettings::plain(first, guard.folder().join("a state"));
        Self {
            guard,
            settings,
            _ports: ports,
        }
    }

    async fn start(&self) -> Result<Server, ServerError> {
        Server::start(&support::server_binary().await, &self.settings, &self.guard).await
    }
}

/// With whatever code: see [`Server::stop`].
fn assert_ended_by_itself(status: ExitStatus) {
    assert_eq!(status.signal(), None, "{status}");
}

#[tokio::test]
async fn two_servers_run_side_by_side_and_stop() {
    let (one, two) = (World::new(), World::new());
    let (first, second) = tokio::join!(one.start(), two.start());
    let (mut first, mut second) = (first.unwrap(), second.unwrap());
    assert_ne!(first.frontend_address(), second.frontend_address());
    for server in [&mut first, &mut second] {
        TcpStream::connect(server.frontend_address()).await.unwrap();
        assert_eq!(server.exit_status().unwrap(), None);
        assert!(!server.log_tail(5).unwrap().is_empty());
    }

    let address = first.frontend_address();
    assert_ended_by_itself(first.stop().await.unwrap());
    TcpStream::connect(address).await.unwrap_err();
    second.kill().await.unwrap();
}

#[tokio::test]
async fn the_same_settings_start_it_again_on_the_same_ports() {
    let mut world = World::new();
    world.settings.persistence = Persistence::File(world.guard.folder().join("temporal?.db"));
    let server = world.start().await.unwrap();
    let address = server.frontend_address();
    server.kill().await.unwrap();

    let server = world.start().await.unwrap();
    assert_eq!(server.frontend_address(), address);
    assert!(world.guard.folder().join("temporal?.db").exists());
}

#[tokio::test]
async fn a_paused_server_can_be_stopped() {
    let world = World::new();
    let server = world.start().await.unwrap();
    server.pause().unwrap();
    assert_ended_by_itself(server.stop().await.unwrap());
}

#[tokio::test]
async fn a_taken_port_is_told_apart() {
    let world = World::new();
    let _running = world.start().await.unwrap();
    let error = world.start().await.unwrap_err();
    assert!(matches!(error, ServerError::PortTaken { .. }), "{error}");
}

#[tokio::test]
async fn an_early_end_comes_with_its_reason() {
    let mut world = World::new();
    // A folder that is not there.
    world.settings.persistence = Persistence::File("/nowhere/at/all/temporal.db".into());
    let error = world.start().await.unwrap_err();
    assert!(matches!(error, ServerError::EndedEarly { .. }), "{error}");
    assert!(
        error.to_string().contains("unable to open database file"),
        "{error}"
    );
}

#[tokio::test]
async fn a_dropped_guard_ends_its_server() {
    let world = World::new();
    let mut server = world.start().await.unwrap();
    let folder = world.guard.folder().to_owned();
    drop(world.guard);
    assert!(!folder.exists());
    let end = tokio::time::timeout(Duration::from_secs(5), async {
        while server.exit_status().unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    end.await.unwrap();
}
