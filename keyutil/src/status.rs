//! The status of a connection and its credentials, as plain values.
//!
//! The values contain no secret. [`Observer`](crate::connect::Observer) makes them, and
//! [`readiness`] judges them.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, SystemTime},
};

use serde::Serialize;

use crate::{
    base::time::{self, rfc3339, rfc3339_seconds, whole_seconds},
    diagnosis::Diagnosis,
    x509::certificate::CertificateSummary,
};

/// The status of a connection and its credentials at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// `host:port` of the server.
    pub target: String,
    /// The namespace of the connection.
    pub namespace: String,
    /// The phase of the process.
    pub phase: Phase,
    /// The credentials in use.
    pub credentials: CredentialsStatus,
    /// TLS handshakes and connection failures.
    pub connection: ConnectionStatus,
    /// The SDK's calls, by outcome.
    pub calls: CallsStatus,
}

/// The phase of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum Phase {
    /// It waits for the answer to its first authorized call.
    Connecting {
        /// The error of the last attempt, if one failed.
        last_attempt: Option<String>,
    },
    /// Its first authorized call was answered.
    Working {
        /// The time of that answer.
        #[serde(with = "time")]
        since: SystemTime,
    },
    /// It is shutting down and finishes running work.
    Stopping,
}

/// An ongoing failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// The last error.
    pub reason: String,
    /// The time of the first error.
    #[serde(with = "time")]
    pub since: SystemTime,
}

impl Failure {
    /// Records an error. An ongoing failure keeps its start.
    pub fn note(standing: &mut Option<Self>, reason: String, now: SystemTime) {
        let since = standing.as_ref().map_or(now, |standing| standing.since);
        *standing = Some(Self { reason, since });
    }
}

/// The credentials of a connection. One that is not used is `None`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CredentialsStatus {
    /// The token of the calls.
    pub token: Option<CredentialStatus>,
    /// The key that signs minted tokens.
    pub signing_key: Option<CredentialStatus>,
    /// The minting of tokens.
    pub minting: Option<MintingStatus>,
    /// The client certificate.
    pub client_certificate: Option<CredentialStatus>,
    /// The CAs that verify the server.
    pub server_ca: Option<CredentialStatus>,
    /// The revocation lists of server certificates.
    pub revocation_lists: Option<CredentialStatus>,
}

impl CredentialsStatus {
    /// The credentials in use, each with a name that is valid as a metric label.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &CredentialStatus)> {
        [
            ("token", &self.token),
            ("signing_key", &self.signing_key),
            ("client_certificate", &self.client_certificate),
            ("server_ca", &self.server_ca),
            ("revocation_lists", &self.revocation_lists),
        ]
        .into_iter()
        .filter_map(|(name, credential)| Some((name, credential.as_ref()?)))
    }

    /// The files that could not be read for [`STALL_LIMIT`], as reasons why a process is not ready.
    pub fn stalled(&self, now: SystemTime) -> Vec<String> {
        let stalled = self
            .named()
            .filter_map(|(_, credential)| credential.stalled.as_ref());
        stalled
            .map(|read| (&read.path, read.lasts(now)))
            .filter(|(_, lasts)| *lasts >= STALL_LIMIT)
            .map(|(path, lasts)| {
                let lasts = whole_seconds(lasts);
                format!("`{path}` could not be read for {lasts}: its file system does not answer")
            })
            .collect()
    }
}

