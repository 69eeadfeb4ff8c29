//! What the HTTP endpoints of this workspace have in common: how they answer what they do not
//! know, and how they end.

use std::{future::Future, io, time::Duration};

use axum::{
    Router,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

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
