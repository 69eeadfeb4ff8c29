//! The JWKS endpoint.
//!
//! The server checks neither the HTTP status nor the content type of what it fetches
//! (`default_token_key_provider.go`): a JSON object without `keys` makes it drop every key, even
//! with status 500, and so does an empty set. This endpoint therefore answers either with a
//! checked, complete document or with plain text, which the server refuses while it keeps its keys.

use std::{future::Future, path::PathBuf};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

use super::Jwks;
use keyutil::{
    credentials::reload::{Credential, LoadError, Reloading},
    health::{self, alive},
};

/// The path of the document (RFC 8615).
pub const WELL_KNOWN_PATH: &str = "/.well-known/jwks.json";

/// How long caches may keep the document, in seconds. Shorter than any reasonable
/// `refreshInterval`, so that a cache does not undo the order of a rotation.
const MAX_AGE: u32 = 5;

/// Loads the document and follows the file.
///
/// # Errors
/// [`LoadError`], when there is no document that may be published.
pub fn follow(path: PathBuf) -> Result<Reloading<Jwks>, LoadError> {
    Reloading::load(vec![path], |contents| Ok(Jwks::parse(&contents[0])?))
}

/// Serves `GET` and `HEAD` of [`WELL_KNOWN_PATH`] with the last good document, and `/healthz`,
/// until `shutdown` completes.
///
/// It answers whatever other clients do: the server's fetch has no timeout, so that a fetch that
/// hangs would freeze the keys that the server knows.
pub async fn serve(
    listener: TcpListener,
    document: Reloading<Jwks>,
    shutdown: impl Future<Output = ()>,
) {
    let routes = Router::new()
        .route(WELL_KNOWN_PATH, get(jwks))
        .route("/healthz", get(alive))
        .with_state(document);
    health::serve(listener, routes, shutdown).await;
}

async fn jwks(State(document): State<Reloading<Jwks>>, headers: HeaderMap) -> Response {
    let jwks = document.current();
    let digest = Sha256::digest(jwks.document());
    let etag = format!("\"{}\"", BASE64_URL_SAFE_NO_PAD.encode(digest));
    let cache = [
        (header::CACHE_CONTROL, format!("public, max-age={MAX_AGE}")),
        (header::ETAG, etag.clone()),
    ];
    if headers
        .get(header::IF_NONE_MATCH)
        .is_some_and(|seen| seen.as_bytes() == etag.as_bytes())
    {
        return (StatusCode::NOT_MODIFIED, cache).into_response();
    }
    let content_type = [(header::CONTENT_TYPE, "application/jwk-set+json")];
    (cache, content_type, jwks.document()).into_response()
}

impl Credential for Jwks {
    const KIND: &'static str = "key set";

    fn identify(&self) -> String {
        format!("kids {}", self.kids().join(", "))
    }

    fn expires_at(&self) -> Option<std::time::SystemTime> {
        None
    }
}
