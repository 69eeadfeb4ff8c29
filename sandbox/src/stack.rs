//! A server with mTLS and authorization on this machine, and all that it needs: PKI, signing keys,
//! a JWKS endpoint, a namespace.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::{Duration, SystemTime},
};

use keyutil::{
    ConnectArgs, ConnectError, connect,
    credentials::{FileWatcher, reload::LoadError},
    diagnosis::Diagnosed,
    settings::{ClaimsArgs, Names, Settings, TokenArgs},
};
use keyutil_cli::{
    keys::{keyring::Keyring, serve},
    namespace,
    pki::{self, InitOptions, Layout, Party},
};
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};

use crate::{
    guard::{Guard, GuardError},
    ports::{Ports, PortsError},
    server::{
        Authorization, FrontendTls, InternodeTls, Persistence, Server, ServerError, ServerPorts,
        ServerSettings, Tls,
    },
};

/// What a stack is like.
#[derive(Clone, Debug)]
pub struct StackOptions {
    /// The namespace that is registered.
    pub namespace: String,
    /// Dynamic configuration by key, such as `frontend.keepAliveMaxConnectionAge`.
    pub dynamic_config: BTreeMap<String, Value>,
    /// Whether the server keeps its data in a file, or in memory.
    pub durable: bool,
    /// Where the server is to fetch the key set, instead of an endpoint of the stack's own.
    pub jwks_uri: Option<String>,
    /// Whether the server logs at the level `debug`.
    pub debug_log: bool,
}

impl Default for StackOptions {
    fn default() -> Self {
        Self {
            namespace: "default".to_owned(),
            dynamic_config: BTreeMap::new(),
            durable: false,
            jwks_uri: None,
            debug_log: false,
        }
    }
}

/// Dynamic configuration of a server that ends each connection at this age (and 10 % more or
/// less), and gives calls that are under way five seconds to finish.
pub fn connection_age(age: Duration) -> BTreeMap<String, Value> {
    let milliseconds = |duration: Duration| Value::from(format!("{}ms", duration.as_millis()));
    let grace = Duration::from_secs(5);
    [
        ("frontend.keepAliveMaxConnectionAge", age),
        ("frontend.keepAliveMaxConnectionAgeGrace", grace),
    ]
    .map(|(key, duration)| (key.to_owned(), milliseconds(duration)))
    .into()
}

/// `aud` of every token that the server of a stack accepts.
pub const AUDIENCE: &str = "temporal-sandbox";

/// The task queue of every program of a stack. It is not the default of the worker, which a copier
/// changes.
pub const TASK_QUEUE: &str = "sandbox";

/// How often the server fetches the key set and looks for new certificate files. Far shorter than
/// in production, so that a change shows within seconds.
pub const REFRESH: Duration = Duration::from_secs(1);

/// Another program may take a port between the check and the server's start.
const PORT_ATTEMPTS: usize = 5;

/// A running server, and what it needs. Dropping it ends all of it and removes its folder.
#[derive(Debug)]
pub struct Stack {
    // Dropped in this order: the server before the endpoint that it reads, the folder last.
    server: Option<Server>,
    _jwks: JwksEndpoint,
    settings: ServerSettings,
    binary: PathBuf,
    options: StackOptions,
    _ports: Ports,
    guard: Guard,
}

impl Stack {
    /// Makes PKI and keys, serves the key set, starts the server and registers the namespace.
    ///
    /// # Errors
    /// [`StackError`] says which of the steps failed.
    pub async fn start(
        binary: &Path,
        guard: Guard,
        options: StackOptions,
    ) -> Result<Self, StackError> {
        let mut stack = Self::start_server_alone(binary, guard, options).await?;
        stack
            .register_namespace()
            .await
            .inspect_err(|_| stack.server = None)?;
        Ok(stack)
    }

