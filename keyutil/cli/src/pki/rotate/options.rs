//! What a rotation is asked for.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::pki::InitOptions;

/// What [`rotate_leaf`](super::rotate_leaf) is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeafOptions {
    /// How long the new certificate is valid: as long as the old one was, if not said.
    pub lifetime: Option<Duration>,
}

/// What [`rotate_authority`](super::rotate_authority) is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthorityOptions {
    /// How long the new CA is valid. Only [`Step::Trust`] makes one.
    pub lifetime: Duration,
    /// How often the server looks for new files (`global.tls.refreshInterval`).
    pub refresh_interval: Duration,
    /// How long a replaced file takes to reach who reads it.
    pub propagation: Duration,
    /// Every temporal-server was restarted since [`Step::Trust`]: asked of the internode CA.
    pub servers_restarted: bool,
}

impl AuthorityOptions {
    /// A server that is told to look once a minute.
    pub const REFRESH_INTERVAL: Duration = Duration::from_secs(60);
    /// Enough for files on the same machine, which are looked at once a second.
    pub const PROPAGATION: Duration = Duration::from_secs(10);

    /// How long a step waits for everybody to have seen the step before.
    #[must_use]
    pub fn wait(&self) -> Duration {
        self.refresh_interval
            .saturating_add(self.propagation)
            .min(LONGEST_WAIT)
    }
}

/// Longer than anybody lives, and short enough to be added to any time.
const LONGEST_WAIT: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

impl Default for AuthorityOptions {
    fn default() -> Self {
        Self {
            lifetime: InitOptions::AUTHORITY_LIFETIME,
            refresh_interval: Self::REFRESH_INTERVAL,
            propagation: Self::PROPAGATION,
            servers_restarted: false,
        }
    }
}

/// One step of the rotation of a CA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// Both CAs are trusted.
    Trust,
    /// All certificates are made anew.
    Reissue,
    /// The new CA alone is trusted.
    Retire,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Trust => "trust",
            Self::Reissue => "reissue",
            Self::Retire => "retire",
        })
    }
}