/// The status of one credential.
#[derive(Clone, Debug, Serialize)]
pub struct CredentialStatus {
    /// Identifies the credential for people: kid, or serial and issuer. `None` until the first
    /// token is minted.
    pub in_use: Option<String>,
    /// Identifies the credential for machines: serial number or kid.
    pub id: Option<String>,
    /// The files or the variable that it is read from.
    pub from: Vec<String>,
    /// The time since which it is in use; `None` for a credential that is never replaced.
    #[serde(with = "time::option")]
    pub since: Option<SystemTime>,
    /// The start of its validity, for certificates.
    #[serde(with = "time::option")]
    pub valid_from: Option<SystemTime>,
    /// The end of its validity.
    #[serde(with = "time::option")]
    pub valid_until: Option<SystemTime>,
    /// How often it was replaced.
    pub reloads: u64,
    /// How many new file contents were unusable.
    pub failed_reloads: u64,
    /// The error, while the files contain something unusable.
    pub last_failure: Option<Failure>,
    /// The file that is being read, while its file system does not answer.
    pub stalled: Option<StalledRead>,
    /// The parts of the credential that are not used, such as an expired CA, with the reason.
    pub warnings: Vec<String>,
}

impl CredentialStatus {
    /// The status of a credential that is never replaced.
    pub fn fixed(from: &str) -> Self {
        Self {
            in_use: None,
            id: None,
            from: vec![from.to_owned()],
            since: None,
            valid_from: None,
            valid_until: None,
            reloads: 0,
            failed_reloads: 0,
            last_failure: None,
            stalled: None,
            warnings: Vec::new(),
        }
    }

    /// The reason why the files contain nothing newer than the credential in use.
    pub fn nothing_newer(&self) -> String {
        match (&self.stalled, &self.last_failure) {
            (Some(stalled), _) => stalled.reason(),
            (None, Some(failure)) => format!("the newer content is unusable: {}", failure.reason),
            (None, None) => format!(
                "`{}` contains no newer one: check the process that renews it",
                self.from.join(", ")
            ),
        }
    }
}

/// A read of a file that has not returned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StalledRead {
    /// The file.
    pub path: String,
    /// The time at which the read began.
    #[serde(with = "time")]
    pub since: SystemTime,
}

impl StalledRead {
    /// How long it has lasted; zero if the clock was set back.
    pub fn lasts(&self, now: SystemTime) -> Duration {
        age(self.since, now)
    }

    /// The reason why the content is unknown. The same for as long as the read lasts, because a
    /// changed reason is logged again.
    pub fn reason(&self) -> String {
        format!(
            "`{}` could not be read since {}: its file system does not answer",
            self.path,
            rfc3339_seconds(self.since)
        )
    }
}

/// The minting of tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MintingStatus {
    /// The number of minted tokens.
    pub minted: u64,
    /// The number of failed attempts.
    pub failed: u64,
    /// The error, if the last attempt failed.
    pub last_failure: Option<Failure>,
}

/// TLS handshakes and connection failures.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ConnectionStatus {
    /// `host:port` of the HTTP proxy, if connections go through one.
    pub proxy: Option<String>,
    /// The number of TLS handshakes after which the server has sent data. Zero in plaintext.
    pub handshakes: u64,
    /// The last of these handshakes.
    pub last_handshake: Option<Handshake>,
    /// The number of failed connections.
    pub failures: u64,
    /// The error of the last connection, until the server answers on a later one.
    pub last_failure: Option<Failure>,
    /// The error with which the newest client certificate and CAs were rejected, while calls keep
    /// the previous ones.
    pub rejected: Option<Failure>,
    /// The CA that verifies the server and was removed from its file.
    pub removed_ca: Option<RemovedCa>,
}

/// A CA that verified the server and is no longer in its file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RemovedCa {
    /// Its subject and serial number.
    pub ca: String,
    /// The file.
    pub file: String,
    /// When the file was first seen without it.
    #[serde(with = "time")]
    pub removed_at: SystemTime,
    /// The time from which it is not trusted: `--distrust-after` after the removal.
    #[serde(with = "time")]
    pub refused_at: SystemTime,
    /// Why no connection could be made with the new content of the file.
    pub reason: Option<String>,
}

impl RemovedCa {
    /// Whether the removal is longer ago than a server needs to restart.
    pub(crate) fn lasts(&self) -> bool {
        age(self.removed_at, SystemTime::now()) > FAILURE_LIMIT
    }

