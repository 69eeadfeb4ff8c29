//! A connection, its log, and the TLS alert that ended it.
//!
//! With TLS 1.3 the server's rejection of the client certificate arrives with the first read, after
//! the handshake. A write often fails first, with an uninformative `broken pipe`. The alert can
//! still be read at that point, so a failed write reads for an alert before its error is returned.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::oneshot,
    time::Sleep,
};
use tokio_rustls::client::TlsStream;

use super::addresses::AddressAttempt;
use super::error::{ConnectorError, alert_in};
use crate::{
    status::Handshake,
    transport::peer::{PeerInfo, Secured, report},
};

/// A connection to the server.
pub(super) struct Stream {
    protection: Protection,
    /// Records answers and alerts: the HTTP/2 layer above keeps only the text of an error.
    log: Arc<ConnectionLog>,
    attempt: Attempt,
    pending: Pending,
}

/// What is pending until the first data from the server. Until then a client of TLS 1.3 has
/// finished its handshake and does not know whether its certificate is accepted.
pub(super) struct Pending {
    pub(super) target: String,
    pub(super) secured: Option<Secured>,
    pub(super) result: Option<TrialResult>,
    pub(super) address: AddressAttempt,
}

/// Reports the outcome of a trial. A connection that the server closes without an alert reports
/// nothing.
pub(super) struct TrialResult(pub(super) oneshot::Sender<Result<(), ConnectorError>>);

impl TrialResult {
    /// The receiver is gone if the trial has timed out.
    fn accepted(self) {
        let _ = self.0.send(Ok(()));
    }

    pub(super) fn refused(self, error: ConnectorError) {
        let _ = self.0.send(Err(error));
    }
}

/// TCP, with or without TLS.
pub(super) enum Protection {
    Plain(TcpStream),
    Tls(Box<Encrypted>),
}

pub(super) struct Encrypted {
    tls: TlsStream<TcpStream>,
    failed_write: Option<FailedWrite>,
}

/// A failed write, while the alert is being read.
struct FailedWrite {
    error: io::Error,
    give_up: Pin<Box<Sleep>>,
}

/// Time limit for reading the alert. It has usually arrived already, and only the reactor has to
/// notice.
const ALERT_LIMIT: Duration = Duration::from_millis(250);

impl Stream {
    pub(super) fn new(
        protection: Protection,
        log: Arc<ConnectionLog>,
        attempt: Attempt,
        pending: Pending,
    ) -> Self {
        Self {
            protection,
            log,
            attempt,
            pending,
        }
    }

    /// Records that the server has sent data.
    fn answered(&mut self) {
        self.log.answered(self.attempt);
        self.pending.address.answered();
        if let Some(secured) = self.pending.secured.take() {
            let before = self.log.record_handshake(secured.clone());
            let before = before.as_ref().map(|before| &before.handshake);
            report(&self.pending.target, &secured.handshake, before);
        }
        if let Some(result) = self.pending.result.take() {
            result.accepted();
        }
    }

    /// Records the alert, if an alert ended the connection.
    fn note<T>(&mut self, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &done
            && let Some(alert) = alert_in(error)
        {
            let secured = self.pending.secured.as_ref();
            let peer = secured.map(|secured| secured.peer.clone());
            let error = ConnectorError::Alert { alert, peer };
            match self.pending.result.take() {
                Some(result) => result.refused(error),
                None => self.log.failed(self.attempt, error),
            }
        }
        done
    }
}

impl Protection {
    pub(super) fn tls(tls: TlsStream<TcpStream>) -> Self {
        Self::Tls(Box::new(Encrypted {
            tls,
            failed_write: None,
        }))
    }
}

impl Encrypted {
    /// Writes. If the write fails, the error is the alert if there is one, and otherwise the error
    /// of the write.
    fn write<T>(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut TlsStream<TcpStream>>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if self.failed_write.is_none() {
            match write(Pin::new(&mut self.tls), context) {
                Poll::Ready(Err(error)) => {
                    self.failed_write = Some(FailedWrite {
                        error,
                        give_up: Box::pin(tokio::time::sleep(ALERT_LIMIT)),
                    });
                }
                done_or_pending => return done_or_pending,
            }
        }
        self.read_for_alert(context).map(Err)
    }

