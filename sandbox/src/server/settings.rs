//! What can be chosen about a server.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

/// Everything that a server is started with. The same settings start it again on the same ports.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// Where it listens.
    pub ports: ServerPorts,
    /// Holds its configuration and its log; made if missing.
    pub state_dir: PathBuf,
    /// Where it keeps namespaces and workflows.
    pub persistence: Persistence,
    /// Mutual TLS, or plain text.
    pub tls: Option<Tls>,
    /// Who may do what, or everybody everything.
    pub authorization: Option<Authorization>,
    /// Dynamic configuration by key, such as `frontend.keepAliveMaxConnectionAge`.
    pub dynamic_config: BTreeMap<String, Value>,
    /// Whether it logs at the level `debug`, where it names the client certificate of each
    /// connection.
    pub debug_log: bool,
}

impl ServerSettings {
    /// A server that forgets, speaks plain text and lets everybody in.
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

/// The ports of one server: a gRPC and a membership port for each of its services, in a row.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ServerPorts {
    first: u16,
}

impl ServerPorts {
    /// How many there are.
    pub const COUNT: u16 = 2 * SERVICES;

    /// The ports `first`, `first + 1`, …
    pub fn starting_at(first: u16) -> Self {
        Self { first }
    }

    /// Where clients connect.
    pub fn frontend(self) -> u16 {
        self.first
    }

    /// Where the server's own worker connects: whoever is let in there may do everything.
    pub fn internal_frontend(self) -> u16 {
        self.grpc(1)
    }

    /// Where the frontends connect to the history service.
    pub fn history(self) -> u16 {
        self.grpc(2)
    }

    /// The gRPC port of the service with that index.
    pub(super) fn grpc(self, service: u16) -> u16 {
        self.first + service
    }

    pub(super) fn membership(self, service: u16) -> u16 {
        self.first + SERVICES + service
    }

    pub(super) fn all(self) -> impl Iterator<Item = u16> {
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
pub struct Tls {
    /// Towards clients.
    pub frontend: FrontendTls,
    /// Between the services.
    pub internode: InternodeTls,
    /// How often the server looks for replaced files.
    pub refresh: Duration,
}

/// The files of the frontend.
#[derive(Clone, Debug)]
pub struct FrontendTls {
    /// Certificate chain.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// CAs of the clients that may connect. With none of them, nobody is asked for a certificate.
    pub client_ca: Vec<PathBuf>,
}

/// The files that the services use among each other. The certificate serves both ends, so it needs
/// both extended key usages.
#[derive(Clone, Debug)]
pub struct InternodeTls {
    /// Certificate chain.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// CA of the certificate.
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

const SERVICES: u16 = 5;
