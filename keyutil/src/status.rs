//! How a connection and its credentials are doing, at one moment.
//!
//! Plain values, for whoever shows them: nothing in here is a secret, or changes after it was
//! made.
//!
//! [`Observer`](crate::connect::Observer) makes them, and [`readiness`] judges them.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use serde::Serialize;

use crate::{
    base::time::{self, rfc3339, whole_seconds},
    diagnosis::Diagnosis,
    x509::certificate::CertificateSummary,
};

/// How a connection and its credentials are doing, at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// `host:port` of the server.
    pub target: String,
    /// The namespace that the connection is for.
    pub namespace: String,
    /// Where in its life the process is.
    pub phase: Phase,
    /// What is presented, and what the server is verified with.
    pub credentials: CredentialsStatus,
    /// Handshakes and failures.
    pub connection: ConnectionStatus,
    /// Calls of the SDK, by outcome.
    pub calls: CallsStatus,
}

/// Where in its life a process is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum Phase {
    /// It waits for an answer to its first authorized call.
    Connecting {
        /// Why the last attempt failed, if one did.
        last_attempt: Option<String>,
    },
    /// It has been answered, and works.
    Working {
        /// When it was answered.
        #[serde(with = "time")]
        since: SystemTime,
    },
    /// It was told to stop, and finishes what is in hand.
    Stopping,
}

/// Something that went wrong, and has gone wrong ever since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// What went wrong last, in words.
    pub reason: String,
    /// When it went wrong for the first time.
    #[serde(with = "time")]
    pub since: SystemTime,
}

impl Failure {
    /// Keeps the time of the failure that stands already.
    pub fn note(standing: &mut Option<Self>, reason: String, now: SystemTime) {
        let since = standing.as_ref().map_or(now, |standing| standing.since);
        *standing = Some(Self { reason, since });
    }
}

/// The credentials of a connection. One that it does without is `None`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CredentialsStatus {
    /// What is sent with each call.
    pub token: Option<CredentialStatus>,
    /// What tokens are signed with, where they are minted here.
    pub signing_key: Option<CredentialStatus>,
    /// How minting has gone, where tokens are minted here.
    pub minting: Option<MintingStatus>,
    /// What is presented in TLS handshakes.
    pub client_certificate: Option<CredentialStatus>,
    /// What the server's certificate is verified with.
    pub server_ca: Option<CredentialStatus>,
}

impl CredentialsStatus {
    /// Those that there are, each with a name that is fit for a label.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &CredentialStatus)> {
        [
            ("token", &self.token),
            ("signing_key", &self.signing_key),
            ("client_certificate", &self.client_certificate),
            ("server_ca", &self.server_ca),
        ]
        .into_iter()
        .filter_map(|(name, credential)| Some((name, credential.as_ref()?)))
    }
}

/// One credential.
#[derive(Clone, Debug, Serialize)]
pub struct CredentialStatus {
    /// What a person can recognise it by: kid, or serial and issuer. `None` before a first token
    /// was minted.
    pub in_use: Option<String>,
    /// The same for a machine: serial number or kid.
    pub id: Option<String>,
    /// Where it is read from.
    pub from: Vec<String>,
    /// When it was taken into use; `None` for what is never replaced.
    #[serde(with = "time::option")]
    pub since: Option<SystemTime>,
    /// When it stops being of use, if ever.
    #[serde(with = "time::option")]
    pub valid_until: Option<SystemTime>,
    /// How often a new one has replaced the one before.
    pub reloads: u64,
    /// How many new contents were unusable.
    pub failed_reloads: u64,
    /// What is wrong with the content of the files, while they hold something unusable.
    pub last_failure: Option<Failure>,
}

impl CredentialStatus {
    /// Of one that is never replaced.
    pub fn fixed(from: &str) -> Self {
        Self {
            in_use: None,
            id: None,
            from: vec![from.to_owned()],
            since: None,
            valid_until: None,
            reloads: 0,
            failed_reloads: 0,
            last_failure: None,
        }
    }
}

/// How minting has gone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MintingStatus {
    /// How many tokens were minted.
    pub minted: u64,
    /// How often minting has failed.
    pub failed: u64,
    /// Why, if the last attempt did.
    pub last_failure: Option<Failure>,
}

/// How connecting has gone.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ConnectionStatus {
    /// How many TLS handshakes were finished, and the server answered after them. None in
    /// plaintext.
    pub handshakes: u64,
    /// The last of them.
    pub last_handshake: Option<Handshake>,
    /// How many connections have failed.
    pub failures: u64,
    /// Why the last one failed, while no later one has been answered on.
    pub last_failure: Option<Failure>,
    /// Why there is no connection with the newest certificate and CAs, which are those that the
    /// status of the credentials shows, while calls go on with those before.
    pub rejected: Option<Failure>,
}

