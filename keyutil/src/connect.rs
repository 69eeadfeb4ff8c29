//! From settings to a Temporal client that stays authorized.
//!
//! A successful connect proves nothing, because the server answers `GetSystemInfo` without a
//! token. So [`connect`] ends with a call that takes permission: `DescribeNamespace` of its own
//! namespace.
//!
//! | what | file |
//! |---|---|
//! | a server that is still starting is waited for | `connect/wait.rs` |
//! | the SDK's client over our channel | `connect/client.rs` |
//! | what calls are made with, and what a failed one means | `connect/session.rs` |
//! | what a starter needs beyond a connection | `connect/check.rs` |
//! | how a connection is doing | `connect/observer.rs` |
//! | why there is none | `connect/error.rs` |

use std::{fmt, time::Duration};

use temporalio_client::{Client, ClientOptions};
use temporalio_common::telemetry::metrics::TemporalMeter;
use tracing::{info, warn};

pub mod check;
mod client;
mod error;
mod observer;
mod session;
mod wait;

pub use error::ConnectError;
pub use observer::Observer;
pub use session::{Session, explain_connection};

use crate::{
    credentials::FileWatcher,
    settings::{ConnectArgs, Settings},
    transport::RotatingChannel,
};

/// A Temporal client whose credentials are followed for as long as it, or a clone of it, lives.
pub struct Connection {
    sdk: temporalio_client::Connection,
    client: Client,
    session: Session,
    observer: Observer,
}

impl Connection {
    /// The SDK's client for the namespace of the settings, for workers and starters.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// A client with options of its own over the same connection: another namespace, a data
    /// converter, interceptors. Minted tokens must permit what it does: see
    /// [`ClaimsArgs::permissions`](crate::settings::ClaimsArgs).
    ///
    /// # Errors
    /// [`ConnectError::Sdk`], for options that the SDK refuses.
    pub fn client_with(&self, options: ClientOptions) -> Result<Client, ConnectError> {
        Client::new(self.sdk.clone(), options).map_err(|source| ConnectError::Sdk(Box::new(source)))
    }

    /// What calls below the SDK are made with.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// What shows how the connection and its credentials are doing, for as long as it is kept.
    pub fn observer(&self) -> &Observer {
        &self.observer
    }

    /// How the connection and its credentials are doing now.
    pub fn status(&self) -> crate::status::Status {
        self.observer.status()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("target", &self.session.target())
            .finish_non_exhaustive()
    }
}

/// Connects, and returns when the server has answered an authorized call in the namespace.
/// `program` is the subject of minted tokens where the arguments name none.
///
/// # Errors
/// [`ConnectError`]. A server that is still starting is waited for, up to `--connect-timeout`;
/// what waiting cannot cure ends it at once.
pub async fn connect(args: &ConnectArgs, program: &str) -> Result<Connection, ConnectError> {
    open(Settings::new(args, program)?)?.connect().await
}

/// A connection whose credentials are followed, before anything was sent on it.
#[derive(Debug)]
pub struct PendingConnection {
    session: Session,
    observer: Observer,
    connect_timeout: Duration,
    identity: Option<String>,
    meter: Option<TemporalMeter>,
}

/// Prepares a connection. Nothing is dialled before the first call; the credential files are read
/// again about once a second from now on. Needs a tokio runtime.
///
/// # Errors
/// [`ConnectError::Address`], for a host that makes no URI.
pub fn open(settings: Settings) -> Result<PendingConnection, ConnectError> {
    for warning in &settings.warnings {
        warn!("{warning}");
    }
    let watcher = FileWatcher::start(settings.watched());
    let channel = RotatingChannel::new(settings.connector)
        .map_err(ConnectError::Address)?
        .holding(watcher);
    let session = Session::new(
        channel,
        settings.token,
        &settings.namespace,
        settings.compression,
    );
    Ok(PendingConnection {
        observer: Observer::new(&session),
        session,
        connect_timeout: settings.connect_timeout,
        identity: None,
        meter: None,
    })
}

impl PendingConnection {
    /// What calls are made with.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// What shows how the connection is doing, from now on and for as long as it is kept.
    pub fn observer(&self) -> &Observer {
        &self.observer
    }

    /// Has the SDK's client count its calls with this meter, or not at all.
    #[must_use]
    pub fn metrics_meter(mut self, meter: Option<TemporalMeter>) -> Self {
        self.meter = meter;
        self
    }

    /// Names this process to the server. The default is `pid@host`, as in the other SDKs.
    #[must_use]
    pub fn identity(mut self, identity: impl Into<String>) -> Self {
        self.identity = Some(identity.into());
        self
    }

    /// Returns when the server has answered an authorized call in the namespace.
    ///
    /// # Errors
    /// [`ConnectError`], as for [`connect()`].
    pub async fn connect(self) -> Result<Connection, ConnectError> {
        self.wait_until_authorized().await?;
        let connection = self.into_connection().await?;
        connection.observer.working();
        info!(
            target = connection.session.target(),
            namespace = connection.session.namespace(),
            "connected and authorized"
        );
        Ok(connection)
    }
}
