//! How a process is doing, over HTTP: for orchestrators, Prometheus, and people.
//!
//! | path | answer |
//! |---|---|
//! | `/healthz` | `ok` for as long as the process is alive |
//! | `/readyz` | `ok`, or 503 and every reason why not, one a line |
//! | `/metrics` | the same in numbers, in the text format of Prometheus |
//! | `/status` | all that is known, as JSON ([`Status`](crate::status::Status)) |
//!
//! Nothing in the answers is a secret, and nobody is asked who they are. The names of files and
//! keys are in them all the same: let those listen in who may know them.

pub mod metrics;

use std::{
    future::Future,
    io,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{base::chain, connect::Observer, status::readiness};

pub use metrics::render;

/// The endpoint. It ends when this is dropped.
#[derive(Debug)]
pub struct Health {
    address: SocketAddr,
    stopping: CancellationToken,
    task: JoinHandle<io::Result<()>>,
}

/// Nobody can be told how this process is doing.
#[derive(Debug, thiserror::Error)]
#[error("failed to listen at `{address}` for the health endpoint")]
pub struct ListenError {
    /// What was asked for.
    pub address: SocketAddr,
    /// Why it cannot be had.
    #[source]
    pub source: io::Error,
}

impl Health {
    /// Answers at `address`; port 0 takes a free one, which the log names. `/metrics` has also
    /// what an exporter at `exporter` says, such as the SDK's, which has a listener of its own.
    ///
    /// # Errors
    /// [`ListenError`], for an address that cannot be had.
    pub async fn listen(
        address: SocketAddr,
        observer: Observer,
        exporter: Option<SocketAddr>,
    ) -> Result<Self, ListenError> {
        Self::serve(address, router(observer, exporter)).await
    }

    /// Answers these routes at `address`, for a process of another kind than a worker.
    ///
    /// # Errors
    /// [`ListenError`], for an address that cannot be had.
    pub async fn serve(address: SocketAddr, routes: Router) -> Result<Self, ListenError> {
        let failed = |source| ListenError { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        info!(address = %bound, "health endpoint listening");
        let stopping = CancellationToken::new();
        let stopped = stopping.clone().cancelled_owned();
        Ok(Self {
            address: bound,
            stopping,
            task: tokio::spawn(serve(listener, routes, stopped)),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Finishes the answers that are under way.
    pub async fn stop(mut self) {
        self.stopping.cancel();
        // What broke while it was listening ends with it.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The routes, for whoever serves them together with others: see [`Health::listen`].
pub fn router(observer: Observer, exporter: Option<SocketAddr>) -> Router {
    Router::new()
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .route("/metrics", get(numbers))
        .route("/status", get(status))
        .with_state(Shown { observer, exporter })
}

/// Where the answers come from.
#[derive(Clone)]
struct Shown {
    observer: Observer,
    exporter: Option<SocketAddr>,
}

async fn ready(State(shown): State<Shown>) -> Response {
    answer(readiness(&shown.observer.status(), SystemTime::now()))
}

/// `200 ok`, or `503` with every reason why the process is not ready, one a line.
pub fn answer(readiness: Result<(), Vec<String>>) -> Response {
    match readiness {
        Ok(()) => plain(StatusCode::OK, "ok\n"),
        Err(reasons) => plain(StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n"),
    }
}

async fn status(State(shown): State<Shown>) -> Response {
    match serde_json::to_string_pretty(&shown.observer.status()) {
        Ok(json) => {
            let content_type = [(header::CONTENT_TYPE, "application/json")];
            (content_type, json + "\n").into_response()
        }
        Err(error) => broken(&error),
    }
}

async fn numbers(State(shown): State<Shown>) -> Response {
    let ours = match render(&shown.observer.status(), SystemTime::now()) {
        Ok(ours) => ours,
        Err(error) => return broken(&error),
    };
    let theirs = match shown.exporter {
        None => String::new(),
        // A comment: half of the numbers are better than none.
        Some(exporter) => fetch(exporter)
            .await
            .unwrap_or_else(|error| format!("# the SDK's metrics: {}\n", chain(error.as_ref()))),
    };
    let content_type = [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)];
    (content_type, ours + &theirs).into_response()
}

/// What the exporter says, up to a size that no set of metrics has.
async fn fetch(exporter: SocketAddr) -> anyhow::Result<String> {
    const LARGEST: usize = 64 << 20;
    let stream = TcpStream::connect(exporter).await?;
    let (mut requests, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = http::Request::get("/metrics")
        .header(header::HOST, exporter.to_string())
        .body(Empty::<Bytes>::new())?;
    let answer = async {
        let answer = requests.send_request(request).await?;
        anyhow::ensure!(answer.status().is_success(), "{}", answer.status());
        let body = Limited::new(answer.into_body(), LARGEST).collect();
        let body = body.await.map_err(anyhow::Error::from_boxed)?;
        Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
    };
    // The connection is driven for as long as the answer takes.
    tokio::select! {
        answer = answer => answer,
        ended = connection => {
            ended?;
            anyhow::bail!("the exporter closed the connection")
        }
        () = tokio::time::sleep(FETCH_LIMIT) => anyhow::bail!("no answer within {FETCH_LIMIT:?}"),
    }
}

/// Less than the 10 s that Prometheus waits.
const FETCH_LIMIT: Duration = Duration::from_secs(5);

/// `500` with the error.
pub fn broken(error: &(dyn std::error::Error + 'static)) -> Response {
    plain(StatusCode::INTERNAL_SERVER_ERROR, chain(error) + "\n")
}

/// For the answers that are under way. Somebody who has sent half a request must not hold up the
/// end.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// Answers on `listener` until `shutdown` is done. Errors are plain text.
///
/// # Errors
/// Those of the listener.
pub async fn serve(
    listener: TcpListener,
    routes: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let routes = routes
        .fallback(|| async { plain(StatusCode::NOT_FOUND, "not found\n") })
        .method_not_allowed_fallback(|| async {
            plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n")
        });
    let stopping = CancellationToken::new();
    let stopped = stopping.clone().cancelled_owned();
    let serving = axum::serve(listener, routes).with_graceful_shutdown(stopped);
    let limit = async {
        shutdown.await;
        stopping.cancel();
        tokio::time::sleep(DRAIN_LIMIT).await;
    };
    tokio::select! {
        ended = serving => ended,
        () = limit => Ok(()),
    }
}

/// `/healthz` of a process that is alive.
pub async fn alive() -> &'static str {
    "ok\n"
}

/// An answer in words, each with its line end.
pub fn plain(status: StatusCode, text: impl Into<String>) -> Response {
    (status, text.into()).into_response()
}
