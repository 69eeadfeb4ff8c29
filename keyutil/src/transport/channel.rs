//! A tonic channel that is replaced when identity or trust changes.

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use http::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{sync::oneshot, time::timeout};
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::{
    Status,
    body::Body,
    transport::{Channel, Endpoint, Error},
};
use tower::{Service, ServiceExt, service_fn};
use tracing::{debug, info, warn};

use super::{
    connector::{Connector, Security, TlsCredentials},
    error::{ConnectStage, ConnectorError},
    stream::TrialResult,
};
use crate::{
    base::chain,
    credentials::{Credential, FileWatcher},
    transport::LocalCause,
};

/// The SDK's own intervals (`ClientKeepAliveOptions`), which the server's
/// `frontend.keepAliveMinTime` allows.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(15);

/// Carries each call over a connection that was made with the newest credentials which the server
/// has accepted.
///
/// When one of them changes, the next call dials a connection with the new ones and waits for the
/// server to say something on it, which it does only to a client whose certificate it accepts.
/// From then on calls go there. Where it does not come to that, calls go on as before, new
/// connections for them are made with the credentials before, and the new ones are tried again
/// later. So what is wrong with a credential and shows only at the server, such as a certificate
/// of a CA that it does not know, or a bundle that does not verify it, changes nothing either.
///
/// The connection before stays for the calls that are on it, long polls among them, and closes
/// after the last: nothing is cut off. Clones share the connection.
///
/// It follows that a CA which is no longer trusted goes on being trusted until the server has
/// shown a certificate of another one. To distrust one at once, restart the process.
#[derive(Clone)]
pub struct RotatingChannel {
    shared: Arc<Shared>,
}

struct Shared {
    connector: Arc<Connector>,
    endpoint: Endpoint,
    live: ArcSwap<Live>,
    trials: TrialState,
    /// Reads the credential files again for as long as a clone of the channel can make calls.
    watcher: OnceLock<FileWatcher>,
}

/// A channel, and what its connections are made with.
struct Live {
    channel: Channel,
    credentials: TlsCredentials,
}

impl RotatingChannel {
    /// Nothing is dialled before the first call. Needs a tokio runtime.
    ///
    /// # Errors
    /// When host and port make no URI.
    pub fn new(connector: Connector) -> Result<Self, http::Error> {
        let target = connector.target();
        // tonic refuses an https URI when TLS is not its own. The connector below does not look at
        // the URI; the server sees the origin.
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
        let live = Live::untried(&connector, &endpoint);
        Ok(Self {
            shared: Arc::new(Shared {
                connector,
                endpoint,
                live: ArcSwap::from_pointee(live),
                trials: TrialState::default(),
                watcher: OnceLock::new(),
            }),
        })
    }

    /// Keeps the task that follows the credential files for as long as any clone lives.
    #[must_use]
    pub fn holding(self, watcher: FileWatcher) -> Self {
        // A second one would follow the same files.
        let _ = self.shared.watcher.set(watcher);
        self
    }

    /// Where it connects to, and what happened there last.
    pub fn connector(&self) -> &Connector {
        &self.shared.connector
    }

    /// What connections for calls are made with now.
    pub fn credentials(&self) -> TlsCredentials {
        self.shared.live.load().credentials.clone()
    }

