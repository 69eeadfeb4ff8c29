//! A tonic channel that moves to a new connection when the client certificate or the CAs change.

use std::{
    fmt,
    future::{self, Future},
    io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use backon::{BackoffBuilder, ConstantBuilder};
use http::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{sync::oneshot, time::timeout};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_util::task::AbortOnDropHandle;
use tonic::{
    Status,
    body::Body,
    transport::{Channel, Endpoint, Error},
};
use tower::{Service, ServiceExt, service_fn};
use tracing::{debug, error, info, warn};

use super::{
    connector::{Connector, Security, TlsCredentials},
    error::{ConnectStage, ConnectorError},
    stream::TrialResult,
};
use crate::{
    base::chain,
    credentials::{Credential, FileWatcher},
    status::RemovedCa,
    transport::LocalCause,
};

/// A dead connection is found after 20 s, before the calls on it reach their deadline of 30 s, so
/// that they are repeated on another one. The SDK's own intervals (`ClientKeepAliveOptions`), 30 s
/// and 15 s, are too long for that. Pings closer together than the server's
/// `frontend.keepAliveMinTime`, 10 s, are answered with GOAWAY.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(12);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(8);

/// A channel whose connection uses the newest TLS credentials that the server has accepted.
///
/// When a credential changes, the next call, or a task if there is none, makes a trial connection
/// with the new credentials. It waits for the first data from the server, which arrives only after
/// the server has accepted the client certificate. If the trial succeeds, calls move to that
/// connection. If it fails, calls and new connections keep the previous credentials, and the trial
/// is repeated later. A credential whose defect shows only at the server, such as a certificate of
/// an unknown CA, therefore changes nothing.
///
/// The previous connection stays open for the calls on it, including long polls, and closes after
/// the last one. Clones share the connection.
///
/// A CA that is removed from the bundle is trusted for `--distrust-after` at most. Until then calls
/// keep the connection that this CA verified, unless a trial with the new bundle succeeds. After
/// that time calls use only the new bundle, even if no connection can be made with it.
#[derive(Clone)]
pub struct RotatingChannel {
    shared: Arc<Shared>,
    /// The task that makes the trials when there are no calls, as long as a clone of the channel
    /// lives.
    _following: Arc<AbortOnDropHandle<()>>,
}

struct Shared {
    connector: Arc<Connector>,
    endpoint: Endpoint,
    live: ArcSwap<Live>,
    trials: TrialState,
    /// Reloads the credential files as long as a clone of the channel lives.
    watcher: OnceLock<FileWatcher>,
}

/// A channel, and the credentials of its connections.
struct Live {
    channel: Channel,
    credentials: TlsCredentials,
}

impl RotatingChannel {
    /// Makes a channel without dialling. Needs a tokio runtime.
    ///
    /// # Errors
    /// An error if host and port do not form a URI.
    pub fn new(connector: Connector) -> Result<Self, http::Error> {
        let target = connector.target();
        // tonic rejects an https URI unless TLS is its own. The connector below ignores the URI,
        // and the server sees the origin.
        let (scheme, authority) = match connector.security() {
            Security::Plaintext { .. } => ("http", target.clone()),
            Security::Tls { server_name, .. } => ("https", authority(server_name, &target)),
        };
        let origin = Uri::builder()
            .scheme(scheme)
            .authority(authority)
            .path_and_query("/")
            .build()?;
        let placeholder = Uri::builder()
            .scheme("http")
            .authority(target)
            .path_and_query("/")
            .build()?;
        let endpoint = Endpoint::from(placeholder)
            .origin(origin)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        let connector = Arc::new(connector);
        let credentials = TlsCredentials::now(connector.security());
        let live = Live::untried(&connector, &endpoint, credentials);
        let shared = Arc::new(Shared {
            connector,
            endpoint,
            live: ArcSwap::from_pointee(live),
            trials: TrialState::default(),
            watcher: OnceLock::new(),
        });
        let following = tokio::spawn({
            let shared = shared.clone();
            async move { shared.follow().await }
        });
        Ok(Self {
            shared,
            _following: Arc::new(AbortOnDropHandle::new(following)),
        })
    }

    /// Keeps the file watcher running as long as a clone of the channel lives.
    #[must_use]
    pub fn holding(self, watcher: FileWatcher) -> Self {
        // A second watcher would read the same files.
        let _ = self.shared.watcher.set(watcher);
        self
    }

    /// The connector, with the log of its connections.
    pub fn connector(&self) -> &Connector {
        &self.shared.connector
    }

    /// The credentials of new connections.
    pub fn credentials(&self) -> TlsCredentials {
        self.shared.live.load().credentials.clone()
    }

    /// The rejected newer credentials, if there are any.
    pub fn rejection(&self) -> Option<Rejection> {
        let rejection = self.shared.trials.rejection()?;
        let security = self.connector().security();
        rejection
            .credentials
            .is_current(security)
            .then_some(rejection)
    }

    /// The CA that verifies the server and is no longer in the file, once a trial or a connection
    /// with the new bundle has failed.
    pub fn removed_ca(&self) -> Option<RemovedCa> {
        let removed = self.connector().removed_ca()?;
        let failed = if removed.refused_at > SystemTime::now() {
            let rejection = self.shared.trials.rejection();
            rejection.is_some_and(|rejection| rejection.reported)
        } else {
            self.connector().log().ongoing_failure().is_some()
        };
        failed.then_some(removed)
    }

    async fn channel(&self) -> Channel {
        match self.shared.up_to_date() {
            Some(channel) => channel,
            None => self.shared.newer().await,
        }
    }
}

impl Shared {
    fn up_to_date(&self) -> Option<Channel> {
        let live = self.live.load();
        let up_to_date = live.credentials.is_current(self.connector.security());
        up_to_date.then(|| live.channel.clone())
    }

    /// Makes the trial of new credentials if no call does: an idle worker may make its next call
    /// only after a minute.
    async fn follow(&self) {
        let security = self.connector.security();
        loop {
            let known = TlsCredentials::now(security);
            if self.up_to_date().is_none() {
                self.newer().await;
            }
            let again = async {
                match self.up_to_date() {
                    Some(_) => future::pending().await,
                    // Does nothing while it is too early for another trial.
                    None => tokio::time::sleep(FIRST_PAUSE).await,
                }
            };
            tokio::select! {
                () = known.replaced(security) => {}
                () = again => {}
            }
        }
    }

    /// One caller makes the trial; the others do not wait for it.
    #[cold]
    async fn newer(&self) -> Channel {
        self.obey_removals();
        let security = self.connector.security();
        if let Some(_alone) = self.trials.begin(&self.connector) {
            if let Some(channel) = self.up_to_date() {
                return channel;
            }
            if !self.connector.log().has_answered() {
                // No credentials have been accepted before, so there are none to keep.
                let credentials = TlsCredentials::now(security);
                self.replace(Live::untried(&self.connector, &self.endpoint, credentials));
            } else {
                let credentials = TlsCredentials::now(security);
                match try_credentials(&self.connector, &self.endpoint, &credentials).await {
                    Ok(channel) => {
                        self.trials.accepted(&self.connector);
                        self.replace(Live {
                            channel,
                            credentials,
                        });
                    }
                    Err(error) if error.is_revoked() && self.obey_revocation(&credentials) => {
                        error!(
                            target = self.connector.target(),
                            error = chain(&error),
                            "the certificate of the server is revoked: new calls do not use the \
                             previous connection"
                        );
                    }
                    Err(error) => {
                        let reached = !error.may_pass();
                        self.trials
                            .rejected(&self.connector, credentials.clone(), error);
                        if reached {
                            self.try_partial_updates(&credentials).await;
                        }
                    }
                }
            }
        }
        // Once more, because the server decides how long the trial took.
        self.obey_removals();
        self.live.load().channel.clone()
    }

    /// Stops using a connection that a CA which is now distrusted may have verified, or that was
    /// verified with outdated revocation lists.
    fn obey_removals(&self) {
        let live = self.live.load();
        let Some(credentials) = live
            .credentials
            .without_distrusted(self.connector.security())
        else {
            return;
        };
        let removed = self.connector.removed_ca();
        let next = Live::untried(&self.connector, &self.endpoint, credentials);
        let before = self.live.compare_and_swap(&*live, Arc::new(next));
        // If they differ, another caller was faster.
        if Arc::ptr_eq(&before, &live) {
            self.trials.forget();
            if let Some(removed) = removed {
                error!(target = self.connector.target(), "{removed}");
            }
        }
    }

    async fn try_partial_updates(&self, new: &TlsCredentials) {
        let before = self.live.load().credentials.clone();
        for credentials in before.partial_updates(new) {
            if let Ok(channel) =
                try_credentials(&self.connector, &self.endpoint, &credentials).await
            {
                return self.replace(Live {
                    channel,
                    credentials,
                });
            }
        }
    }

    /// Stops using the connection if it was verified with earlier revocation lists. Returns whether
    /// it was.
    fn obey_revocation(&self, new: &TlsCredentials) -> bool {
        let held = self.live.load().credentials.clone();
        let credentials = TlsCredentials {
            revoked: new.revoked.clone(),
            ..held.clone()
        };
        let newer = !credentials.same(&held);
        if newer {
            self.replace(Live::untried(&self.connector, &self.endpoint, credentials));
        }
        newer
    }

    fn replace(&self, live: Live) {
        self.live.store(Arc::new(live));
        debug!(
            target = self.connector.target(),
            "new calls use a new connection, because a credential changed"
        );
    }
}

impl Live {
    fn untried(
        connector: &Arc<Connector>,
        endpoint: &Endpoint,
        credentials: TlsCredentials,
    ) -> Self {
        let connector = service_fn({
            let (connector, credentials) = (connector.clone(), credentials.clone());
            move |_: Uri| {
                let (connector, credentials) = (connector.clone(), credentials.clone());
                async move {
                    connector
                        .connect(&credentials, None)
                        .await
                        .map(TokioIo::new)
                }
            }
        });
        Self {
            channel: endpoint.connect_with_connector_lazy(connector),
            credentials,
        }
    }
}

/// The `:authority` of the calls: the server name, or the target where the host is the same.
fn authority(server_name: &ServerName<'_>, target: &str) -> String {
    let name = server_name.to_str();
    let host = target.rsplit_once(':').map_or(target, |(host, _)| host);
    if host == name || host.trim_matches(['[', ']']) == name {
        return target.to_owned();
    }
    match server_name {
        ServerName::IpAddress(_) if name.contains(':') => format!("[{name}]"),
        _ => name.into_owned(),
    }
}

impl Service<Request<Body>> for RotatingChannel {
    type Response = Response<Body>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        // The channel is selected at the call, and the call waits until that channel is ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let rotating = self.clone();
        Box::pin(async move {
            let response = rotating.channel().await.oneshot(request).await?;
            Ok(match response.status() {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => too_large().into_http(),
                _ => response,
            })
        })
    }
}

