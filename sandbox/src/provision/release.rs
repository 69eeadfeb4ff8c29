//! The archive that the publisher released.

use std::env::consts;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use flate2::read::GzDecoder;
use reqwest::StatusCode;

use super::VERSION;
use super::download::{client, download, get, retry_until_ready};
use super::progress::Progress;

/// Downloads the archive for this platform, verifies it and unpacks the server into `folder`.
pub(super) async fn fetch(
    base_url: &str,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<PathBuf, ReleaseError> {
    let name = archive_name(consts::OS, consts::ARCH).ok_or(ReleaseError::NoPlatform)?;
    let release = format!("{}/v{VERSION}", base_url.trim_end_matches('/'));
    let client = client(base_url)?;

    let listing_url = format!("{release}/checksums.txt");
    progress.step(&format!(
        "looking for temporal-server {VERSION} at {release}"
    ));
    let listing = retry_until_ready(async || {
        let response = get(&client, &listing_url).await?;
        let text = response.text().await;
        text.map_err(|source| ReleaseError::unreachable(&listing_url, source))
    })
    .await?;
    let expected = listed(&listing, &name).ok_or_else(|| ReleaseError::NotListed {
        url: listing_url,
        name: name.clone(),
    })?;

    let url = format!("{release}/{name}");
    let archive = folder.join(&name);
    progress.step(&format!("downloading {name}"));
    let actual =
        retry_until_ready(async || download(&client, &url, &archive, &expected, progress).await)
            .await?;
    if actual != expected {
        return Err(ReleaseError::Mismatch {
            url,
            expected,
            actual,
        });
    }

    progress.step(&format!("unpacking {name}"));
    let binary = folder.join(MEMBER);
    let unpacked = tokio::task::spawn_blocking({
        let binary = binary.clone();
        move || unpack(&archive, &binary)
    });
    let unpacked = unpacked
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)));
    unpacked.map_err(|source| ReleaseError::Unpack { url, source })?;
    Ok(binary)
}

/// Why there is no server from a release.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReleaseError {
    /// Nothing is released for this platform.
    #[error("no archive is released for {} on {}", consts::OS, consts::ARCH)]
    NoPlatform,
    /// TLS could not be set up.
    #[error("failed to set up an HTTPS client; does this machine have CA certificates?")]
    Client {
        /// What is missing.
        source: reqwest::Error,
    },
    /// The server of the release did not answer.
    #[error("failed to reach `{url}`")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// What happened.
        source: reqwest::Error,
    },
    /// The server of the release answered with something else.
    #[error("`{url}` answered {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// The answer.
        status: StatusCode,
    },
    /// The publisher's list does not know the archive.
    #[error("`{url}` lists no SHA-256 for `{name}`")]
    NotListed {
        /// The list.
        url: String,
        /// The archive.
        name: String,
    },
    /// The download ended before the archive did.
    #[error("`{url}` ended after {received} bytes: expected SHA-256 `{expected}`, got `{actual}`")]
    Incomplete {
        /// The archive.
        url: String,
        /// How much came.
        received: u64,
        /// The digest on the publisher's list.
        expected: String,
        /// That of what came.
        actual: String,
        /// What happened.
        source: reqwest::Error,
    },
    /// The archive is not the one on the publisher's list.
    #[error("`{url}` is not what was published: expected SHA-256 `{expected}`, got `{actual}`")]
    Mismatch {
        /// The archive.
        url: String,
        /// The digest on the publisher's list.
        expected: String,
        /// That of what came.
        actual: String,
    },
    /// The archive could not be stored.
    #[error("failed to write `{}`; is there room?", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The archive could not be unpacked.
    #[error("failed to unpack `{MEMBER}` from `{url}`")]
    Unpack {
        /// The archive.
        url: String,
        /// What is wrong.
        source: io::Error,
    },
}

impl ReleaseError {
    /// Whether another way to a server is worth a try: nothing came that could be wrong.
    pub(super) fn is_out_of_reach(&self) -> bool {
        matches!(
            self,
            Self::NoPlatform | Self::Client { .. } | Self::Unreachable { .. } | Self::Status { .. }
        )
    }

    /// Whether the same may work a moment later. A host that let us wait once is not asked again.
    pub(super) fn is_transient(&self) -> bool {
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

    pub(super) fn unreachable(url: &str, source: reqwest::Error) -> Self {
        Self::Unreachable {
            url: url.to_owned(),
            source: source.without_url(),
        }
    }
}

fn archive_name(os: &str, arch: &str) -> Option<String> {
    let os = match os {
        "linux" => "linux",
        "macos" => "darwin",
        _ => return None,
    };
    let arch = match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        _ => return None,
    };
    Some(format!("temporal_{VERSION}_{os}_{arch}.tar.gz"))
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

fn unpack(archive: &Path, binary: &Path) -> io::Result<()> {
    let mut archive = tar::Archive::new(GzDecoder::new(File::open(archive)?));
    for entry in archive.entries()? {
        let mut entry = entry?;
        // `./temporal-server` has the same components once the dot is gone.
        let is_server = entry
            .path()?
            .components()
            .filter(|part| *part != Component::CurDir)
            .eq(Path::new(MEMBER).components());
        if is_server && entry.header().entry_type().is_file() {
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o755)
                .open(binary)?;
            io::copy(&mut entry, &mut file)?;
            return Ok(());
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
