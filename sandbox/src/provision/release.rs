//! The archive that the publisher released.

use std::env::consts;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use flate2::read::GzDecoder;
use reqwest::{Client, Response, StatusCode};
use sha2::{Digest, Sha256};
use tokio::task;

use super::{Progress, VERSION};

/// Downloads the archive for this platform, verifies it and unpacks the server into `folder`.
pub(super) async fn fetch(
    base_url: &str,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<PathBuf, ReleaseError> {
    let name = archive_name(consts::OS, consts::ARCH).ok_or(ReleaseError::NoPlatform)?;
    let release = format!("{}/v{VERSION}", base_url.trim_end_matches('/'));
    let client = Client::builder()
        // No redirect from HTTPS leads to plain HTTP.
        .https_only(base_url.starts_with("https:"))
        .connect_timeout(Duration::from_secs(10))
        .read_timeout(Duration::from_secs(30))
        .build()
        .map_err(ReleaseError::Client)?;
    let retries = ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(300))
        .with_factor(3.0)
        .with_max_times(2);

    progress.step(&format!(
        "looking for temporal-server {VERSION} at {release}"
    ));
    let url = format!("{release}/checksums.txt");
    let listing = (|| text(&client, &url))
        .retry(retries)
        .when(ReleaseError::is_transient)
        .await?;
    let expected = match listed(&listing, &name) {
        Some(digest) => digest,
        None => return Err(ReleaseError::NotListed { url, name }),
    };

    progress.step(&format!("downloading {name}"));
    let url = format!("{release}/{name}");
    let archive = (|| download(&client, &url, &expected, progress))
        .retry(retries)
        .when(ReleaseError::is_transient)
        .await?;

    progress.step(&format!("unpacking {name}"));
    let binary = folder.join(MEMBER);
    let unpacked = task::spawn_blocking(move || unpack(&archive, &binary).map(|()| binary));
    unpacked
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(|source| ReleaseError::Unpack { url, source })
}

/// Why there is no server from a release.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say what the variants are")]
pub enum ReleaseError {
    #[error("no archive is released for {} on {}", consts::OS, consts::ARCH)]
    NoPlatform,
    #[error("failed to set up an HTTPS client; does this machine have CA certificates?")]
    Client(#[source] reqwest::Error),
    #[error("failed to reach `{url}`")]
    Unreachable { url: String, source: reqwest::Error },
    #[error("`{url}` answered {status}")]
    Status { url: String, status: StatusCode },
    #[error("`{url}` lists no SHA-256 for `{name}`")]
    NotListed { url: String, name: String },
    #[error("`{url}` ended after {received} bytes: expected SHA-256 `{expected}`, got `{actual}`")]
    Incomplete {
        url: String,
        received: usize,
        expected: String,
        actual: String,
        source: reqwest::Error,
    },
    #[error("`{url}` is not what was published: expected SHA-256 `{expected}`, got `{actual}`")]
    Mismatch {
        url: String,
        expected: String,
        actual: String,
    },
    #[error("failed to unpack `{MEMBER}` from `{url}`")]
    Unpack { url: String, source: io::Error },
}

impl ReleaseError {
    /// Whether another way to a server is worth a try: nothing came that could be wrong.
    pub(super) fn is_unavailable(&self) -> bool {
        matches!(
            self,
            Self::NoPlatform | Self::Client(_) | Self::Unreachable { .. } | Self::Status { .. }
        )
    }

    /// Whether the same may work a moment later. A host that let us wait once is not asked again.
    fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { source, .. } | Self::Incomplete { source, .. } => {
                !source.is_timeout()
            }
            Self::Status { status, .. } => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            _ => false,
        }
    }

    fn unreachable(url: &str, source: reqwest::Error) -> Self {
        Self::Unreachable {
            url: url.to_owned(),
            source: source.without_url(),
        }
    }
}

