//! What happened to the last connection.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::SystemTime,
};

use parking_lot::Mutex;

use super::error::ConnectorError;
use crate::status::Handshake;

/// What happened to the last connection. The HTTP/2 layer between us and the caller keeps the text
/// of an error and loses its type, so the one who explains it looks here.
#[derive(Debug, Default)]
pub struct ConnectionLog {
    attempts: AtomicU64,
    /// The latest attempt that the server has answered on.
    answered: AtomicU64,
    handshakes: AtomicU64,
    failures: AtomicU64,
    /// Whether there is a failure to be cleared, so that a read of a connection which is well
    /// takes no lock.
    failing: AtomicBool,
    standing: Mutex<Option<OngoingFailure>>,
    last_handshake: Mutex<Option<Handshake>>,
}

/// Which connection this is, counted from 1: one with a higher number was dialled later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Attempt(u64);

/// A failure that no later connection has made good.
#[derive(Clone, Debug)]
pub struct OngoingFailure {
    /// Why the last attempt failed.
    pub error: ConnectorError,
    /// When the first of those failed that no success came between.
    pub since: SystemTime,
    attempt: Attempt,
}

impl ConnectionLog {
    /// Why the last connection failed; `None` once the server has answered on a later one.
    pub fn last_failure(&self) -> Option<ConnectorError> {
        self.ongoing_failure().map(|standing| standing.error)
    }

    /// The same, and since when.
    pub fn ongoing_failure(&self) -> Option<OngoingFailure> {
        self.standing.lock().clone()
    }

    /// How many connections have failed, or were ended by an alert.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// How many TLS handshakes were finished, and the server answered after them.
    pub fn handshakes(&self) -> u64 {
        self.handshakes.load(Ordering::Relaxed)
    }

    /// The last of them.
    pub fn last_handshake(&self) -> Option<Handshake> {
        self.last_handshake.lock().clone()
    }

    /// Whether the server has ever answered.
    pub(super) fn has_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed) > 0
    }

    pub(super) fn attempt(&self) -> Attempt {
        Attempt(self.attempts.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Takes the place of the last handshake, and gives that back.
    pub(super) fn record_handshake(&self, handshake: Handshake) -> Option<Handshake> {
        self.handshakes.fetch_add(1, Ordering::Relaxed);
        self.last_handshake.lock().replace(handshake)
    }

    /// The end of a connection that a later one has taken the place of is nobody's trouble.
    pub(super) fn failed(&self, attempt: Attempt, error: ConnectorError) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        if attempt.0 < self.answered.load(Ordering::Relaxed) {
            return;
        }
        let mut standing = self.standing.lock();
        let since = standing.as_ref().map(|standing| standing.since);
        *standing = Some(OngoingFailure {
            error,
            since: since.unwrap_or_else(SystemTime::now),
            attempt,
        });
        self.failing.store(true, Ordering::Release);
    }

    /// The server has sent something. On a connection that is older than the failure that proves
    /// nothing: it stays for its long polls when a new certificate is refused.
    pub(super) fn answered(&self, attempt: Attempt) {
        if self.answered.load(Ordering::Relaxed) < attempt.0 {
            self.answered.fetch_max(attempt.0, Ordering::Relaxed);
        }
        if !self.failing.load(Ordering::Acquire) {
            return;
        }
        let mut standing = self.standing.lock();
        if standing
            .as_ref()
            .is_some_and(|standing| standing.attempt < attempt)
        {
            *standing = None;
            self.failing.store(false, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_stands_until_a_later_connection_answers() {
        let log = ConnectionLog::default();
        let (old, refused, later) = (log.attempt(), log.attempt(), log.attempt());
        log.failed(refused, ConnectorError::NoHttp2);
        let first = log.ongoing_failure().unwrap().since;
        log.answered(old);
        log.answered(refused);
        log.failed(refused, ConnectorError::PlaintextClosed);
        let standing = log.ongoing_failure().unwrap();
        assert_eq!(standing.since, first);
        assert!(matches!(standing.error, ConnectorError::PlaintextClosed));
        log.answered(later);
        assert!(log.ongoing_failure().is_none());
        log.failed(old, ConnectorError::NoHttp2);
        assert!(log.ongoing_failure().is_none());
        assert_eq!(log.failures(), 3);
    }
}
