//! Whether a worker can do its work, and if not, why.

use std::time::{Duration, SystemTime};

use super::{Phase, Status};
use crate::base::time::{rfc3339, whole_seconds};

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
