//! How a connection and its credentials are doing, at one moment.
//!
//! Plain values, for whoever shows them: nothing in here is a secret, or changes after it was
//! made.
//!
//! | what | file |
//! |---|---|
//! | what is in use, since when, and how replacing it has gone | `credentials.rs` |
//! | handshakes and failures | `connection.rs` |
//! | calls by outcome, and refusals | `calls.rs` |
//! | whether all that is good enough, and if not, why | `readiness.rs` |
//! | where the values come from | [`crate::connect::Observer`] |

use std::time::SystemTime;

use serde::Serialize;

use crate::base::time;

mod calls;
mod connection;
mod credentials;
mod readiness;

pub use calls::{CallsStatus, Outcomes, RefusalStatus};
pub use connection::{ConnectionStatus, Handshake, Presented};
pub use credentials::{CredentialStatus, CredentialsStatus, MintingStatus};
pub use readiness::{FAILURE_LIMIT, POLL_LIMIT, readiness};

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
