//! How a process is doing that renews a token file.

use axum::{
    Router,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};

use super::{answer, broken, metrics};
use crate::{credentials::Renewal, endpoint};

pub(super) fn router(renewal: Renewal) -> Router {
    Router::new()
        .route("/healthz", get(endpoint::alive))
        .route("/readyz", get(ready))
        .route("/metrics", get(numbers))
        .with_state(renewal)
}

async fn ready(State(renewal): State<Renewal>) -> Response {
    answer(renewal.readiness())
}

async fn numbers(State(renewal): State<Renewal>) -> Response {
    let ready = renewal.readiness().is_ok();
    match metrics::render_renewal(&renewal.credentials(), &renewal.status(), ready) {
        Ok(text) => {
            let content_type = [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)];
            (content_type, text).into_response()
        }
        Err(error) => broken(&error),
    }
}
