//! From settings to a Temporal client that stays authorized.
//!
//! A successful connect proves nothing, because the server answers `GetSystemInfo` without a
//! token. So [`connect`] ends with a call that takes permission: `DescribeNamespace` of its own
//! namespace.
//!
//! | what | file |
//! |---|---|
//! | what calls are made with, and what a failed one means | `connect/session.rs` |
//! | what a starter needs beyond a connection | `connect/check.rs` |
//! | how a connection is doing | `connect/observer.rs` |
//! | why there is none | `connect/error.rs` |

pub mod check;
mod error;
mod observer;
mod session;

use std::{
    error::Error,
    fmt,
    time::{Duration, Instant},
};

use backon::{BackoffBuilder, ExponentialBuilder, Retryable};
use temporalio_client::{
    Client, ClientOptions, ConnectionOptions, RetryOptions,
    callback_based::CallbackBasedGrpcService, errors::ClientConnectError,
};
use temporalio_common::telemetry::metrics::TemporalMeter;
use tonic::{Code, Status};
use tracing::{info, warn};
use url::Url;

use crate::{
    base::chain,
    credentials::FileWatcher,
    diagnosis::{Diagnose, Diagnosis},
    explain::TokenVerdict,
    settings::{ConnectArgs, Settings},
    token::Role,
    transport::{ConnectStage, ConnectorError, RotatingChannel, sdk_service},
};

pub use error::ConnectError;
pub use observer::Observer;
pub use session::{Session, explain_connection};

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

impl PendingConnection {
    /// Asks until the answer is yes, or one that waiting cannot change, or the time is up.
    ///
    /// # Errors
    /// [`ConnectError`], with the reason of the last attempt.
    pub async fn wait_until_authorized(&self) -> Result<(), ConnectError> {
        self.retry_until_ready(async || self.session.probe().await)
            .await
    }

    /// Repeats an attempt until it succeeds, or fails in a way that waiting cannot cure, or the
    /// time is up.
    pub async fn retry_until_ready<T>(
        &self,
        attempt: impl AsyncFn() -> Result<T, ConnectError>,
    ) -> Result<T, ConnectError> {
        let started = Instant::now();
        let remaining = || {
            let limit = self.connect_timeout;
            limit.saturating_sub(started.elapsed())
        };
        let mut pauses = ExponentialBuilder::new()
            .with_min_delay(Duration::from_millis(50))
            .with_max_delay(Duration::from_secs(1))
            .without_max_times()
            .with_jitter()
            .build();
        let mut announced = false;
        let mut first_missing = None;
        loop {
            // Whoever dials gives up by itself when the time is up, and knows what it waited for.
            let limit = remaining().saturating_add(Duration::from_millis(250));
            let error = match tokio::time::timeout(limit, attempt()).await {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(error)) => error,
                Err(_) => self.no_answer(started.elapsed()),
            };
            // A namespace that was just registered is known everywhere after two refreshes of the
            // server's cache, `system.namespaceCacheRefreshInterval` of 2 s each. Counted from the
            // first such answer, because the server may not have been up before.
            let fresh = matches!(error, ConnectError::NoNamespace { .. })
                && first_missing.get_or_insert_with(Instant::now).elapsed()
                    < Duration::from_secs(4);
            if !error.may_pass(fresh) {
                return Err(error.after(started.elapsed()));
            }
            self.observer.connecting_failed(&error);
            if !std::mem::replace(&mut announced, true) {
                info!(
                    reason = chain(&error),
                    limit = %humantime::format_duration(self.connect_timeout),
                    "waiting for the server"
                );
            }
            let pause = pauses.next().unwrap_or(Duration::from_secs(1));
            tokio::time::sleep(pause.min(remaining())).await;
            if remaining().is_zero() {
                return Err(error.after(started.elapsed()));
            }
        }
    }

    fn no_answer(&self, waited: Duration) -> ConnectError {
        match self.session.connector().log().last_failure() {
            Some(source) => self.session.connection_failed(source),
            None => ConnectError::Unreachable {
                target: self.session.connector().target(),
                waited: None,
                source: ConnectorError::TimedOut {
                    stage: ConnectStage::Answer,
                    after: waited,
                },
            },
        }
    }
}

