//! Reads the key set that a server reads.

use std::{
    io,
    path::Path,
    time::{Duration, SystemTime},
};

use reqwest::{StatusCode, header};

use keyutil::{
    base::{chain, read::read_regular, redact},
    diagnosis::{Class, Diagnose, Diagnosis, Step},
};

/// The `User-Agent` of this tool, by which an endpoint tells its fetches from those of a server.
pub const USER_AGENT: &str = concat!("keyutil/", env!("CARGO_PKG_VERSION"));

/// The default limit for the whole response. The server itself has no limit.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// Far more than the keys of a rotation need. Guards memory against a wrong path or URL.
const LARGEST: u64 = 1 << 20;

/// A key set as it was found.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The document, not yet checked.
    pub document: Vec<u8>,
    /// The `Content-Type` of the response.
    pub content_type: Option<String>,
    /// The `Date` of the response, by the clock of the endpoint (RFC 9110 section 6.6.1).
    pub date: Option<SystemTime>,
    /// When the response arrived, by the local clock.
    pub at: SystemTime,
}

/// Reads a file, or fetches an `http://` or `https://` URL.
///
/// # Errors
/// [`FetchError`]. A status other than 200 is an error, although the server would read such a
/// response.
pub async fn fetch(source: &str, limit: Duration) -> Result<Fetched, FetchError> {
    if !source.starts_with("http://") && !source.starts_with("https://") {
        return read(source).map_err(|error| FetchError::Read {
            path: redact::source(source),
            source: error,
        });
    }
    let url = || redact::source(source);
    let failed = |error: reqwest::Error| FetchError::Unreachable {
        url: url(),
        // The error names the URL, which may contain a password.
        source: error.without_url(),
    };
    let client = reqwest::Client::builder()
        .timeout(limit)
        .user_agent(USER_AGENT)
        .build()
        .map_err(failed)?;
    let mut answer = client.get(source).send().await.map_err(failed)?;
    let at = SystemTime::now();
    if answer.status() != StatusCode::OK {
        return Err(FetchError::Status {
            url: url(),
            status: answer.status(),
        });
    }
    let text = |name| answer.headers().get(name)?.to_str().ok();
    let content_type = text(header::CONTENT_TYPE).map(str::to_owned);
    let date = text(header::DATE).and_then(|text| httpdate::parse_http_date(text).ok());
    let mut document = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(failed)? {
        document.extend_from_slice(&chunk);
        if document.len() as u64 > LARGEST {
            return Err(FetchError::TooLarge { name: url() });
        }
    }
    Ok(Fetched {
        document,
        content_type,
        date,
        at,
    })
}

fn read(path: &str) -> io::Result<Fetched> {
    Ok(Fetched {
        document: read_regular(Path::new(path), LARGEST)?,
        content_type: None,
        date: None,
        at: SystemTime::now(),
    })
}

/// The key set could not be read.
#[expect(missing_docs, reason = "the message says what a field is")]
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("failed to read key set `{path}`")]
    Read {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("failed to fetch the key set from `{url}`")]
    Unreachable {
        url: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("failed to fetch the key set: `{url}` answered {status}")]
    Status { url: String, status: StatusCode },
    #[error("failed to fetch the key set: `{name}` is larger than 1 MiB")]
    TooLarge { name: String },
}

impl Diagnose for FetchError {
    fn diagnosis(&self) -> Diagnosis {
        let (step, class, hint) = match self {
            Self::Read { .. } | Self::TooLarge { .. } => (
                Step::Files,
                Class::Usage,
                "`--jwks` must name a key set, as `keySourceURIs` of the server does",
            ),
            Self::Unreachable { .. } | Self::Status { .. } => (
                Step::Jwks,
                Class::Unreachable,
                "check that the endpoint runs, and that `--jwks` has its full URL",
            ),
        };
        Diagnosis {
            step,
            class,
            cause: chain(self),
            hint: Some(hint.to_owned()),
        }
    }
}
