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
    time::{Duration, Instant},
};

use axum::{
    Router,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
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
            Ok((stream, _)) => {
                let connection = answer_one(stream, routes.clone(), stopping.clone());
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

/// Answers one request and closes the connection.
async fn answer_one(stream: TcpStream, routes: Router, stopping: CancellationToken) {
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
    let _ = timeout(LIFETIME, served).await;
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