    /// The message about this CA, as of `now`.
    pub fn told(&self, now: SystemTime) -> String {
        let Self { ca, file, .. } = self;
        let mut told = match self.refused_at.duration_since(now) {
            Ok(left) if !left.is_zero() => format!(
                "the server is verified with a CA that is no longer in `{file}`, and will be \
                 refused in {}: {ca}",
                whole_seconds(left)
            ),
            _ => format!(
                "the server was last verified with a CA that is no longer in `{file}`, and has \
                 been refused since {}: {ca}",
                rfc3339_seconds(self.refused_at)
            ),
        };
        if let Some(reason) = &self.reason {
            told += &format!("; the connection with the new content of the file failed: {reason}");
        }
        told
    }
}

impl fmt::Display for RemovedCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.told(SystemTime::now()))
    }
}

/// A finished TLS handshake, after which the server has sent data. Until then a TLS 1.3 server may
/// still reject the client certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Handshake {
    /// The time of the handshake.
    #[serde(with = "time")]
    pub at: SystemTime,
    /// For example `TLSv1_3`.
    pub tls_version: Option<String>,
    /// The server's certificate.
    pub server: Option<Presented>,
    /// The client certificate, if the server asked for one.
    pub client: Option<Presented>,
}

impl Handshake {
    /// Whether both sides presented the same certificates in both handshakes.
    pub(crate) fn same_serials(&self, other: &Self) -> bool {
        let serials = |handshake: &Self| {
            [&handshake.server, &handshake.client]
                .map(|side| side.as_ref().map(|leaf| leaf.serial.clone()))
        };
        serials(self) == serials(other)
    }
}

/// A certificate that one side presented.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Presented {
    /// The serial number in upper-case hex.
    pub serial: String,
    /// The distinguished name of the CA.
    pub issuer: String,
    /// The last second of its validity.
    #[serde(with = "time")]
    pub valid_until: SystemTime,
}

impl From<&CertificateSummary> for Presented {
    fn from(leaf: &CertificateSummary) -> Self {
        Self {
            serial: leaf.serial.clone(),
            issuer: leaf.issuer.clone(),
            valid_until: leaf.not_after,
        }
    }
}

/// The outcomes of the SDK's calls. Each attempt counts, including retries.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CallsStatus {
    /// Long polls for tasks.
    pub polls: Outcomes,
    /// All other calls.
    pub others: Outcomes,
    /// When a poll was last open for seconds and not refused.
    #[serde(with = "time::option")]
    pub poll_accepted: Option<SystemTime>,
    /// Calls that the server refused for lack of authentication or permission.
    pub refusals: RefusalStatus,
}

impl CallsStatus {
    /// Both kinds, each with a name that is valid as a metric label.
    pub fn named(&self) -> [(&'static str, &Outcomes); 2] {
        [("poll", &self.polls), ("other", &self.others)]
    }

    /// The time of the last successful call of any kind.
    pub fn last_success(&self) -> Option<SystemTime> {
        self.polls.last_success.max(self.others.last_success)
    }
}

/// The outcomes of calls of one kind.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Outcomes {
    /// The number of calls by gRPC code, such as `Ok` or `Unavailable`. Codes that have not
    /// occurred are omitted.
    pub by_code: BTreeMap<String, u64>,
    /// The time of the last successful call.
    #[serde(with = "time::option")]
    pub last_success: Option<SystemTime>,
}

/// Calls that the server refused for lack of authentication or permission.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RefusalStatus {
    /// The number of refused calls.
    pub count: u64,
    /// The diagnosis of the last one.
    pub last: Option<Diagnosis>,
    /// The time of the last one.
    #[serde(with = "time::option")]
    pub last_at: Option<SystemTime>,
    /// The time since which calls are refused, until the server accepts a later one.
    #[serde(with = "time::option")]
    pub refusing_since: Option<SystemTime>,
}