    /// The same without a namespace, and without waiting until the server answers.
    ///
    /// # Errors
    /// [`StackError`] says which of the steps failed.
    pub async fn start_server_alone(
        binary: &Path,
        guard: Guard,
        options: StackOptions,
    ) -> Result<Self, StackError> {
        let certs = guard.folder().join("certs");
        pki::init(&InitOptions::new(&certs)).map_err(|error| StackError::Pki(error.into()))?;
        let keyring = Keyring::at(certs.join("signing"));
        keyring
            .generate(false, SystemTime::now)
            .map_err(|error| StackError::Keyring(error.into()))?;
        let jwks = JwksEndpoint::start(&keyring).await?;
        let jwks_uri = options.jwks_uri.as_ref().unwrap_or(&jwks.url);

        let mut attempts = 0;
        let (ports, settings, server) = loop {
            attempts += 1;
            let ports = Ports::reserve(ServerPorts::COUNT)?;
            let settings = server_settings(&guard, &ports, jwks_uri, &options);
            match Server::start(binary, &settings, &guard).await {
                Ok(server) => break (ports, settings, server),
                Err(ServerError::PortTaken { .. }) if attempts < PORT_ATTEMPTS => {}
                Err(error) => return Err(error.into()),
            }
        };
        Ok(Self {
            server: Some(server),
            _jwks: jwks,
            settings,
            binary: binary.to_owned(),
            options,
            _ports: ports,
            guard,
        })
    }

    /// The folder with the certificates and keys, laid out as `certs/` of the project.
    pub fn certs(&self) -> PathBuf {
        self.guard.folder().join("certs")
    }

    /// The signing keys.
    pub fn keyring(&self) -> Keyring {
        Keyring::at(self.certs().join("signing"))
    }

    /// What ends with the stack.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// `host:port` of the server's frontend.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.settings.ports.frontend())
    }

    /// The namespace that was registered.
    pub fn namespace(&self) -> &str {
        &self.options.namespace
    }

    /// Where the server fetches the key set.
    pub fn jwks_uri(&self) -> &str {
        let authorization = self.settings.authorization.as_ref();
        authorization.map_or("", |authorization| &authorization.jwks_uri)
    }

    /// The settings of the server, from which another one beside the same JWKS endpoint can start.
    pub fn settings(&self) -> &ServerSettings {
        &self.settings
    }

    /// The running server, if it was not stopped.
    pub fn server(&self) -> Option<&Server> {
        self.server.as_ref()
    }

    /// How the server ended, if it ended by itself.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn server_ended(&mut self) -> io::Result<Option<ExitStatus>> {
        match &mut self.server {
            Some(server) => server.exit_status(),
            None => Ok(None),
        }
    }

    /// The last lines of the server's log, as far as it can be read.
    pub fn log_tail(&self, count: usize) -> Vec<String> {
        let tail = self.server.as_ref().map(|server| server.log_tail(count));
        tail.and_then(Result::ok).unwrap_or_default()
    }

    /// Kills the server, as a crash would.
    ///
    /// # Errors
    /// [`StackError::Server`].
    pub async fn kill_server(&mut self) -> Result<Option<ExitStatus>, StackError> {
        match self.server.take() {
            Some(server) => Ok(Some(server.kill().await?)),
            None => Ok(None),
        }
    }

    /// Starts the server again, on the same ports. What was in memory is gone, namespace included.
    ///
    /// # Errors
    /// [`StackError::Server`].
    pub async fn start_server(&mut self) -> Result<(), StackError> {
        self.server = Some(Server::start(&self.binary, &self.settings, &self.guard).await?);
        Ok(())
    }

    /// Registers the namespace as its administrator would, and waits until it can be used.
    ///
    /// # Errors
    /// [`StackError::Namespace`].
    pub async fn register_namespace(&self) -> Result<(), StackError> {
        let mut args = self.connect_args(Party::Admin);
        // Of all settings only the namespace is the caller's, and it comes from `--namespace`.
        args.names = Names::Flags;
        args.mint_for_admin();
        let registered = async {
            let settings = Settings::new(&args, "sandbox").map_err(ConnectError::Settings)?;
            let opened = connect::open(settings)?;
            let day = Duration::from_secs(24 * 60 * 60);
            namespace::register(&opened, &self.options.namespace, day).await
        };
        let registered = registered.await;
        registered.map_err(|error| StackError::Namespace(error.into()))?;
        Ok(())
    }

    /// How a party connects, from within this process.
    pub fn connect_args(&self, party: Party) -> ConnectArgs {
        let files = Layout::new(&self.certs()).party(party);
        ConnectArgs {
            address: self.address(),
            namespace: self.options.namespace.clone(),
            tls_cert_path: Some(files.certificate),
            tls_key_path: Some(files.key),
            tls_ca_path: Some(files.trust),
            token: TokenArgs {
                signing_key: Some(self.keyring().current_path()),
                claims: ClaimsArgs {
                    audience: Some(AUDIENCE.to_owned()),
                    ..ClaimsArgs::default()
                },
                ..TokenArgs::default()
            },
            ..ConnectArgs::default()
        }
    }

    /// The same as environment variables, for other programs.
    pub fn environment(&self, party: Party) -> Vec<(&'static str, OsString)> {
        let files = Layout::new(&self.certs()).party(party);
        vec![
            ("TEMPORAL_ADDRESS", self.address().into()),
            ("TEMPORAL_NAMESPACE", self.options.namespace.clone().into()),
            ("TEMPORAL_TLS_CLIENT_CERT_PATH", files.certificate.into()),
            ("TEMPORAL_TLS_CLIENT_KEY_PATH", files.key.into()),
            ("TEMPORAL_TLS_SERVER_CA_CERT_PATH", files.trust.into()),
            (
                "KEYUTIL_SIGNING_KEY_PATH",
                self.keyring().current_path().into(),
            ),
            ("KEYUTIL_AUDIENCE", AUDIENCE.into()),
        ]
    }

    /// A program of the workspace, run as this party. It ends with the stack. Of this process's
    /// own environment nothing is left that would change its connection, or what it logs or
    /// listens at.
    pub fn command(&self, program: &Path, party: Party) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(program);
        for (name, _) in std::env::vars_os() {
            let name_text = name.to_string_lossy();
            if ["TEMPORAL_", "KEYUTIL_", "STARTER_", "WORKER_"]
                .iter()
                .any(|prefix| name_text.starts_with(prefix))
            {
                command.env_remove(name);
            }
        }
        command.env_remove("RUST_LOG");
        command
            .env("TEMPORAL_TASK_QUEUE", TASK_QUEUE)
            .envs(self.environment(party));
        self.guard.adopt_async(&mut command);
        command
    }
}