/// The status that tonic makes of HTTP status 431 from a proxy, marked with its cause.
fn too_large() -> Status {
    let message = "grpc-status header missing, mapped from HTTP status code 431";
    LocalCause::HeadersTooLarge.mark(Status::unknown(message))
}

impl fmt::Debug for RotatingChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RotatingChannel")
            .field("dial", &self.shared.connector)
            .finish_non_exhaustive()
    }
}

/// Limit for name, TCP, TLS and the first data from the server. It bounds how long a call waits for
/// a trial.
const LIMIT: Duration = Duration::from_secs(5);

/// Pause between two trials of the same credentials, doubled after each rejection. A random part of
/// up to the same length is added, so that many workers do not try at the same time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Limit for the pause while the connection in use fails: the server may have started to accept the
/// new credentials and to reject the previous ones.
const PAUSE_WHILE_FAILING: Duration = Duration::from_secs(5);

/// Makes a connection with these credentials, and returns it when the server has sent data.
///
/// In HTTP/2 both sides send a preface (RFC 9113 section 3.4). The server sends its preface after
/// the handshake, which with TLS 1.3 means after it has checked the client certificate. Calls then
/// use this same connection.
async fn try_credentials(
    connector: &Arc<Connector>,
    endpoint: &Endpoint,
    credentials: &TlsCredentials,
) -> Result<Channel, ConnectorError> {
    let (result, outcome) = oneshot::channel();
    // For the first connection only: reconnects use credentials that were accepted.
    let result = Arc::new(Mutex::new(Some(TrialResult(result))));
    let connecting = service_fn({
        let (connector, credentials) = (connector.clone(), credentials.clone());
        move |_: Uri| {
            let (connector, credentials) = (connector.clone(), credentials.clone());
            let result = result.lock().take();
            async move {
                connector
                    .connect(&credentials, result)
                    .await
                    .map(TokioIo::new)
            }
        }
    });
    let tried = async {
        let connected = endpoint.connect_with_connector(connecting).await;
        outcome.await.unwrap_or_else(|_| Err(hung_up(connector)))?;
        connected.map_err(|_| hung_up(connector))
    };
    let tried = timeout(LIMIT, tried).await;
    tried.unwrap_or(Err(ConnectorError::TimedOut {
        stage: ConnectStage::Answer,
        after: LIMIT,
    }))
}