/// The longest time without a poll that the server answered or accepted, for a ready worker. The
/// server answers an idle poll after 60 s, and the SDK gives up on a poll after 70 s. A worker polls
/// only while it has free slots, so a worker whose slots are all in use for longer than this counts
/// as not ready.
pub const POLL_LIMIT: Duration = Duration::from_secs(100);

/// The longest time that connections may fail for a ready worker. A server that restarts is usually
/// back sooner.
pub const FAILURE_LIMIT: Duration = Duration::from_secs(5);

/// The longest time that the read of a credential's file may take for a ready process. Calls go on
/// with the credential in use until it expires.
pub const STALL_LIMIT: Duration = Duration::from_secs(30);

/// Judges whether a worker with this status can do its work at `now`.
///
/// # Errors
/// The reasons why it cannot.
pub fn readiness(status: &Status, now: SystemTime) -> Result<(), Vec<String>> {
    let reasons = [
        phase(status, now),
        connection(status, now),
        status
            .connection
            .removed_ca
            .as_ref()
            .map(|removed| removed.told(now)),
        token(status, now),
        refusals(status, now),
    ];
    let mut reasons: Vec<_> = reasons.into_iter().flatten().collect();
    reasons.extend(status.credentials.stalled(now));
    if reasons.is_empty() {
        Ok(())
    } else {
        Err(reasons)
    }
}

fn phase(status: &Status, now: SystemTime) -> Option<String> {
    match &status.phase {
        Phase::Connecting { last_attempt: None } => {
            Some(format!("connecting to `{}`", status.target))
        }
        Phase::Connecting {
            last_attempt: Some(reason),
        } => Some(format!("connecting to `{}`: {reason}", status.target)),
        Phase::Stopping => Some("stopping: finishing running work".to_owned()),
        Phase::Working { since } => {
            let last = status
                .calls
                .polls
                .last_success
                .max(status.calls.poll_accepted);
            let silent = age(last.unwrap_or(*since).max(*since), now);
            (silent > POLL_LIMIT).then(|| {
                let last = last.map_or("there was none".to_owned(), |last| {
                    format!("the last one was at {}", rfc3339(last))
                });
                format!(
                    "no poll for tasks has succeeded for {}: {last}",
                    whole_seconds(silent)
                )
            })
        }
    }
}

fn connection(status: &Status, now: SystemTime) -> Option<String> {
    let failure = status.connection.last_failure.as_ref()?;
    let failing = age(failure.since, now);
    (failing > FAILURE_LIMIT).then(|| {
        format!(
            "the connection has been failing since {}, {}: {}",
            rfc3339(failure.since),
            whole_seconds(failing),
            failure.reason
        )
    })
}

/// A minted token may expire while there are no calls: the next call mints another.
fn token(status: &Status, now: SystemTime) -> Option<String> {
    let credentials = &status.credentials;
    let token = credentials.token.as_ref()?;
    let expired = token.valid_until.filter(|until| *until <= now);
    match &credentials.minting {
        None => expired.map(|at| {
            let why = match token.since {
                Some(_) => token.nothing_newer(),
                None => format!("{} is never renewed", token.from.join(", ")),
            };
            format!("the token expired at {}, and {why}", rfc3339(at))
        }),
        Some(minting) if token.in_use.is_none() || expired.is_some() => {
            let failure = minting.last_failure.as_ref()?;
            Some(format!(
                "minting tokens has been failing since {}: {}",
                rfc3339(failure.since),
                failure.reason
            ))
        }
        Some(_) => None,
    }
}

fn refusals(status: &Status, now: SystemTime) -> Option<String> {
    let refusals = &status.calls.refusals;
    let since = refusals.refusing_since?;
    Some(format!(
        "calls have been refused since {}, {}: {}",
        rfc3339(since),
        whole_seconds(age(since, now)),
        refusals
            .last
            .as_ref()
            .map_or("the reason is unknown", |last| &last.cause)
    ))
}

/// The time since then; zero if the clock was set back.
fn age(since: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(since).unwrap_or_default()
}

#[cfg(test)]
mod tests;
