//! Makes a Temporal client whose credentials rotate.
//!
//! A successful TLS connection does not prove authorization, because the server answers
//! `GetSystemInfo` without a token. [`connect`] therefore ends with a call that requires a
//! permission: `DescribeNamespace` of its own namespace.
//!
//! | what | file |
//! |---|---|
//! | calls in one namespace, and the explanation of failures | `connect/session.rs` |
//! | checks for permissions and pollers | `connect/check.rs` |
//! | the status of a connection | `connect/observer.rs` |
//! | errors and their hints | `connect/error.rs` |

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
    callback_based::CallbackBasedGrpcService,
    errors::{
        ClientConnectError, WorkflowGetResultError, WorkflowInteractionError, WorkflowQueryError,
        WorkflowUpdateError,
    },
};
use temporalio_common::telemetry::metrics::TemporalMeter;
use tonic::{Code, Status};
use tracing::{info, warn};
use url::Url;

use crate::{
    base::{chain, time::whole_seconds},
    credentials::FileWatcher,
    diagnosis::{Diagnose, Diagnosis},
    explain::TokenVerdict,
    settings::{ATTEMPT_LIMIT, ConnectArgs, Settings},
    token::Role,
    transport::{Cause, ConnectStage, ConnectorError, RotatingChannel, sdk_service},
};

pub use error::ConnectError;
pub use observer::Observer;
pub use session::{Session, explain_connection};

/// A Temporal client whose credentials are reloaded as long as it, or a clone of its client, lives.
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

    /// A client with other options over the same connection: another namespace, a data converter,
    /// interceptors. For another namespace, minted tokens need a permission on it: see
    /// [`ClaimsArgs::permissions`](crate::settings::ClaimsArgs).
    ///
    /// # Errors
    /// [`ConnectError::Sdk`], for options that the SDK rejects.
    pub fn client_with(&self, options: ClientOptions) -> Result<Client, ConnectError> {
        Client::new(self.sdk.clone(), options).map_err(|source| ConnectError::Sdk(Box::new(source)))
    }

    /// The session, for calls without the SDK.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The observer of the connection. It may outlive the connection.
    pub fn observer(&self) -> &Observer {
        &self.observer
    }

    /// The status of the connection and its credentials.
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
/// `program` is the default subject of minted tokens.
///
/// Attempts are repeated for up to `--connect-timeout` while the server is still starting, or
/// refuses the token but may accept it after its next fetch of the key set.
///
/// # Errors
/// [`ConnectError`]. Errors that a later attempt would repeat are returned at once.
pub async fn connect(args: &ConnectArgs, program: &str) -> Result<Connection, ConnectError> {
    open(Settings::new(args, program)?)?.connect().await
}

/// A connection that is not established yet. Its credential files are being reloaded.
#[derive(Debug)]
pub struct PendingConnection {
    session: Session,
    observer: Observer,
    connect_timeout: Duration,
    identity: Option<String>,
    meter: Option<TemporalMeter>,
}

