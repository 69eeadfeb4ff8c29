//! Reading the key set that a server reads.

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

/// For the whole answer, where nobody asks for less. The server itself waits without a limit.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// Far more than the keys of a rotation. A path or URL that was mixed up must not fill memory.
const LARGEST: u64 = 1 << 20;

/// A key set, as it was found.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Its bytes. Not yet looked at.
    pub document: Vec<u8>,
    /// What the endpoint said it is.
    pub content_type: Option<String>,
    /// When the endpoint sent it, by the endpoint's clock (RFC 9110 section 6.6.1).
    pub date: Option<SystemTime>,
    /// When that arrived, by ours.
    pub at: SystemTime,
}

/// Reads a file, or fetches an `http://` or `https://` URL.
///
/// # Errors
/// [`FetchError`]. An answer other than 200 is one, though the server would read it.
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
        // It names the URL with all that is in it.
        source: error.without_url(),
    };
    let client = reqwest::Client::builder()
        .timeout(limit)
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

/// Why there is no key set.
#[expect(missing_docs, reason = "the message says what a field is")]
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The file.
    #[error("failed to read key set `{path}`")]
    Read {
        path: String,
        #[source]
        source: io::Error,
    },
    /// Nobody there, or nobody who answers in time.
    #[error("failed to fetch the key set from `{url}`")]
    Unreachable {
        url: String,
        #[source]
        source: reqwest::Error,
    },
    /// Not 200.
    #[error("failed to fetch the key set: `{url}` answers with {status}")]
    Status { url: String, status: StatusCode },
    /// Something else than a key set.
    #[error("failed to fetch the key set: `{name}` has more than 1 MiB")]
    TooLarge { name: String },
}

impl Diagnose for FetchError {
    fn diagnosis(&self) -> Diagnosis {
        let (step, class, hint) = match self {
            Self::Read { .. } | Self::TooLarge { .. } => (
                Step::Files,
                Class::Usage,
                "`--jwks` takes the file or the URL that `keySourceURIs` of the server names",
            ),
            Self::Unreachable { .. } | Self::Status { .. } => (
                Step::Jwks,
                Class::Unreachable,
                "check that the endpoint runs, and that `--jwks` names it with its path",
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