/// One finished TLS handshake, after which the server has answered: with TLS 1.3 it may refuse what
/// it was shown until then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Handshake {
    /// When.
    #[serde(with = "time")]
    pub at: SystemTime,
    /// Such as `TLSv1_3`.
    pub tls_version: Option<String>,
    /// What the server presented.
    pub server: Option<Presented>,
    /// What we presented, to a server that asked.
    pub client: Option<Presented>,
}

impl Handshake {
    /// Whether both sides have presented what they presented in the other one.
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
    /// In upper-case hex.
    pub serial: String,
    /// The distinguished name of the CA.
    pub issuer: String,
    /// The last second at which it is valid.
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

/// What has become of the SDK's calls. Each attempt counts, also those that the SDK repeats.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CallsStatus {
    /// Long polls for tasks.
    pub polls: Outcomes,
    /// All others.
    pub others: Outcomes,
    /// Calls that the server refused for lack of permission.
    pub refusals: RefusalStatus,
}

impl CallsStatus {
    /// Polls and the others, each with a name that is fit for a label.
    pub fn named(&self) -> [(&'static str, &Outcomes); 2] {
        [("poll", &self.polls), ("other", &self.others)]
    }

    /// The last call of any kind that went well.
    pub fn last_success(&self) -> Option<SystemTime> {
        self.polls.last_success.max(self.others.last_success)
    }
}

/// What has become of calls of one kind.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Outcomes {
    /// How many have ended with this code, such as `Ok` or `Unavailable`. Codes that have not
    /// occurred are left out.
    pub by_code: BTreeMap<String, u64>,
    /// The last one that went well.
    #[serde(with = "time::option")]
    pub last_success: Option<SystemTime>,
}

/// Calls that the server refused for lack of permission.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RefusalStatus {
    /// How many there were.
    pub count: u64,
    /// The last one: what may be the cause, and what to do.
    pub last: Option<Diagnosis>,
    /// When.
    #[serde(with = "time::option")]
    pub last_at: Option<SystemTime>,
    /// Since when calls are refused, if none that was begun later has been accepted.
    #[serde(with = "time::option")]
    pub refusing_since: Option<SystemTime>,
}

/// For how long a worker may go without a poll that went well. The server answers an idle poll
/// after 60 s, and the SDK gives up on one after 70 s. A worker polls for what it has room for, so
/// one whose every slot is taken for longer than this looks the same from here.
pub const POLL_LIMIT: Duration = Duration::from_secs(100);

/// For how long connecting may fail. A server that restarts is back sooner, as a rule.
pub const FAILURE_LIMIT: Duration = Duration::from_secs(5);

/// Whether a worker with this status can do its work at `now`.
///
/// # Errors
/// Every reason why it cannot, in words.
pub fn readiness(status: &Status, now: SystemTime) -> Result<(), Vec<String>> {
    let reasons = [
        phase(status, now),
        connection(status, now),
        token(status, now),
        refusals(status, now),
    ];
    let reasons: Vec<_> = reasons.into_iter().flatten().collect();
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
        Phase::Stopping => Some("stopping: finishing the work in hand".to_owned()),
        Phase::Working { since } => {
            let last = status.calls.polls.last_success;
            let silent = age(last.unwrap_or(*since).max(*since), now);
            (silent > POLL_LIMIT).then(|| {
                let last = last.map_or("none ever has".to_owned(), |last| {
                    format!("the last one did at {}", rfc3339(last))
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

/// A minted token may expire while nothing is called: the next call mints another.
fn token(status: &Status, now: SystemTime) -> Option<String> {
    let credentials = &status.credentials;
    let token = credentials.token.as_ref()?;
    let expired = token.valid_until.filter(|until| *until <= now);
    match &credentials.minting {
        None => expired.map(|at| {
            let from = token.from.join(", ");
            let why = match (&token.last_failure, token.since) {
                (Some(failure), _) => format!("nothing newer can be used: {}", failure.reason),
                (None, Some(_)) => format!("`{from}` holds no newer one"),
                (None, None) => format!("the one of {from} is never renewed"),
            };
            format!("the token expired at {}, and {why}", rfc3339(at))
        }),
        Some(minting) if token.in_use.is_none() || expired.is_some() => {
            let failure = minting.last_failure.as_ref()?;
            Some(format!(
                "no token can be minted since {}: {}",
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
            .map_or("for a reason unknown", |last| &last.cause)
    ))
}

/// None at all, where the clock was set back.
fn age(since: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(since).unwrap_or_default()
}

#[cfg(test)]
mod tests;
