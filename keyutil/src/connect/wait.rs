//! A server that is still starting is waited for; what waiting cannot cure ends it at once.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use tracing::info;

use super::{ConnectError, PendingConnection};
use crate::{
    base::chain,
    transport::{ConnectStage, ConnectorError},
};

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
