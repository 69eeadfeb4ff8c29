//! How a process is doing that renews a token file.

use axum::{
    Router,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};

use crate::agent::Renewal;
use keyutil::health::{
    alive, answer, broken,
    metrics::{self, Numbers},
};

/// The routes of an agent: `/healthz`, `/readyz` and `/metrics`.
pub fn router(renewal: Renewal) -> Router {
    Router::new()
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .route("/metrics", get(numbers))
        .with_state(renewal)
}

async fn ready(State(renewal): State<Renewal>) -> Response {
    answer(renewal.readiness())
}

async fn numbers(State(renewal): State<Renewal>) -> Response {
    let ready = renewal.readiness().is_ok();
    match render(&renewal, ready) {
        Ok(text) => {
            let content_type = [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)];
            (content_type, text).into_response()
        }
        Err(error) => broken(&error),
    }
}

fn render(renewal: &Renewal, ready: bool) -> prometheus::Result<String> {
    let (status, numbers) = (renewal.status(), Numbers::default());
    numbers.ready(ready)?;
    numbers.credentials(&renewal.credentials())?;
    numbers.count(
        "token_writes_total",
        "How often the token file was written",
        status.writes,
    )?;
    numbers.count(
        "token_write_failures_total",
        "Looks at the token file that have ended without a current token in it",
        status.failures,
    )?;
    numbers.text()
}