/// The error of a connection that was closed without an alert.
fn hung_up(connector: &Connector) -> ConnectorError {
    let source = io::Error::from(io::ErrorKind::UnexpectedEof);
    match connector.security() {
        Security::Plaintext { .. } => ConnectorError::PlaintextClosed,
        Security::Tls { server_name, .. } => {
            ConnectorError::handshake(server_name, &Arc::default(), source)
        }
    }
}

/// The state of the trials, of which one runs at a time.
#[derive(Default)]
struct TrialState {
    alone: tokio::sync::Mutex<()>,
    rejection: Mutex<Option<Rejection>>,
}

/// Credentials that the server rejected, while calls keep the previous ones.
#[derive(Clone, Debug)]
pub struct Rejection {
    /// The rejected credentials.
    pub credentials: TlsCredentials,
    /// The error of the last trial.
    pub error: ConnectorError,
    /// The time of the first trial.
    pub since: SystemTime,
    last_trial: SystemTime,
    pause: Duration,
    not_before: Instant,
    reported: bool,
}

impl Rejection {
    /// Whether it is too early for another trial. A connection in use that has failed since the
    /// last one is a reason to try at once.
    fn is_recent(&self, connector: &Connector) -> bool {
        let now = Instant::now();
        match connector.log().ongoing_failure() {
            Some(failure) if failure.since > self.last_trial => false,
            Some(_) => {
                let waited = self.last_trial.elapsed().unwrap_or_default();
                now < self.not_before && waited < PAUSE_WHILE_FAILING
            }
            None => now < self.not_before,
        }
    }
}

