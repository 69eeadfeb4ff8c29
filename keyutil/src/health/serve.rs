//! Serves small answers over HTTP/1 so that no client can keep another from its answer.
//!
//! Each connection is for one request, has a limit for its head and one for its whole life, and
//! takes one of a limited number of places. A connection beyond that closes the oldest one: as each
//! answer takes milliseconds, that is one whose client does not send or does not read.
//! `axum::serve` has none of these limits.

use std::{
    collections::VecDeque,
    future::Future,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Extension, Router,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::base::{chain, descriptors};

/// Time limit for the head of a request.
const HEAD_LIMIT: Duration = Duration::from_secs(3);

/// Time limit for a connection. `/metrics` may wait 5 s for the SDK's exporter, and Prometheus
/// waits for 10 s.
const LIFETIME: Duration = Duration::from_secs(10);

/// The most connections at once. Fewer where descriptors are few: half of them remain for files
/// and for connections to the server.
const MOST_CONNECTIONS: u64 = 1024;

/// The most that is buffered of a request; hyper's default of 400 KiB is memory that idle clients
/// could fill. The smallest that hyper permits is 8 KiB.
const LARGEST_HEAD: usize = 16 << 10;

/// Time limit for answers in progress at the end. A client that sends half a request must not delay
/// the shutdown.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// The pause after the listener has failed, so that the loop does not spin.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(50);

/// How often a failure of the listener that lasts is logged.
const LOG_AGAIN: Duration = Duration::from_secs(60);

/// The most connections that the kernel completes before they are accepted; Linux reduces it to
/// `net.core.somaxconn`. Where a thousand clients connect at once, tokio's 1024 are too few: the
/// kernel then drops the packets of others, which come again after a second.
const BACKLOG: u32 = 4096;

/// Listens at an address.
///
/// # Errors
/// Those of the operating system, such as an address that is in use.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // As `TcpListener::bind` does: a port is free again at once. On Windows the option would share
    // the port.
    #[cfg(not(windows))]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves the routes on `listener` until `shutdown` completes. Errors are plain text.
pub async fn serve(listener: TcpListener, routes: Router, shutdown: impl Future<Output = ()>) {
    let routes = routes
        .fallback(|| async { plain(StatusCode::NOT_FOUND, "not found\n") })
        .method_not_allowed_fallback(|| async {
            plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n")
        });
    let stopping = CancellationToken::new();
    let mut connections = Connections::new();
    let mut logged_at = None::<Instant>;
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut shutdown => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let connection = answer_one(stream, peer, routes.clone(), stopping.clone());
                connections.add(connection).await;
            }
            Err(error) => {
                if logged_at.is_none_or(|at| at.elapsed() > LOG_AGAIN) {
                    let error = descriptors::exhausted(&error).unwrap_or_else(|| chain(&error));
                    warn!(error, "failed to accept a connection, retrying");
                    logged_at = Some(Instant::now());
                }
                connections.close_oldest();
                sleep(PAUSE_AFTER_FAILURE).await;
            }
        }
    }
    // Before the answers in progress: new clients are refused, and go to another instance.
    drop(listener);
    stopping.cancel();
    let ended = async { while connections.tasks.join_next().await.is_some() {} };
    let _ = timeout(DRAIN_LIMIT, ended).await;
}

/// An extension of the request: the client, and what to do once it has the answer.
#[derive(Clone)]
pub struct Exchange {
    peer: SocketAddr,
    once_written: Arc<Mutex<Option<OnceWritten>>>,
}

type OnceWritten = Box<dyn FnOnce() + Send>;

impl Exchange {
    /// The address of the client, or of a proxy in front of this endpoint.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Runs `done` once the whole answer has been written to the connection. It does not run if the
    /// connection fails or reaches its time limit first.
    pub fn once_written(&self, done: impl FnOnce() + Send + 'static) {
        *self.once_written.lock() = Some(Box::new(done));
    }
}

/// Answers one request and closes the connection.
async fn answer_one(
    stream: TcpStream,
    peer: SocketAddr,
    routes: Router,
    stopping: CancellationToken,
) {
    let exchange = Exchange {
        peer,
        once_written: Arc::default(),
    };
    let routes = routes.layer(Extension(exchange.clone()));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(LARGEST_HEAD)
        .keep_alive(false);
    let service = TowerToHyperService::new(routes);
    let connection = http.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let served = async {
        tokio::select! {
            ended = connection.as_mut() => return ended,
            () = stopping.cancelled() => {}
        }
        connection.as_mut().graceful_shutdown();
        connection.await
    };
    // A failure is that of the client.
    if let Ok(Ok(())) = timeout(LIFETIME, served).await
        && let Some(done) = exchange.once_written.lock().take()
    {
        done();
    }
}

/// The open connections. Dropping it closes them.
struct Connections {
    limit: usize,
    tasks: JoinSet<()>,
    oldest_first: VecDeque<AbortHandle>,
}

impl Connections {
    fn new() -> Self {
        let limit = (descriptors::limit() / 2).clamp(1, MOST_CONNECTIONS);
        Self {
            limit: usize::try_from(limit).unwrap_or(1),
            tasks: JoinSet::new(),
            oldest_first: VecDeque::new(),
        }
    }

    /// Closes the oldest connections until there is a place. Their descriptors are free by then.
    async fn add(&mut self, connection: impl Future<Output = ()> + Send + 'static) {
        while self.tasks.try_join_next().is_some() {}
        while self.tasks.len() >= self.limit {
            self.close_oldest();
            self.tasks.join_next().await;
        }
        self.forget_ended();
        let task = self.tasks.spawn(connection);
        self.oldest_first.push_back(task);
    }

    fn close_oldest(&mut self) {
        self.forget_ended();
        if let Some(oldest) = self.oldest_first.pop_front() {
            oldest.abort();
        }
    }

    /// Those behind a connection that lasts stay for as long as it does, which is [`LIFETIME`].
    fn forget_ended(&mut self) {
        while self
            .oldest_first
            .front()
            .is_some_and(AbortHandle::is_finished)
        {
            self.oldest_first.pop_front();
        }
    }
}

/// A plain-text answer.
pub fn plain(status: StatusCode, text: impl Into<String>) -> Response {
    (status, text.into()).into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// More than the buffers of a connection hold.
    const LARGE: usize = 32 << 20;

    #[tokio::test]
    async fn what_follows_an_answer_is_done_once_all_of_it_is_written() {
        let written = Arc::new(AtomicUsize::new(0));
        let handler = {
            let written = written.clone();
            move |Extension(exchange): Extension<Exchange>| async move {
                exchange.once_written(move || _ = written.fetch_add(1, Ordering::Relaxed));
                vec![b'x'; LARGE]
            }
        };
        let listener = listen(([127, 0, 0, 1], 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Router::new().route("/", get(handler));
        let serving = tokio::spawn(serve(listener, routes, std::future::pending()));
        let ask = async |read: bool| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
            stream.write_all(request).await.unwrap();
            if read {
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).await.unwrap();
                assert!(answer.len() > LARGE);
            } else {
                // The answer has begun.
                stream.read_exact(&mut [0; 100]).await.unwrap();
            }
        };
        ask(false).await;
        ask(true).await;
        let done = async {
            while written.load(Ordering::Relaxed) == 0 {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(10), done).await.unwrap();
        assert_eq!(written.load(Ordering::Relaxed), 1);
        serving.abort();
    }
}