    fn read_for_alert(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        // Data before the alert is discarded: the connection is dead.
        let mut scratch = [0; 4096];
        let found = loop {
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.tls).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(Err(error)) if alert_in(&error).is_some() => {
                    break Some(error);
                }
                Poll::Ready(_) => break None,
                Poll::Pending => {
                    let Some(failed) = &mut self.failed_write else {
                        return Poll::Pending;
                    };
                    ready!(failed.give_up.as_mut().poll(context));
                    break None;
                }
            }
        };
        let failed = self.failed_write.take();
        let error = found.or(failed.map(|failed| failed.error));
        Poll::Ready(error.unwrap_or_else(|| io::ErrorKind::BrokenPipe.into()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        let before = buffer.filled().len();
        let read = match &mut stream.protection {
            Protection::Plain(tcp) => Pin::new(tcp).poll_read(context, buffer),
            Protection::Tls(encrypted) => Pin::new(&mut encrypted.tls).poll_read(context, buffer),
        };
        if matches!(read, Poll::Ready(Ok(()))) && buffer.filled().len() > before {
            stream.answered();
        }
        stream.note(read)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let stream = self.get_mut();
        let written = match &mut stream.protection {
            Protection::Plain(tcp) => Pin::new(tcp).poll_write(context, bytes),
            Protection::Tls(encrypted) => {
                encrypted.write(context, |tls, context| tls.poll_write(context, bytes))
            }
        };
        stream.note(written)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        let flushed = match &mut stream.protection {
            Protection::Plain(tcp) => Pin::new(tcp).poll_flush(context),
            Protection::Tls(encrypted) => {
                encrypted.write(context, |tls, context| tls.poll_flush(context))
            }
        };
        stream.note(flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().protection {
            Protection::Plain(tcp) => Pin::new(tcp).poll_shutdown(context),
            Protection::Tls(encrypted) => Pin::new(&mut encrypted.tls).poll_shutdown(context),
        }
    }
}

/// The log of the connections to one server. The HTTP/2 layer keeps the text of an error and loses
/// its type, so errors are explained from this log.
#[derive(Debug, Default)]
pub struct ConnectionLog {
    attempts: AtomicU64,
    /// The latest attempt on which the server has sent data.
    answered: AtomicU64,
    handshakes: AtomicU64,
    failures: AtomicU64,
    /// Whether a failure is ongoing. A read on a healthy connection then takes no lock.
    failing: AtomicBool,
    standing: Mutex<Option<OngoingFailure>>,
    last_handshake: Mutex<Option<Secured>>,
}

/// The number of a connection attempt, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Attempt(u64);

/// A failure that no later connection has ended.
#[derive(Clone, Debug)]
pub struct OngoingFailure {
    /// The error of the last attempt.
    pub error: ConnectorError,
    /// The time of the first failure since the last success.
    pub since: SystemTime,
    attempt: Attempt,
}

impl ConnectionLog {
    /// The error of the last connection; `None` once the server has sent data on a later one.
    pub fn last_failure(&self) -> Option<ConnectorError> {
        self.ongoing_failure().map(|standing| standing.error)
    }

    /// The ongoing failure, with its start.
    pub fn ongoing_failure(&self) -> Option<OngoingFailure> {
        self.standing.lock().clone()
    }

    /// The number of connections that failed or were ended by an alert.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// The number of TLS handshakes after which the server has sent data.
    pub fn handshakes(&self) -> u64 {
        self.handshakes.load(Ordering::Relaxed)
    }

    /// The last TLS handshake.
    pub fn last_handshake(&self) -> Option<Handshake> {
        let last = self.last_handshake.lock();
        last.as_ref().map(|secured| secured.handshake.clone())
    }

    /// What the server has shown in the last TLS handshake.
    pub(super) fn last_peer(&self) -> Option<Arc<PeerInfo>> {
        let last = self.last_handshake.lock();
        last.as_ref().map(|secured| secured.peer.clone())
    }

    /// Whether the server has ever sent data.
    pub(super) fn has_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed) > 0
    }

    pub(super) fn attempt(&self) -> Attempt {
        Attempt(self.attempts.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Replaces the last handshake, and returns the previous one.
    pub(super) fn record_handshake(&self, secured: Secured) -> Option<Secured> {
        self.handshakes.fetch_add(1, Ordering::Relaxed);
        self.last_handshake.lock().replace(secured)
    }

    /// Records a failure, unless a later connection works already.
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

    /// Records that the server has sent data. Data on a connection that is older than the failure
    /// proves nothing: an old connection stays open for its long polls when a new certificate is
    /// rejected.
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
