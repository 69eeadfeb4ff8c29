//! One temporal-server process with all its services, on loopback ports, with SQLite.
//!
//! ```no_run
//! # async fn run(binary: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
//! use sandbox::{guard::Guard, ports::Ports, server::{Server, ServerPorts, ServerSettings}};
//!
//! let guard = Guard::new("sandbox-")?;
//! let ports = Ports::reserve(ServerPorts::COUNT)?;
//! let ports = ServerPorts::starting_at(ports.range().start);
//! let settings = ServerSettings::plain(ports, guard.folder().join("server"));
//! let server = Server::start(binary, &settings, &guard).await?;
//! println!("{}", server.frontend_address());
//! server.stop().await?;
//! # Ok(())
//! # }
//! ```

mod config;
mod process;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde_json::Value;

pub use process::{Server, ServerError};

/// Everything that a server is started with. The same settings start it again on the same ports.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// Where it listens.
    pub ports: ServerPorts,
    /// The folder of its configuration and its log; made if missing.
    pub state_dir: PathBuf,
    /// Where it keeps namespaces and workflows.
    pub persistence: Persistence,
    /// Mutual TLS, or plain text.
    pub tls: Option<Tls>,
    /// The authorizer; without one every call is permitted.
    pub authorization: Option<Authorization>,
    /// Dynamic configuration by key, such as `frontend.keepAliveMaxConnectionAge`.
    pub dynamic_config: BTreeMap<String, Value>,
    /// Whether it logs at the level `debug`, where it names the client certificate of each
    /// connection.
    pub debug_log: bool,
}

impl ServerSettings {
    /// A server that keeps nothing, speaks plain text and permits every call.
    pub fn plain(ports: ServerPorts, state_dir: PathBuf) -> Self {
        Self {
            ports,
            state_dir,
            persistence: Persistence::Memory,
            tls: None,
            authorization: None,
            dynamic_config: BTreeMap::new(),
            debug_log: false,
        }
    }
}

/// The services of a server, in the order of their ports.
///
/// With an authorizer the server's own worker needs the internal frontend, for it has no token
/// (temporalio/temporal#4864).
const SERVICES: [&str; 5] = [
    "frontend",
    "internal-frontend",
    "history",
    "matching",
    "worker",
];

/// The ports of one server: a gRPC port for each of its services, then as many membership ports.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ServerPorts {
    first: u16,
}

impl ServerPorts {
    /// The number of ports.
    pub const COUNT: u16 = 2 * Self::SERVICES;
    const SERVICES: u16 = SERVICES.len() as u16;

    /// The ports `first`, `first + 1`, …
    pub fn starting_at(first: u16) -> Self {
        Self { first }
    }

    /// Where clients connect.
    pub fn frontend(self) -> u16 {
        self.first
    }

    /// Where the server's own worker connects. Every call that reaches it is permitted.
    pub fn internal_frontend(self) -> u16 {
        self.first + 1
    }

    /// Where the frontends connect to the history service.
    pub fn history(self) -> u16 {
        self.first + 2
    }

    /// The port at which the other services learn that the frontend is a member, in the TChannel
    /// protocol.
    pub fn frontend_membership(self) -> u16 {
        self.first + Self::SERVICES
    }

    fn all(self) -> impl Iterator<Item = u16> {
        self.first..self.first + Self::COUNT
    }
}

/// Where a server keeps its data.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Persistence {
    /// Lost when the process ends.
    Memory,
    /// An SQLite file, made if missing; its folder must exist. The server never migrates it.
    File(PathBuf),
}

/// Mutual TLS on the frontend and between the services.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the fields are named as in the server's file")]
pub struct Tls {
    pub frontend: FrontendTls,
    pub internode: InternodeTls,
    /// How often the server looks for replaced files.
    pub refresh: Duration,
}

/// The files of the frontend.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the fields are named as in the server's file")]
pub struct FrontendTls {
    pub cert: PathBuf,
    pub key: PathBuf,
    /// CAs of the clients that may connect. Without any, no client is asked for a certificate.
    pub client_ca: Vec<PathBuf>,
}

/// The files that the services use among each other. The certificate serves both ends, so it needs
/// both extended key usages.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the fields are named as in the server's file")]
pub struct InternodeTls {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub ca: PathBuf,
    /// The name in the certificate.
    pub server_name: String,
}

/// The server's default authorizer and claim mapper.
#[derive(Clone, Debug)]
pub struct Authorization {
    /// Where the public keys are; must answer before the server starts.
    pub jwks_uri: String,
    /// How often they are fetched; zero would be never again.
    pub jwks_refresh: Duration,
    /// The audience that tokens must name, if any.
    pub audience: Option<String>,
}