    /// What is wrong with newer ones, if there are any that did not do.
    pub fn rejection(&self) -> Option<Rejection> {
        let rejection = self.shared.trials.rejection()?;
        let security = self.connector().security();
        rejection
            .credentials
            .is_current(security)
            .then_some(rejection)
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

    /// One call tries the new credentials, and the others do not wait for it.
    #[cold]
    async fn newer(&self) -> Channel {
        let security = self.connector.security();
        if let Some(_alone) = self.trials.begin(security) {
            if let Some(channel) = self.up_to_date() {
                return channel;
            }
            if !self.connector.log().has_answered() {
                // There are none that were accepted, and that calls could go on with.
                self.replace(Live::untried(&self.connector, &self.endpoint));
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
        self.live.load().channel.clone()
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

    fn replace(&self, live: Live) {
        self.live.store(Arc::new(live));
        debug!(
            target = self.connector.target(),
            "new connection for the calls to come, because a credential changed"
        );
    }
}

impl Live {
    fn untried(connector: &Arc<Connector>, endpoint: &Endpoint) -> Self {
        let credentials = TlsCredentials::now(connector.security());
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

/// The name that the certificate is for, unless that is the host which is dialled anyway.
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
        // Which channel it will be is known at the call, so each call waits for its own.
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

/// What tonic makes of the answer of a proxy with HTTP status 431, and the cause.
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

/// For name, TCP, TLS and the server's first words. A call waits for that long at most.
const LIMIT: Duration = Duration::from_secs(5);

/// From one trial of the same credentials to the next: twice as long after each refusal. Short, for
/// a server that comes to accept them may cease to accept those before.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Makes a connection with these credentials, and comes back with it when the server has said
/// something on it.
///
/// HTTP/2 has both sides speak first (RFC 9113 section 3.4), and a server speaks when it is done
/// with the handshake: with TLS 1.3 that is after the client is, and after the client certificate
/// was checked. The calls that follow go over this same connection.
async fn try_credentials(
    connector: &Arc<Connector>,
    endpoint: &Endpoint,
    credentials: &TlsCredentials,
) -> Result<Channel, ConnectorError> {
    let (result, outcome) = oneshot::channel();
    // For the first connection; the later ones are made with credentials that were accepted.
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

/// Without an alert.
fn hung_up(connector: &Connector) -> ConnectorError {
    let source = io::Error::from(io::ErrorKind::UnexpectedEof);
    match connector.security() {
        Security::Plaintext { .. } => ConnectorError::PlaintextClosed,
        Security::Tls { server_name, .. } => {
            ConnectorError::handshake(server_name, &Arc::default(), source)
        }
    }
}

/// What has become of trials, one at a time.
#[derive(Default)]
struct TrialState {
    alone: tokio::sync::Mutex<()>,
    rejection: Mutex<Option<Rejection>>,
}

/// Credentials that did not do, while calls go on with those before.
#[derive(Clone, Debug)]
pub struct Rejection {
    /// Those that were tried.
    pub credentials: TlsCredentials,
    /// What came of it the last time.
    pub error: ConnectorError,
    /// When they were tried for the first time.
    pub since: SystemTime,
    pause: Duration,
    not_before: Instant,
    reported: bool,
}

impl TrialState {
    /// The permission to try, unless somebody else does, or it is too early to try the same again.
    fn begin(&self, security: &Security) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        let alone = self.alone.try_lock().ok()?;
        let rejection = self.rejection.lock();
        let too_early = rejection.as_ref().is_some_and(|rejection| {
            rejection.credentials.is_current(security) && Instant::now() < rejection.not_before
        });
        (!too_early).then_some(alone)
    }

    fn accepted(&self, connector: &Connector) {
        let rejection = self.rejection.lock().take();
        if rejection.is_some_and(|rejection| rejection.reported) {
            info!(
                target = connector.target(),
                "the new credentials are accepted"
            );
        }
    }

    fn rejected(&self, connector: &Connector, credentials: TlsCredentials, error: ConnectorError) {
        let mut rejection = self.rejection.lock();
        let before = rejection
            .take()
            .filter(|before| before.credentials.is_current(connector.security()));
        let pause = match &before {
            // A server that cannot be reached has not said anything of them.
            Some(before) if !error.may_pass() => before.pause.saturating_mul(2).min(LONGEST_PAUSE),
            _ => FIRST_PAUSE,
        };
        let mut reported = before.as_ref().is_some_and(|before| before.reported);
        if !reported && !error.may_pass() {
            reported = true;
            report(connector, &credentials, &error);
        }
        debug!(
            target = connector.target(),
            error = chain(&error),
            ?pause,
            "new credentials were tried, and are not in use"
        );
        *rejection = Some(Rejection {
            credentials,
            error,
            since: before.map_or_else(SystemTime::now, |before| before.since),
            pause,
            not_before: Instant::now() + pause,
            reported,
        });
    }

    fn rejection(&self) -> Option<Rejection> {
        self.rejection.lock().clone()
    }
}

fn report(connector: &Connector, credentials: &TlsCredentials, error: &ConnectorError) {
    let TlsCredentials { identity, trust } = credentials;
    warn!(
        target = connector.target(),
        client_certificate = identity.as_ref().map(|identity| identity.identify()),
        server_ca = trust.as_ref().map(|trust| trust.identify()),
        error = chain(error),
        "no connection with the new credentials: kept those before, trying again"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

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
