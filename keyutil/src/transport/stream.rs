//! The connection, and the TLS alert that ended it.
//!
//! With TLS 1.3 a client learns from its first read, not from the handshake, that the server
//! refuses its certificate. A write often wins that race and fails with `broken pipe`, which says
//! nothing. The alert is then still there to be read, so a failed write reads for it before it is
//! reported.

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

use super::error::{ConnectorError, alert_in};
use crate::{
    status::Handshake,
    transport::peer::{Secured, report},
};

/// A connection to the server.
pub(super) struct Stream {
    protection: Protection,
    /// Where it is remembered that the server has answered, and the alert: the HTTP/2 layer above
    /// keeps no error of ours, only its text.
    log: Arc<ConnectionLog>,
    attempt: Attempt,
    pending: Pending,
}

/// What the server's first answer decides. Before it, a client of TLS 1.3 has finished its
/// handshake, and does not know whether its certificate is accepted.
pub(super) struct Pending {
    pub(super) target: String,
    pub(super) secured: Option<Secured>,
    pub(super) result: Option<TrialResult>,
}

/// Says to whoever tries new credentials what the server made of them. Nothing is said of a
/// connection that the server closes without an alert.
pub(super) struct TrialResult(pub(super) oneshot::Sender<Result<(), ConnectorError>>);

impl TrialResult {
    /// Whoever has given up waiting needs no answer.
    fn accepted(self) {
        let _ = self.0.send(Ok(()));
    }

    pub(super) fn refused(self, error: ConnectorError) {
        let _ = self.0.send(Err(error));
    }
}

/// Encrypted or not.
pub(super) enum Protection {
    Plain(TcpStream),
    Tls(Box<Encrypted>),
}

pub(super) struct Encrypted {
    tls: TlsStream<TcpStream>,
    failed_write: Option<FailedWrite>,
}

/// A write that failed, while its reason is being read for.
struct FailedWrite {
    error: io::Error,
    give_up: Pin<Box<Sleep>>,
}

/// The alert is here already, as a rule, and only the reactor has to notice.
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

    /// The server has sent something.
    fn answered(&mut self) {
        self.log.answered(self.attempt);
        if let Some(Secured { handshake, .. }) = self.pending.secured.take() {
            let before = self.log.record_handshake(handshake.clone());
            report(&self.pending.target, &handshake, before.as_ref());
        }
        if let Some(result) = self.pending.result.take() {
            result.accepted();
        }
    }

    /// Remembers the alert, if that is what ended the connection.
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
    /// Writes; and if that fails, comes back with the alert that explains it, or with the error
    /// of the write when there is none.
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
        // The server may have sent something before the alert. On a dead connection it is of no
        // use.
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
