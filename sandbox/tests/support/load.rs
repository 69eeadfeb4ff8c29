//! Workflows in flight for as long as a test wants them.

use std::time::Duration;

use keyutil::{ConnectArgs, Connection};
use sandbox::soak::load::{self, Load};
use tokio::time::timeout;

/// Between the end of a workflow and the start of the next in its place. Without a pause, the load of
/// one test takes all that two cores can do, and eight tests run at a time.
const PAUSE: Duration = Duration::from_millis(500);

/// A starter within the test's own process.
pub struct InFlight(load::InFlight);

impl InFlight {
    /// Ten at a time, until it is stopped.
    pub async fn start(args: &ConnectArgs) -> Self {
        Self::start_with_pause(args, PAUSE).await
    }

    /// The same without a pause, where the worker must have something in hand at any moment.
    pub async fn start_without_pause(args: &ConnectArgs) -> Self {
        Self::start_with_pause(args, Duration::ZERO).await
    }

    async fn start_with_pause(args: &ConnectArgs, pause: Duration) -> Self {
        let started = Self(load::InFlight::start(args, 10, pause).await.unwrap());
        started.more(10).await;
        started
    }

    pub fn connection(&self) -> &Connection {
        &self.0.connection
    }

    /// Waits until so many more have ended well.
    pub async fn more(&self, count: usize) {
        let before = self.0.load.counts().0;
        let more = async {
            while self.0.load.counts().0 < before + count {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = timeout(super::LIMIT, more).await;
        assert!(
            waited.is_ok(),
            "the work has stopped: {:?}",
            self.failures()
        );
    }

    /// Why workflows have failed so far.
    pub fn failures(&self) -> Vec<String> {
        failures_of(&self.0.load)
    }

    /// Asserts that work goes on, ends it, and asserts that none of it has failed.
    pub async fn stop(self) {
        self.more(20).await;
        let stopped = timeout(super::LIMIT, self.0.stop()).await;
        let (_connection, load) = stopped.unwrap().unwrap();
        assert_eq!(failures_of(&load), [""; 0]);
    }
}

fn failures_of(load: &Load) -> Vec<String> {
    let samples = load.samples().into_iter();
    samples.filter_map(|sample| sample.failure).collect()
}