impl TrialState {
    /// Permission to make a trial, unless one is running or it is too early to repeat the last one.
    fn begin(&self, connector: &Connector) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        let alone = self.alone.try_lock().ok()?;
        let rejection = self.rejection.lock();
        let too_early = rejection.as_ref().is_some_and(|rejection| {
            rejection.credentials.is_current(connector.security()) && rejection.is_recent(connector)
        });
        (!too_early).then_some(alone)
    }

    fn accepted(&self, connector: &Connector) {
        let rejection = self.rejection.lock().take();
        if rejection.is_some_and(|rejection| rejection.reported) {
            info!(
                target = connector.target(),
                "the server accepted the new credentials"
            );
        }
    }

    fn rejected(&self, connector: &Connector, credentials: TlsCredentials, error: ConnectorError) {
        let mut rejection = self.rejection.lock();
        let before = rejection
            .take()
            .filter(|before| before.credentials.is_current(connector.security()));
        let pause = match &before {
            // An unreachable server says nothing about the credentials.
            Some(before) if !error.may_pass() => before.pause.saturating_mul(2).min(LONGEST_PAUSE),
            _ => FIRST_PAUSE,
        };
        let mut reported = before.as_ref().is_some_and(|before| before.reported);
        let removed = connector.removed_ca();
        // Time-outs count, too: an attacker with a certificate of the removed CA can let every
        // trial time out.
        let lasts = removed.as_ref().is_some_and(RemovedCa::lasts);
        if !reported && (!error.may_pass() || lasts) {
            reported = true;
            report(connector, &credentials, &error, removed);
        }
        debug!(
            target = connector.target(),
            error = chain(&error),
            ?pause,
            "the trial of the new credentials failed"
        );
        let jittered = ConstantBuilder::default().with_delay(pause).with_jitter();
        let jittered = jittered.build().next().unwrap_or(pause);
        *rejection = Some(Rejection {
            credentials,
            error,
            since: before.map_or_else(SystemTime::now, |before| before.since),
            last_trial: SystemTime::now(),
            pause,
            not_before: Instant::now() + jittered,
            reported,
        });
    }

    fn forget(&self) {
        *self.rejection.lock() = None;
    }

    fn rejection(&self) -> Option<Rejection> {
        self.rejection.lock().clone()
    }
}