impl PendingConnection {
    /// What `ConnectionOptions::service_override` takes, for a caller that makes the SDK's
    /// connection itself. It follows the credentials for as long as it, or a clone of it, lives.
    pub fn sdk_service(&self) -> CallbackBasedGrpcService {
        let session = self.session.clone();
        let explain = move |status: &Status, namespace: Option<&str>| {
            explain(&session, status, namespace.unwrap_or(session.namespace()))
        };
        sdk_service(
            self.session.authorized_channel(),
            self.session.channel().clone(),
            self.session.compression(),
            self.observer.outcomes(),
            explain,
        )
    }

    async fn into_connection(self) -> Result<Connection, ConnectError> {
        let service = self.sdk_service();
        let Self {
            session, observer, ..
        } = self;
        // The SDK needs a URL and dials none: every call goes to the service.
        let url = Url::parse(&format!("http://{}", session.target())).map_err(ConnectError::Url)?;
        let options = ConnectionOptions::new(url)
            .identity(self.identity.unwrap_or_else(identity))
            .service_override(service)
            .maybe_metrics_meter(self.meter)
            // Refused by the SDK together with `service_override`.
            .dns_load_balancing(None)
            .retry_options(
                // The SDK's own limits are 10 attempts and 10 s: less than a server's restart.
                RetryOptions::builder()
                    .max_elapsed_time(Some(Duration::from_secs(60)))
                    .max_retries(0)
                    .build(),
            )
            .build();
        // The SDK makes one call here, and does not retry it.
        let sdk = (|| temporalio_client::Connection::connect(options.clone()))
            .retry(ExponentialBuilder::default().with_max_times(5))
            .when(|error| {
                matches!(error, ClientConnectError::SystemInfoCallError(status)
                    if status.code() == Code::Unavailable)
            })
            .await
            .map_err(|source| ConnectError::Sdk(Box::new(source)))?;
        let options = ClientOptions::new(session.namespace());
        #[cfg(feature = "otel")]
        let options = options.plugins(crate::traces::plugin());
        let client = Client::new(sdk.clone(), options.build())
            .map_err(|source| ConnectError::Sdk(Box::new(source)))?;
        Ok(Connection {
            sdk,
            client,
            session,
            observer,
        })
    }
}

/// What a failed call of the SDK means for more calls than this one: the message for its status,
/// and the diagnosis.
fn explain(session: &Session, status: &Status, namespace: &str) -> Option<(String, Diagnosis)> {
    // All that workers and starters do takes `write`.
    let known = session.explain_shared(status, namespace, Role::Write, TokenVerdict::Unknown);
    let error = known.or_else(|| {
        is_of_the_server(status).then(|| ConnectError::Call {
            target: session.target(),
            status: status.clone(),
        })
    })?;
    let message = match &error {
        ConnectError::Refused { explanation, .. } => {
            format!("{}: {explanation}", status.message())
        }
        ConnectError::Call { .. } => status.message().to_owned(),
        other => chain(other),
    };
    Some((message, error.diagnosis()))
}

/// Whether the server, or a proxy before it, says that it is not well. Other answers concern the
/// one call that got them.
fn is_of_the_server(status: &Status) -> bool {
    let unwell = matches!(
        status.code(),
        Code::Unavailable | Code::ResourceExhausted | Code::Internal | Code::Unknown
    );
    unwell && status.source().is_none()
}

/// `pid@host`, as the other SDKs have it: what people look for in the Web UI.
fn identity() -> String {
    let host = gethostname::gethostname();
    format!("{}@{}", std::process::id(), host.to_string_lossy())
}
