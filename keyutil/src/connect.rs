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
//! | what a failed call means | `connect/diagnose.rs` |
//! | how a connection is doing | `connect/observer.rs` |
//! | why there is none | `connect/error.rs` |

use std::{fmt, time::Duration};

use temporalio_client::Client;
use temporalio_common::telemetry::metrics::TemporalMeter;
use tonic::{Status, service::interceptor::InterceptedService};
use tracing::{info, warn};

mod client;
mod diagnose;
mod error;
mod observer;
mod wait;

pub use error::ConnectError;
pub use observer::Observer;

use self::diagnose::connection_failed;
pub use self::diagnose::describe;
pub use self::diagnose::{explain_call, failed_with, verdict};
use crate::{
    args::ConnectArgs,
    credentials::FileWatcher,
    explain::TokenVerdict,
    settings::Settings,
    token::Role,
    transport::{AuthInterceptor, AuthorizedChannel, RotatingChannel, is_refusal},
};

/// A Temporal client whose credentials are followed for as long as it, or a clone of it, lives.
pub struct Connection {
    client: Client,
    channel: AuthorizedChannel,
    target: String,
    observer: Observer,
}

impl Connection {
    /// The SDK's client, for workers and starters.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The channel below the client, for calls that the SDK has no method for.
    pub fn channel(&self) -> AuthorizedChannel {
        self.channel.clone()
    }

    /// `host:port` of the server.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// What shows how the connection and its credentials are doing, for as long as it is kept.
    pub fn observer(&self) -> &Observer {
        &self.observer
    }

    /// Adds to an error of a call what keeps calls from going well at this time, if anything does:
    /// the SDK hands on the words of an error alone.
    pub fn diagnosed(&self, error: anyhow::Error) -> anyhow::Error {
        self.observer.diagnosed(error)
    }

    /// How the connection and its credentials are doing now.
    pub fn status(&self) -> crate::status::Status {
        self.observer.status()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

/// Connects, and comes back when the server has answered an authorized call in the namespace.
/// `program` is the subject of minted tokens where the arguments name none.
///
/// # Errors
/// [`ConnectError`]. A server that is still starting is waited for, up to `--connect-timeout`;
/// what waiting cannot cure ends it at once.
pub async fn connect(args: &ConnectArgs, program: &str) -> Result<Connection, ConnectError> {
    open(Settings::new(args, program)?)?.connect().await
}

/// A channel with its credentials followed, before anything was sent on it.
#[derive(Debug)]
pub struct PendingConnection {
    settings: PendingSettings,
    channel: RotatingChannel,
    interceptor: AuthInterceptor,
    observer: Observer,
    meter: Option<TemporalMeter>,
    watch: FileWatcher,
}

#[derive(Debug)]
struct PendingSettings {
    namespace: String,
    compression: Option<tonic::codec::CompressionEncoding>,
    connect_timeout: Duration,
}

/// Makes the channel. Nothing is dialled before the first call; the files are looked at from now
/// on. Needs a tokio runtime.
///
/// # Errors
/// [`ConnectError::Address`], for a host that makes no URI.
pub fn open(settings: Settings) -> Result<PendingConnection, ConnectError> {
    for warning in &settings.warnings {
        warn!("{warning}");
    }
    let watch = FileWatcher::start(settings.watched());
    let channel = RotatingChannel::new(settings.connector).map_err(ConnectError::Address)?;
    let interceptor = AuthInterceptor::new(settings.token);
    let observer = Observer::new(&channel, &interceptor, &settings.namespace);
    Ok(PendingConnection {
        channel,
        interceptor,
        observer,
        meter: None,
        settings: PendingSettings {
            namespace: settings.namespace,
            compression: settings.compression,
            connect_timeout: settings.connect_timeout,
        },
        watch,
    })
}

impl PendingConnection {
    /// What calls go through.
    pub fn channel(&self) -> AuthorizedChannel {
        InterceptedService::new(self.channel.clone(), self.interceptor.clone())
    }

    /// The channel without the token.
    pub fn bare_channel(&self) -> &RotatingChannel {
        &self.channel
    }

    /// What shows how all this is doing, from now on and for as long as it is kept.
    pub fn observer(&self) -> &Observer {
        &self.observer
    }

    /// Has the SDK's client count its calls with this, or not at all.
    #[must_use]
    pub fn counting_with(mut self, meter: Option<TemporalMeter>) -> Self {
        self.meter = meter;
        self
    }

    /// Comes back when the server has answered an authorized call in the namespace.
    ///
    /// # Errors
    /// [`ConnectError`], as [`connect`] has it.
    pub async fn connect(self) -> Result<Connection, ConnectError> {
        self.wait_until_authorized().await?;
        let namespace = self.settings.namespace.clone();
        let connection = self.into_client().await?;
        connection.observer.working();
        info!(
            target = connection.target,
            namespace, "connected and authorized"
        );
        Ok(connection)
    }

    /// One authorized call in the namespace.
    ///
    /// # Errors
    /// [`ConnectError`], with the refusal or failure explained.
    pub async fn probe(&self) -> Result<(), ConnectError> {
        let namespace = &self.settings.namespace;
        let Err(status) = describe(self.channel(), namespace).await else {
            return Ok(());
        };
        let verdict = match is_refusal(&status) {
            true => verdict(&self.channel, &self.interceptor).await,
            false => TokenVerdict::Unknown,
        };
        let (channel, interceptor) = (&self.channel, &self.interceptor);
        Err(explain_call(
            channel,
            interceptor,
            status,
            namespace,
            Role::Read,
            verdict,
        ))
    }

    /// What a failed call in `namespace` that takes `needed` means.
    pub fn explain(&self, status: Status, namespace: &str, needed: Role) -> ConnectError {
        explain_call(
            &self.channel,
            &self.interceptor,
            status,
            namespace,
            needed,
            TokenVerdict::Unknown,
        )
    }
}
