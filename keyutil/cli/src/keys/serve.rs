//! The JWKS endpoint.
//!
//! The server checks neither the HTTP status nor the content type of what it fetches
//! (`default_token_key_provider.go`): a JSON object without `keys` makes it drop every key, even
//! with status 500, and so does an empty set. This endpoint therefore answers either with a
//! checked, complete document or with plain text, which the server refuses while it keeps its keys.

use std::{future::Future, path::PathBuf, time::SystemTime};

use axum::{
    Extension, Router,
    extract::State,
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

use super::{Jwks, fetches::Fetches, keyring::RotationStatus};
use keyutil::{
    base::time::rfc3339,
    credentials::reload::{Credential, LoadError, Reloading},
    health::{
        self, Exchange, alive, answer,
        metrics::{Numbers, seconds},
        metrics_answer,
    },
    status::STALL_LIMIT,
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

/// The endpoint: the document, its fetches, and the rotation of its keys.
#[derive(Clone, Debug)]
pub struct Endpoint {
    document: Reloading<Jwks>,
    /// The fetches of the document.
    pub fetches: Fetches,
    /// The state of the rotation of the keys.
    pub rotation: RotationStatus,
}

impl Endpoint {
    /// Creates the endpoint for this document.
    pub fn new(document: Reloading<Jwks>) -> Self {
        Self {
            fetches: Fetches::of(document.clone()),
            document,
            rotation: RotationStatus::default(),
        }
    }

    /// Judges whether the document is that of the file, and whether keys can be rotated.
    ///
    /// # Errors
    /// The reasons why not.
    pub fn readiness(&self, now: SystemTime) -> Result<(), Vec<String>> {
        let mut reasons = self.rotation.readiness(now).err().unwrap_or_default();
        let status = self.document.status();
        if let Some(failure) = status.last_failure {
            reasons.push(format!(
                "`jwks.json` has been unusable since {}, and the key set from before is served: {}",
                rfc3339(failure.since),
                failure.reason
            ));
        }
        if let Some(read) = status.stalled.filter(|read| read.lasts(now) >= STALL_LIMIT) {
            reasons.push(read.reason());
        }
        if reasons.is_empty() {
            Ok(())
        } else {
            Err(reasons)
        }
    }

    fn render(&self, now: SystemTime) -> prometheus::Result<String> {
        let (numbers, present) = (Numbers::default(), self.fetches.present(now));
        numbers.ready(self.readiness(now).is_ok())?;
        self.rotation.render(&numbers, now)?;
        numbers.count(
            "jwks_fetches_total",
            "Complete fetches of the key set, except those of keyutil and of known probes",
            present.fetches,
        )?;
        numbers.gauges(
            "jwks_last_fetch_timestamp_seconds",
            "Time of the last complete fetch of the key set, in seconds since 1970",
            None,
            present.last_fetch.map(|time| (None, seconds(time))),
        )?;
        let count = u32::try_from(present.fetchers).unwrap_or(u32::MAX);
        let kids = present.kids.iter();
        numbers.gauges(
            FETCHERS,
            "Addresses that have fetched the current key set, for each key in it",
            Some("kid"),
            kids.map(|kid| (Some(&**kid), f64::from(count))),
        )?;
        numbers.text()
    }
}

/// The metric, without its prefix, with the number of addresses that have fetched a key.
const FETCHERS: &str = "jwks_fetchers";

/// Returns how many addresses have fetched this key, by the `/metrics` of the endpoint; `None` if
/// these are not the metrics of `jwks serve`.
pub fn fetchers(metrics: &[u8], kid: &str) -> Option<usize> {
    let metrics = String::from_utf8_lossy(metrics);
    let prefix = format!("keyutil_{FETCHERS}{{kid=\"");
    let mut lines = metrics
        .lines()
        .filter_map(|line| line.strip_prefix(&prefix))
        .peekable();
    lines.peek()?;
    let of_kid = |line: &str| line.strip_prefix(kid)?.strip_prefix("\"} ")?.parse().ok();
    Some(lines.find_map(of_kid).unwrap_or(0))
}

/// Returns the URL of `/metrics` at the endpoint that serves the key set at `url`.
pub fn metrics_url(url: &str) -> Option<String> {
    let mut url = reqwest::Url::parse(url).ok()?;
    let path = url.path().to_owned();
    let before = path.strip_suffix(WELL_KNOWN_PATH).unwrap_or_default();
    url.set_path(&format!("{before}/metrics"));
    Some(url.into())
}

/// Serves `GET` and `HEAD` of [`WELL_KNOWN_PATH`] with the last good document, `/healthz`, `/readyz`
/// and `/metrics`, until `shutdown` completes.
///
/// It answers whatever other clients do: the server's fetch has no timeout, so that a fetch that
/// hangs would freeze the keys that the server knows.
pub async fn serve(listener: TcpListener, endpoint: Endpoint, shutdown: impl Future<Output = ()>) {
    let routes = Router::new()
        .route(WELL_KNOWN_PATH, get(jwks))
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(endpoint);
    health::serve(listener, routes, shutdown).await;
}

async fn ready(State(endpoint): State<Endpoint>) -> Response {
    answer(endpoint.readiness(SystemTime::now()))
}

async fn metrics(State(endpoint): State<Endpoint>) -> Response {
    metrics_answer(endpoint.render(SystemTime::now()))
}

async fn jwks(
    State(endpoint): State<Endpoint>,
    Extension(exchange): Extension<Exchange>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let jwks = endpoint.document.current();
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
    if method == Method::GET && !is_probe(&headers) {
        let (fetches, peer, document) = (endpoint.fetches, exchange.peer().ip(), jwks.document());
        exchange.once_written(move || fetches.note(peer, &document, SystemTime::now()));
    }
    let content_type = [(header::CONTENT_TYPE, "application/jwk-set+json")];
    (cache, content_type, jwks.document()).into_response()
}

/// Returns whether the request comes from this tool or from a program that checks whether the
/// endpoint answers, and therefore not from a server that verifies tokens.
fn is_probe(headers: &HeaderMap) -> bool {
    let agent = headers.get(header::USER_AGENT);
    let agent = agent.map_or(&[][..], |agent| agent.as_bytes());
    PROBES
        .iter()
        .any(|probe| agent.starts_with(probe.as_bytes()))
}

/// How the `User-Agent` of a probe begins. The server's is `Go-http-client/…`.
const PROBES: [&str; 8] = [
    "keyutil/",
    "kube-probe/",
    "Prometheus/",
    "Blackbox Exporter/",
    "ELB-HealthChecker/",
    "GoogleHC/",
    "curl/",
    "Wget",
];

impl Credential for Jwks {
    const KIND: &'static str = "key set";

    fn identify(&self) -> String {
        format!("kids {}", self.kids().join(", "))
    }

    fn expires_at(&self) -> Option<SystemTime> {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::keys::keyring::Keyring;

    /// A rule with a name that is not exported never fires, and the mistake stays unnoticed.
    #[test]
    fn metrics_in_the_page_on_rotation_exist() {
        let folder = tempfile::tempdir().unwrap();
        let ring = Keyring::at(folder.path());
        let made = ring.generate(false, SystemTime::now).unwrap();
        let endpoint = Endpoint::new(follow(ring.jwks_path()).unwrap());
        let now = SystemTime::now();
        let document = fs::read(ring.jwks_path()).unwrap().into();
        endpoint.fetches.note([127, 0, 0, 1].into(), &document, now);
        endpoint.rotation.with_all_metrics(now);
        let text = endpoint.render(now).unwrap();
        let page = include_str!("../../../../docs/rotation.md");
        let words = page.split(|character: char| !character.is_alphanumeric() && character != '_');
        let names: Vec<_> = words
            .filter(|word| word.starts_with("keyutil_"))
            // Of `keyutil pki renew`, on the same page.
            .filter(|word| !word.starts_with("keyutil_certificate_"))
            .collect();
        assert!(names.len() > 5);
        for name in names {
            assert!(text.contains(&format!("# TYPE {name} ")), "{name}: {text}");
        }
        for (kid, count) in [(made.next.kid(), 1), ("other", 0)] {
            assert_eq!(fetchers(text.as_bytes(), kid), Some(count), "{kid}");
        }
        assert_eq!(fetchers(b"keyutil_ready 1\n", made.next.kid()), None);
    }

    #[test]
    fn metrics_are_beside_the_key_set() {
        for (url, metrics) in [
            ("http://a:1/.well-known/jwks.json", "http://a:1/metrics"),
            (
                "https://a/keys/.well-known/jwks.json?x",
                "https://a/keys/metrics?x",
            ),
            ("http://a", "http://a/metrics"),
        ] {
            assert_eq!(metrics_url(url).as_deref(), Some(metrics));
        }
        assert_eq!(metrics_url("a"), None);
    }
}
