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
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::oneshot,
    time::Sleep,
};
use tokio_rustls::client::TlsStream;

use super::{
    connection_log::{Attempt, ConnectionLog},
    error::{ConnectorError, alert_in},
};

use crate::transport::peer::{Secured, report};

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
