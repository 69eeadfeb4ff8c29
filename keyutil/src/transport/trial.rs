//! New credentials are tried on a connection of their own before calls go over them.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use http::Uri;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{sync::oneshot, time::timeout};
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;
use tracing::{debug, info, warn};

use super::{
    connector::Connector,
    error::{ConnectStage, ConnectorError},
    security::{Security, TlsCredentials},
    stream::TrialResult,
};
use crate::{base::chain, credentials::Credential};

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
pub(super) async fn run(
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
pub(super) struct TrialState {
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
    pub(super) fn begin(&self, security: &Security) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        let alone = self.alone.try_lock().ok()?;
        let rejection = self.rejection.lock();
        let too_early = rejection.as_ref().is_some_and(|rejection| {
            rejection.credentials.is_current(security) && Instant::now() < rejection.not_before
        });
        (!too_early).then_some(alone)
    }

    pub(super) fn accepted(&self, connector: &Connector) {
        let rejection = self.rejection.lock().take();
        if rejection.is_some_and(|rejection| rejection.reported) {
            info!(
                target = connector.target(),
                "the new credentials are accepted"
            );
        }
    }

    pub(super) fn rejected(
        &self,
        connector: &Connector,
        credentials: TlsCredentials,
        error: ConnectorError,
    ) {
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

    pub(super) fn rejection(&self) -> Option<Rejection> {
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