/// Prepares a connection without dialling it, and starts to reload the credential files about once
/// a second. Needs a tokio runtime.
///
/// # Errors
/// [`ConnectError::Address`], for a host that does not form a URI.
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
    /// The session, for calls without the SDK.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The observer of the connection. It may outlive the connection.
    pub fn observer(&self) -> &Observer {
        &self.observer
    }

    /// Sets the meter of the SDK's client.
    #[must_use]
    pub fn metrics_meter(mut self, meter: Option<TemporalMeter>) -> Self {
        self.meter = meter;
        self
    }

    /// Sets the identity of this process. The default is `pid@host`, as in the other SDKs.
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
    /// Repeats an authorized call until it succeeds, up to the connect timeout.
    ///
    /// # Errors
    /// [`ConnectError`] of the last attempt. Errors that a later attempt would repeat are returned
    /// at once.
    pub async fn wait_until_authorized(&self) -> Result<(), ConnectError> {
        self.retry_until_ready(async || self.session.probe().await)
            .await
    }

    /// Repeats `attempt` until it succeeds, up to the connect timeout.
    ///
    /// # Errors
    /// [`ConnectError`] of the last attempt. Errors that a later attempt would repeat are returned
    /// at once.
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
            .with_max_delay(LONGEST_PAUSE)
            .without_max_times()
            .with_jitter()
            .build();
        let mut waits = WaitLog::default();
        let (mut first_missing, mut last) = (None, None::<ConnectError>);
        loop {
            // The connector has the same limit, and its error says which stage timed out.
            let limit = remaining().min(ATTEMPT_LIMIT) + Duration::from_millis(250);
            let error = match tokio::time::timeout(limit, attempt()).await {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(error)) => error,
                Err(_) => match last.take() {
                    // Too little time was left for an attempt: the error before it says more.
                    Some(known) if limit < Duration::from_secs(1) => {
                        return Err(known.after(started.elapsed()));
                    }
                    _ => self.no_answer(started.elapsed()),
                },
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
            waits.note(&error, self.connect_timeout, started.elapsed());
            let longest = match error {
                // An attempt that is refused makes three calls to the server.
                ConnectError::Refused { .. } => LONGEST_PAUSE,
                _ => Duration::from_secs(1),
            };
            let pause = pauses.next().unwrap_or(LONGEST_PAUSE).min(longest);
            tokio::time::sleep(pause.min(remaining())).await;
            if remaining().is_zero() {
                return Err(error.after(started.elapsed()));
            }
            last = Some(error);
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

/// The longest pause between two attempts. The jitter can double it.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Logs why there is no connection yet: when the reason appears or changes, and again at growing
/// intervals.
#[derive(Default)]
struct WaitLog {
    logged: Option<(bool, Instant)>,
    pause: Duration,
}

impl WaitLog {
    fn note(&mut self, error: &ConnectError, limit: Duration, waited: Duration) {
        let refused = matches!(error, ConnectError::Refused { .. });
        let due = |(was, at): (bool, Instant)| was != refused || at.elapsed() >= self.pause;
        if !self.logged.is_none_or(due) {
            return;
        }
        self.pause = (self.pause * 2).clamp(Duration::from_secs(10), Duration::from_secs(60));
        self.logged = Some((refused, Instant::now()));
        let Diagnosis { cause, hint, .. } = error.diagnosis();
        let limit = humantime::format_duration(limit);
        let waited = (waited >= Duration::from_secs(1)).then(|| whole_seconds(waited));
        if refused {
            warn!(
                reason = cause, hint, %limit, waited,
                "waiting for the server: it refuses the token, and may accept it after its next fetch of the key set"
            );
        } else {
            info!(reason = cause, %limit, waited, "waiting for the server");
        }
    }
}

impl PendingConnection {
    /// The value for `ConnectionOptions::service_override`, for a caller that makes the SDK's
    /// connection itself. The credentials are reloaded as long as it, or a clone of it, lives.
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
        // The SDK requires a URL and does not dial it: every call goes to the service.
        let url = Url::parse(&format!("http://{}", session.target())).map_err(ConnectError::Url)?;
        let options = ConnectionOptions::new(url)
            .identity(self.identity.unwrap_or_else(identity))
            .service_override(service)
            .maybe_metrics_meter(self.meter)
            // The SDK rejects it together with `service_override`.
            .dns_load_balancing(None)
            .retry_options(
                // The SDK's defaults are 10 attempts and 10 s: less than a restart of the server.
                RetryOptions::builder()
                    .max_elapsed_time(Some(Duration::from_secs(60)))
                    .max_retries(0)
                    .build(),
            )
            .build();
        // The SDK makes one call here and does not retry it.
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

/// Explains a failure that concerns more than this call of the SDK: the message for its status, and
/// the cause.
fn explain(session: &Session, status: &Status, namespace: &str) -> Option<(String, Cause)> {
    // All calls of workers and starters require at most `write`.
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
    let cause = Cause {
        diagnosis: error.diagnosis(),
        may_pass: error.may_pass(false),
    };
    Some((message, cause))
}

/// The status in an error of the SDK that prints it, but does not return it as a source.
fn rpc_status(mut error: anyhow::Error) -> anyhow::Error {
    macro_rules! unwrap {
        ($($kind:ident),*) => {$(
            error = match error.downcast() {
                Ok($kind::Rpc(status)) => return status.into(),
                Ok(other) => return other.into(),
                Err(error) => error,
            };
        )*};
    }
    unwrap!(
        WorkflowGetResultError,
        WorkflowInteractionError,
        WorkflowQueryError,
        WorkflowUpdateError
    );
    error
}

/// Whether the server, or a proxy in front of it, reports a problem of its own. Other answers
/// concern only the call.
fn is_of_the_server(status: &Status) -> bool {
    let unwell = matches!(
        status.code(),
        Code::Unavailable | Code::ResourceExhausted | Code::Internal | Code::Unknown
    );
    unwell && status.source().is_none()
}

/// `pid@host`, the format of the other SDKs, for the Web UI.
fn identity() -> String {
    let host = gethostname::gethostname();
    format!("{}@{}", std::process::id(), host.to_string_lossy())
}
