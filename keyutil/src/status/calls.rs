//! Calls by outcome, and refusals.

use std::{collections::BTreeMap, time::SystemTime};

use serde::Serialize;

use crate::base::time;
use crate::diagnosis::Diagnosis;

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
