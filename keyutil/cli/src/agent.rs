//! A token file that is kept current: the other end of [`TokenSource::file`].
//!
//! For a process that must not hold the signing key, which can sign for every namespace: this one
//! holds it, and gives the other a file with a short-lived token for one role.

mod error;
pub mod health;
mod output;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use secrecy::SecretString;
use tracing::{error, info};

use keyutil::{
    base::{chain, redact::is_content, time::rfc3339},
    credentials::{Credential, Refresh, TokenSource},
    status::{CredentialsStatus, Failure},
    token::ClaimsTemplate,
};
use output::Output;

pub use error::RenewalError;

/// The shortest token life that suits a file. A third of it is left when a token is renewed: in
/// that time the new one has to be written, and found by readers that look once a second.
pub const SHORTEST_LIFETIME: Duration = Duration::from_secs(15);

/// How long ago the last look may be. More means that a file system hangs.
const LOOK_LIMIT: Duration = Duration::from_secs(30);

/// How often a failure that stands is told again. Whoever wants to know at once asks `/readyz`.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// Keeps the token of one file current. Clones share one file.
#[derive(Clone, Debug)]
pub struct Renewal {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    source: TokenSource,
    output: Output,
    state: Mutex<State>,
}

/// How renewing has gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RenewalStatus {
    /// How often the file was written.
    pub writes: u64,
    /// How many looks have ended without a current token in the file.
    pub failures: u64,
    /// Why, if the last look did.
    pub last_failure: Option<Failure>,
    /// When the token in the file expires, as far as it was written by this process.
    pub valid_until: Option<SystemTime>,
}

#[derive(Debug)]
struct State {
    status: RenewalStatus,
    /// By a clock that nobody sets.
    looked_at: Instant,
    /// When a failure was last told.
    told_at: Option<Instant>,
}

impl Renewal {
    /// Mints with the key of `signing_key`, and writes the first token to `output`, for its owner
    /// alone. Readers see the old token or the new one, never half of either.
    ///
    /// Then [`Refresh::refresh`] does the rest: it renews the token at two thirds of its life, at once when
    /// the key changes, and whenever the file holds something else.
    ///
    /// # Errors
    /// [`RenewalError`]. `output` is then as it was.
    pub fn start(
        signing_key: PathBuf,
        template: ClaimsTemplate,
        output: PathBuf,
    ) -> Result<Self, RenewalError> {
        if is_content(&output) {
            return Err(RenewalError::NotAPath);
        }
        let source =
            TokenSource::minted(signing_key, template).map_err(RenewalError::SigningKey)?;
        let output = Output::take(output)?;
        let now = SystemTime::now();
        let renewal = Self {
            shared: Arc::new(Shared {
                source,
                output,
                state: Mutex::new(State {
                    status: RenewalStatus::default(),
                    looked_at: Instant::now(),
                    told_at: None,
                }),
            }),
        };
        renewal.renew(now)?;
        Ok(renewal)
    }

    /// How renewing has gone.
    pub fn status(&self) -> RenewalStatus {
        self.shared.state.lock().status.clone()
    }

    /// The token and the key that signs it.
    pub fn credentials(&self) -> CredentialsStatus {
        {
            let mut status = CredentialsStatus::default();
            self.shared.source.add_status(&mut status);
            status
        }
    }

    /// Whether readers of the file have a current token, and will have the next one.
    ///
    /// # Errors
    /// Every reason why not, in words.
    pub fn readiness(&self) -> Result<(), Vec<String>> {
        self.readiness_at(Instant::now())
    }

    fn readiness_at(&self, now: Instant) -> Result<(), Vec<String>> {
        let state = self.shared.state.lock();
        let mut reasons = Vec::new();
        if let Some(failure) = &state.status.last_failure {
            let until = state.status.valid_until.map_or_else(String::new, |until| {
                format!("; the token before expires at {}", rfc3339(until))
            });
            reasons.push(format!(
                "no token was written since {}: {}{until}",
                rfc3339(failure.since),
                failure.reason
            ));
        }
        let silent = now.saturating_duration_since(state.looked_at);
        if silent > LOOK_LIMIT {
            reasons.push(format!(
                "nobody has looked at the file for {} s: its file system hangs",
                silent.as_secs()
            ));
        }
        if reasons.is_empty() {
            Ok(())
        } else {
            Err(reasons)
        }
    }

    /// One look: writes the token that is current at `now`, unless the file holds it.
    fn look_at(&self, now: SystemTime) {
        if let TokenSource::Minted(minter) = &self.shared.source {
            minter.key().refresh();
        }
        if let Err(failure) = self.renew(now) {
            let reason = chain(&failure);
            let mut state = self.shared.state.lock();
            let told = state.told_at.is_some_and(|at| at.elapsed() < TELL_AGAIN);
            if !told || state.status.last_failure.is_none() {
                error!(
                    error = reason,
                    "the token could not be renewed: trying again"
                );
                state.told_at = Some(Instant::now());
            }
            state.status.failures += 1;
            Failure::note(&mut state.status.last_failure, reason, now);
        }
        self.shared.state.lock().looked_at = Instant::now();
    }

    fn renew(&self, now: SystemTime) -> Result<(), RenewalError> {
        let Shared { source, output, .. } = &*self.shared;
        output.keep()?;
        let token = source.token(now).map_err(RenewalError::Mint)?;
        let content = SecretString::from(format!("{}\n", token.text()));
        let written = !output.holds(&content);
        if written {
            output.write(&content)?;
            info!(
                path = %output.path().display(),
                token = token.identify(),
                expires_at = token.expires_at().map(rfc3339),
                "token written"
            );
        }
        let status = &mut self.shared.state.lock().status;
        status.writes += u64::from(written);
        status.last_failure = None;
        status.valid_until = token.expires_at();
        Ok(())
    }
}

impl Refresh for Renewal {
    fn refresh(&self) {
        self.look_at(SystemTime::now());
    }
}

#[cfg(test)]
mod tests;