fn server_settings(
    guard: &Guard,
    ports: &Ports,
    jwks_uri: &str,
    options: &StackOptions,
) -> ServerSettings {
    let layout = Layout::new(&guard.folder().join("certs"));
    let frontend = layout.party(Party::Frontend);
    let internode = layout.party(Party::Internode);
    let state_dir = guard.folder().join("server");
    ServerSettings {
        ports: ServerPorts::starting_at(ports.range().start),
        persistence: if options.durable {
            Persistence::File(guard.folder().join("temporal.db"))
        } else {
            Persistence::Memory
        },
        state_dir,
        tls: Some(Tls {
            frontend: FrontendTls {
                cert: frontend.certificate,
                key: frontend.key,
                client_ca: vec![frontend.trust],
            },
            internode: InternodeTls {
                cert: internode.certificate,
                key: internode.key,
                ca: internode.trust,
                server_name: "internode.temporal.local".to_owned(),
            },
            refresh: REFRESH,
        }),
        authorization: Some(Authorization {
            jwks_uri: jwks_uri.to_owned(),
            jwks_refresh: REFRESH,
            audience: Some(AUDIENCE.to_owned()),
        }),
        dynamic_config: options.dynamic_config.clone(),
        debug_log: options.debug_log,
    }
}

/// Serves the key set from within this process, with the code of `keyutil jwks serve`.
#[derive(Debug)]
struct JwksEndpoint {
    url: String,
    task: JoinHandle<()>,
    _watch: FileWatcher,
}

impl JwksEndpoint {
    async fn start(keyring: &Keyring) -> Result<Self, StackError> {
        let document = serve::follow(keyring.jwks_path())?;
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
            .await
            .map_err(StackError::Listen)?;
        let address = listener.local_addr().map_err(StackError::Listen)?;
        let watch = FileWatcher::start(vec![Box::new(document.clone())]);
        let endpoint = serve::Endpoint::new(document);
        let task = tokio::spawn(serve::serve(listener, endpoint, std::future::pending()));
        Ok(Self {
            url: format!("http://{address}{}", serve::WELL_KNOWN_PATH),
            task,
            _watch: watch,
        })
    }
}

impl Drop for JwksEndpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Why there is no stack.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// The folder and its janitor.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// Certificates.
    #[error("failed to make the certificates")]
    Pki(#[source] Diagnosed),
    /// Signing keys.
    #[error("failed to make the signing keys")]
    Keyring(#[source] Diagnosed),
    /// The JWKS endpoint.
    #[error("failed to serve the key set")]
    Jwks(#[from] LoadError),
    /// The endpoint's port.
    #[error("failed to listen for the server's fetches of the key set")]
    Listen(#[source] io::Error),
    /// The server's ports.
    #[error(transparent)]
    Ports(#[from] PortsError),
    /// The server itself.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The namespace.
    #[error("failed to register the namespace")]
    Namespace(#[source] Diagnosed),
}