fn report(
    connector: &Connector,
    credentials: &TlsCredentials,
    error: &ConnectorError,
    removed: Option<RemovedCa>,
) {
    let TlsCredentials {
        identity, trust, ..
    } = credentials;
    // The new CAs may have verified the server before it refused the client certificate.
    if let Some(removed) = removed
        && error.client_certificate_alert().is_none()
    {
        warn!(
            target = connector.target(),
            server_ca = trust.as_ref().map(|trust| trust.identify()),
            error = chain(error),
            "{removed}"
        );
        return;
    }
    warn!(
        target = connector.target(),
        client_certificate = identity.as_ref().map(|identity| identity.identify()),
        server_ca = trust.as_ref().map(|trust| trust.identify()),
        error = chain(error),
        "the new credentials were rejected: kept the previous ones, will try again"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejection_that_lasts_is_tried_again_after_a_minute_or_when_the_connection_in_use_fails() {
        let security = Security::Plaintext {
            loopback_only: true,
        };
        let connector = Connector::new("127.0.0.1", 7233, security);
        let rejected = || ConnectorError::NoHttp2;
        let pauses = (0..20).map(|_| {
            let trials = TrialState::default();
            for _ in 0..10 {
                trials.rejected(&connector, TlsCredentials::default(), rejected());
            }
            assert!(trials.begin(&connector).is_none());
            let not_before = trials.rejection().unwrap().not_before;
            not_before.duration_since(Instant::now()).as_secs()
        });
        let pauses: std::collections::BTreeSet<_> = pauses.collect();
        assert!(
            pauses.iter().all(|pause| (29..=60).contains(pause)),
            "{pauses:?}"
        );
        assert!(pauses.len() > 3, "{pauses:?}");

        let trials = TrialState::default();
        trials.rejected(&connector, TlsCredentials::default(), rejected());
        assert!(trials.begin(&connector).is_none());
        let log = connector.log();
        log.failed(log.attempt(), rejected());
        assert!(trials.begin(&connector).is_some());
        // The same failure is not a reason to try again at once.
        trials.rejected(&connector, TlsCredentials::default(), rejected());
        assert!(trials.begin(&connector).is_none());
    }

    #[test]
    fn the_authority_is_the_name_that_was_asked_for() {
        for (name, target, expected) in [
            ("localhost", "localhost:7233", "localhost:7233"),
            ("temporal.example", "10.0.0.1:7233", "temporal.example"),
            ("::1", "[::1]:7233", "[::1]:7233"),
            ("::2", "[::1]:7233", "[::2]"),
        ] {
            let name = ServerName::try_from(name).unwrap();
            assert_eq!(authority(&name, target), expected);
        }
    }
}
