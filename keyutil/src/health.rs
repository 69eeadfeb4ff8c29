//! The health of a process over HTTP, for orchestrators, Prometheus and people.
//!
//! | path | answer |
//! |---|---|
//! | `/healthz` | `ok` while the process is alive |
//! | `/readyz` | `ok`, or 503 and the reasons, one per line |
//! | `/metrics` | metrics in the text format of Prometheus |
//! | `/status` | the whole [`Status`](crate::status::Status) as JSON |
//!
//! The answers contain no secret, and the endpoint requires no authentication. They contain file
//! names and key ids: bind it to an address that only trusted clients can reach.

pub mod metrics;
mod serve;

use std::{
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
use tokio::{net::TcpStream, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    base::chain,
    connect::Observer,
    diagnosis::{Class, Diagnose, Diagnosis, Step},
    status::readiness,
};

pub use metrics::render;
pub use serve::{Exchange, listen, plain, serve};

/// The running endpoint. Dropping it stops the endpoint.
#[derive(Debug)]
pub struct Health {
    address: SocketAddr,
    stopping: CancellationToken,
    task: JoinHandle<()>,
}

/// The endpoint could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("failed to listen at `{address}` for the health endpoint")]
pub struct ListenError {
    /// The requested address.
    pub address: SocketAddr,
    /// The reason.
    #[source]
    pub source: io::Error,
}

impl Diagnose for ListenError {
    fn diagnosis(&self) -> Diagnosis {
        let hint = match self.source.kind() {
            io::ErrorKind::AddrInUse => {
                "another process uses the port: stop it, or name another port with `--health-listen`"
            }
            _ => "name another address with `--health-listen`",
        };
        Diagnosis {
            step: Step::Configuration,
            class: Class::Other,
            cause: chain(self),
            hint: Some(hint.to_owned()),
        }
    }
}

impl Health {
    /// Serves the routes of [`router`] at `address`. Port 0 selects a free port, which the log
    /// names. `/metrics` includes the metrics of the exporter at `exporter`, such as
    /// [`SdkMetrics`](crate::worker::SdkMetrics).
    ///
    /// # Errors
    /// [`ListenError`], if the address is not available.
    pub async fn listen(
        address: SocketAddr,
        observer: Observer,
        exporter: Option<SocketAddr>,
    ) -> Result<Self, ListenError> {
        Self::serve(address, router(observer, exporter)).await
    }

    /// Serves these routes at `address`.
    ///
    /// # Errors
    /// [`ListenError`], if the address is not available.
    pub async fn serve(address: SocketAddr, routes: Router) -> Result<Self, ListenError> {
        let failed = |source| ListenError { address, source };
        let listener = listen(address).map_err(failed)?;
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

    /// The bound address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops the endpoint after the answers in progress.
    pub async fn stop(mut self) {
        self.stopping.cancel();
        // It ends by itself, or has panicked, which the log says.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The routes of a worker, to combine with others: see [`Health::listen`].
pub fn router(observer: Observer, exporter: Option<SocketAddr>) -> Router {
    Router::new()
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .route("/metrics", get(numbers))
        .route("/status", get(status))
        .with_state(Shown { observer, exporter })
}

/// The sources of the answers.
#[derive(Clone)]
struct Shown {
    observer: Observer,
    exporter: Option<SocketAddr>,
}

async fn ready(State(shown): State<Shown>) -> Response {
    answer(readiness(&shown.observer.status(), SystemTime::now()))
}

/// `200 ok`, or `503` with the reasons why the process is not ready, one per line.
pub fn answer(readiness: Result<(), Vec<String>>) -> Response {
    match readiness {
        Ok(()) => plain(StatusCode::OK, "ok\n"),
        Err(reasons) => plain(StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n"),
    }
}

/// The metrics in the text format of Prometheus, or `500` with the error.
pub fn metrics_answer(text: prometheus::Result<String>) -> Response {
    match text {
        Ok(text) => {
            let content_type = [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)];
            (content_type, text).into_response()
        }
        Err(error) => broken(&error),
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
        // The process's own metrics are still of use.
        Some(exporter) => fetch(exporter)
            .await
            .unwrap_or_else(|error| format!("# the SDK's metrics: {}\n", chain(error.as_ref()))),
    };
    metrics_answer(Ok(ours + &theirs))
}

/// The metrics of the exporter, up to a size that no set of metrics has.
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
    // The connection must be polled until the answer is complete.
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

/// The answer of `/healthz`.
pub async fn alive() -> &'static str {
    "ok\n"
}
