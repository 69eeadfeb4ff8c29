//! From settings to a Temporal client that stays authorized.
//!
//! A successful connect proves nothing, because the server answers `GetSystemInfo` without a
//! token. So [`connect`] ends with a call that takes permission: `DescribeNamespace` of its own
//! namespace.

use std::{
    fmt,
    time::{Duration, Instant},
};

use backon::{BackoffBuilder, ExponentialBuilder, Retryable};
use temporalio_client::{
    Client, ClientOptions, ConnectionOptions, RetryOptions, errors::ClientConnectError,
};
use temporalio_common::telemetry::metrics::TemporalMeter;
use tonic::{Code, Status, service::interceptor::InterceptedService};
use tracing::{info, warn};
use url::Url;

mod diagnose;
mod error;
mod observer;

pub use error::ConnectError;
pub use observer::Observer;

use self::diagnose::{connection_failed, dial_error, explain_refusal, failed_with};
use crate::{
    args::ConnectArgs,
    chain,
    credentials::Watch,
    jwt::Role,
    namespace,
    settings::Settings,
    transport::{AuthorizedChannel, Bearer, DialError, RotatingChannel, bearer, bridge::Bridge},
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

    /// How the connection and its credentials are doing now.
    pub fn status(&self) -> crate::Status {
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
pub struct Opened {
    settings: OpenedSettings,
    channel: RotatingChannel,
    bearer: Bearer,
    observer: Observer,
    meter: Option<TemporalMeter>,
    watch: Watch,
}

#[derive(Debug)]
struct OpenedSettings {
    namespace: String,
    compression: Option<tonic::codec::CompressionEncoding>,
    connect_timeout: Duration,
}

/// Makes the channel. Nothing is dialled before the first call; the files are looked at from now
/// on. Needs a tokio runtime.
///
/// # Errors
/// [`ConnectError::Address`], for a host that makes no URI.
pub fn open(settings: Settings) -> Result<Opened, ConnectError> {
    for warning in &settings.warnings {
        warn!("{warning}");
    }
    let watch = Watch::start(settings.watched());
    let channel = RotatingChannel::new(settings.dial).map_err(ConnectError::Address)?;
    let bearer = Bearer::new(settings.token);
    let observer = Observer::new(&channel, &bearer, &settings.namespace);
    Ok(Opened {
        channel,
        bearer,
        observer,
        meter: None,
        settings: OpenedSettings {
            namespace: settings.namespace,
            compression: settings.compression,
            connect_timeout: settings.connect_timeout,
        },
        watch,
    })
}

impl Opened {
    /// What calls go through.
    pub fn channel(&self) -> AuthorizedChannel {
        InterceptedService::new(self.channel.clone(), self.bearer.clone())
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

    /// Asks until the answer is yes, or one that waiting cannot change, or the time is up.
    ///
    /// # Errors
    /// [`ConnectError`], with the reason of the last attempt.
    pub async fn wait_until_authorized(&self) -> Result<(), ConnectError> {
        self.patiently(async || self.probe().await).await
    }

    /// Repeats an attempt until it succeeds, or fails in a way that waiting cannot cure, or the
    /// time is up.
    pub(crate) async fn patiently<T>(
        &self,
        attempt: impl AsyncFn() -> Result<T, ConnectError>,
    ) -> Result<T, ConnectError> {
        let started = Instant::now();
        let remaining = || {
            let limit = self.settings.connect_timeout;
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
            let error = match tokio::time::timeout(remaining(), attempt()).await {
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
                    limit = %humantime::format_duration(self.settings.connect_timeout),
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

    /// One authorized call in the namespace.
    ///
    /// # Errors
    /// [`ConnectError`], with the refusal or failure explained.
    pub async fn probe(&self) -> Result<(), ConnectError> {
        let namespace = &self.settings.namespace;
        namespace::describe(self.channel(), namespace)
            .await
            .map_err(|status| self.explain(status, namespace, Role::Read))
    }

    /// What a failed call in `namespace` that takes `needed` means.
    pub fn explain(&self, status: Status, namespace: &str, needed: Role) -> ConnectError {
        let target = self.channel.dial().target();
        let namespace = namespace.to_owned();
        match status.code() {
            Code::PermissionDenied | Code::Unauthenticated => ConnectError::Refused {
                bore_token: self.bearer.source().is_some(),
                explanation: explain_refusal(&self.bearer, &namespace, needed),
                target,
                namespace,
                status,
            },
            Code::NotFound => ConnectError::NoNamespace { target, namespace },
            Code::Unavailable if status.message().starts_with(bearer::NOT_SENT) => {
                ConnectError::NoToken {
                    reason: status.message().to_owned(),
                }
            }
            _ => match dial_error(&self.channel, &status) {
                Some(source) => connection_failed(&self.channel, source),
                None => ConnectError::Call { target, status },
            },
        }
    }

    fn no_answer(&self, waited: Duration) -> ConnectError {
        match self.channel.dial().journal().last_failure() {
            Some(source) => connection_failed(&self.channel, source),
            None => ConnectError::Unreachable {
                target: self.channel.dial().target(),
                waited: None,
                source: DialError::TimedOut { after: waited },
            },
        }
    }

    async fn into_client(self) -> Result<Connection, ConnectError> {
        let target = self.channel.dial().target();
        let channel = self.channel();
        let (bearer, namespace) = (self.bearer.clone(), self.settings.namespace.clone());
        let bridge = Bridge {
            channel: channel.clone(),
            compression: self.settings.compression,
            target: target.clone(),
            explain_failure: Box::new({
                let channel = self.channel.clone();
                move |status| {
                    let source = dial_error(&channel, status)?;
                    Some(chain(&connection_failed(&channel, source)))
                }
            }),
            // All that workers and starters do takes `write`.
            explain_refusal: Box::new(move || explain_refusal(&bearer, &namespace, Role::Write)),
            calls: self.observer.calls(),
            watch: self.watch,
        };
        // The SDK needs a URL and dials none: every call goes to the service.
        let url = Url::parse(&format!("http://{target}")).map_err(ConnectError::Url)?;
        let options = ConnectionOptions::new(url)
            .identity(identity())
            .service_override(bridge.into_service())
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
        let connection = (|| temporalio_client::Connection::connect(options.clone()))
            .retry(ExponentialBuilder::default().with_max_times(5))
            .when(|error| {
                matches!(error, ClientConnectError::SystemInfoCallError(status)
                    if status.code() == Code::Unavailable)
            })
            .await
            .map_err(|source| ConnectError::Sdk(Box::new(source)))?;
        let client = Client::new(
            connection,
            ClientOptions::new(self.settings.namespace).build(),
        )
        .map_err(|source| ConnectError::Sdk(Box::new(source)))?;
        Ok(Connection {
            client,
            channel,
            target,
            observer: self.observer,
        })
    }
}

/// `pid@host`, as the other SDKs have it: what people look for in the Web UI.
fn identity() -> String {
    let host = gethostname::gethostname();
    format!("{}@{}", std::process::id(), host.to_string_lossy())
}
