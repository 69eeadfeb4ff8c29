//! Files from the server of the release.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use reqwest::{Client, Response, StatusCode};
use sha2::{Digest, Sha256};
use tokio::time::sleep;

use super::progress::Progress;
use super::release::ReleaseError;

pub(super) fn client(base_url: &str) -> Result<Client, ReleaseError> {
    Client::builder()
        // No redirect from HTTPS leads to plain HTTP.
        .https_only(base_url.starts_with("https:"))
        .connect_timeout(Duration::from_secs(10))
        .read_timeout(Duration::from_secs(30))
        .build()
        .map_err(|source| ReleaseError::Client { source })
}

/// Tries again, a few times and soon, what may work a moment later.
pub(super) async fn retry_until_ready<T>(
    mut attempt: impl AsyncFnMut() -> Result<T, ReleaseError>,
) -> Result<T, ReleaseError> {
    for pause in PAUSES {
        match attempt().await {
            Err(error) if error.is_transient() => sleep(pause).await,
            result => return result,
        }
    }
    attempt().await
}

pub(super) async fn get(client: &Client, url: &str) -> Result<Response, ReleaseError> {
    let response = client.get(url).send().await;
    let response = response.map_err(|source| ReleaseError::unreachable(url, source))?;
    match response.status() {
        StatusCode::OK => Ok(response),
        status => Err(ReleaseError::Status {
            url: url.to_owned(),
            status,
        }),
    }
}

/// Stores what `url` has in `path` and returns its digest.
pub(super) async fn download(
    client: &Client,
    url: &str,
    path: &Path,
    expected: &str,
    progress: &dyn Progress,
) -> Result<String, ReleaseError> {
    let write_failed = |source| ReleaseError::Write {
        path: path.to_owned(),
        source,
    };
    let mut response = get(client, url).await?;
    let total = response.content_length();
    let mut file = File::create(path).map_err(write_failed)?;
    let mut digest = Sha256::new();
    let mut received = 0;
    progress.bytes(received, total);
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => {
                digest.update(&chunk);
                file.write_all(&chunk).map_err(write_failed)?;
                received += chunk.len() as u64;
                progress.bytes(received, total);
            }
            Ok(None) => return Ok(hex(&digest.finalize())),
            Err(source) => {
                return Err(ReleaseError::Incomplete {
                    url: url.to_owned(),
                    received,
                    expected: expected.to_owned(),
                    actual: hex(&digest.finalize()),
                    source: source.without_url(),
                });
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const PAUSES: [Duration; 2] = [Duration::from_millis(300), Duration::from_secs(1)];