async fn get(client: &Client, url: &str) -> Result<Response, ReleaseError> {
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

async fn text(client: &Client, url: &str) -> Result<String, ReleaseError> {
    let text = get(client, url).await?.text().await;
    text.map_err(|source| ReleaseError::unreachable(url, source))
}

/// The content of `url`, once it is known to have the expected digest. It stays in memory: the
/// folder never has an archive that is incomplete or not verified.
async fn download(
    client: &Client,
    url: &str,
    expected: &str,
    progress: &dyn Progress,
) -> Result<Vec<u8>, ReleaseError> {
    let mut response = get(client, url).await?;
    let total = response.content_length();
    let (mut archive, mut digest) = (Vec::new(), Sha256::new());
    let cut = loop {
        progress.bytes(archive.len() as u64, total);
        match response.chunk().await {
            Ok(Some(chunk)) => {
                digest.update(&chunk);
                archive.extend_from_slice(&chunk);
            }
            Ok(None) => break None,
            Err(source) => break Some(source.without_url()),
        }
    };
    let digest = digest.finalize();
    let actual: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let (url, expected) = (url.to_owned(), expected.to_owned());
    match cut {
        None if actual == expected => Ok(archive),
        None => Err(ReleaseError::Mismatch {
            url,
            expected,
            actual,
        }),
        Some(source) => Err(ReleaseError::Incomplete {
            url,
            received: archive.len(),
            expected,
            actual,
            source,
        }),
    }
}

fn archive_name(os: &str, arch: &str) -> Option<String> {
    let platform = match (os, arch) {
        ("linux", "x86_64") => "linux_amd64",
        ("linux", "aarch64") => "linux_arm64",
        ("macos", "x86_64") => "darwin_amd64",
        ("macos", "aarch64") => "darwin_arm64",
        _ => return None,
    };
    Some(format!("temporal_{VERSION}_{platform}.tar.gz"))
}

/// The digest in a list of lines `<hex>  <file>`.
fn listed(listing: &str, name: &str) -> Option<String> {
    listing.lines().find_map(|line| {
        let (digest, file) = line.split_once(char::is_whitespace)?;
        let is_digest = digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
        // `*` marks a binary file for sha256sum.
        let is_file = file.trim().trim_start_matches('*') == name;
        (is_digest && is_file).then(|| digest.to_ascii_lowercase())
    })
}

fn unpack(archive: &[u8], binary: &Path) -> io::Result<()> {
    for entry in tar::Archive::new(GzDecoder::new(archive)).entries()? {
        let mut entry = entry?;
        let path = entry.path()?;
        // The archive may say `./temporal-server`.
        let is_server = path.strip_prefix(".").unwrap_or(&path) == Path::new(MEMBER);
        if is_server && entry.header().entry_type().is_file() {
            let mut options = File::options();
            let mut file = options
                .write(true)
                .create_new(true)
                .mode(0o755)
                .open(binary)?;
            return io::copy(&mut entry, &mut file).map(drop);
        }
    }
    Err(io::Error::other("the archive has no such file"))
}

const MEMBER: &str = "temporal-server";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_named_as_the_publisher_does() {
        for (os, arch, expected) in [
            (
                "linux",
                "x86_64",
                Some("temporal_1.31.2_linux_amd64.tar.gz"),
            ),
            (
                "macos",
                "aarch64",
                Some("temporal_1.31.2_darwin_arm64.tar.gz"),
            ),
            ("windows", "x86_64", None),
            ("linux", "riscv64", None),
        ] {
            assert_eq!(archive_name(os, arch).as_deref(), expected);
        }
    }

    #[test]
    fn only_a_whole_digest_of_that_very_file_counts() {
        let digest = "0F".repeat(32);
        let listing = format!("{digest}  a.tar.gz\n{digest} *b.tar.gz\nbeef  c.tar.gz\n<html>\n");
        let found = |name| listed(&listing, name);
        assert_eq!(found("a.tar.gz"), Some(digest.to_lowercase()));
        assert_eq!(found("b.tar.gz"), Some(digest.to_lowercase()));
        assert_eq!(found("c.tar.gz"), None);
        assert_eq!(found("tar.gz"), None);
    }
}
