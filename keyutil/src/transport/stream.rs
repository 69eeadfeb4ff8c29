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
    time::Sleep,
};
use tokio_rustls::{
    client::TlsStream,
    rustls::{self, AlertDescription},
};

use super::dial::{Attempt, DialError, Journal};

/// A connection to the server.
pub(super) struct Stream {
    protection: Protection,
    /// Where it is remembered that the server has answered.
    journal: Arc<Journal>,
    attempt: Attempt,
}

/// Encrypted or not.
enum Protection {
    Plain(TcpStream),
    Tls(Box<Encrypted>),
}

struct Encrypted {
    tls: TlsStream<TcpStream>,
    /// Where the alert is remembered: the HTTP/2 layer above keeps no error of ours, only its text.
    journal: Arc<Journal>,
    attempt: Attempt,
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
    pub(super) fn plain(tcp: TcpStream, journal: Arc<Journal>, attempt: Attempt) -> Self {
        Self {
            protection: Protection::Plain(tcp),
            journal,
            attempt,
        }
    }

    pub(super) fn tls(tls: TlsStream<TcpStream>, journal: Arc<Journal>, attempt: Attempt) -> Self {
        Self {
            protection: Protection::Tls(Box::new(Encrypted {
                tls,
                journal: journal.clone(),
                attempt,
                failed_write: None,
            })),
            journal,
            attempt,
        }
    }
}

impl Encrypted {
    /// Remembers the alert, if that is what ended the connection.
    fn note(&self, error: io::Error) -> io::Error {
        if let Some(alert) = alert_in(&error) {
            self.journal
                .failed(self.attempt, DialError::Alert { alert });
        }
        error
    }

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
                    break Some(self.note(error));
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

/// The alert in an error of rustls, if it is one that the peer sent.
pub(super) fn alert_in(error: &io::Error) -> Option<AlertDescription> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
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
            Protection::Tls(encrypted) => Pin::new(&mut encrypted.tls)
                .poll_read(context, buffer)
                .map_err(|error| encrypted.note(error)),
        };
        if matches!(read, Poll::Ready(Ok(()))) && buffer.filled().len() > before {
            stream.journal.answered(stream.attempt);
        }
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().protection {
            Protection::Plain(tcp) => Pin::new(tcp).poll_write(context, bytes),
            Protection::Tls(encrypted) => {
                encrypted.write(context, |tls, context| tls.poll_write(context, bytes))
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().protection {
            Protection::Plain(tcp) => Pin::new(tcp).poll_flush(context),
            Protection::Tls(encrypted) => {
                encrypted.write(context, |tls, context| tls.poll_flush(context))
            }
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().protection {
            Protection::Plain(tcp) => Pin::new(tcp).poll_shutdown(context),
            Protection::Tls(encrypted) => Pin::new(&mut encrypted.tls).poll_shutdown(context),
        }
    }
}
