//! The clocks: ours, and what can be learnt of the others'.

use std::time::{Duration, SystemTime};

use secrecy::ExposeSecret;

use super::{Report, jwks::KeySet, server::takes};
use keyutil::{
    connect::Session,
    credentials::{Minter, Token, TokenSource},
    diagnosis::{Class, Diagnosis, Step},
    token::{Claims, claims::seconds},
};

/// As far away as the server's clock is looked for.
const FARTHEST: i64 = 2 * 24 * 60 * 60;

/// What a second of reading and half a second of rounding cannot explain.
const NOTABLE: i64 = 5;

/// Says what is known. `accepted` is whether the server has accepted the token.
pub(super) fn look(
    report: &mut Report,
    source: Option<&TokenSource>,
    key_set: &KeySet,
    accepted: bool,
) {
    let now = SystemTime::now();
    let mut known = false;
    let token = source.and_then(TokenSource::current);
    if let Some(content) = token.as_ref().and_then(Token::content).filter(|_| accepted) {
        let ahead = content.expires_at().map(|until| offset(until, now));
        let behind = content.valid_from().map(|from| offset(from, now));
        let bounds = match (behind, ahead) {
            (Some(behind), Some(ahead)) => Some(format!(
                "at most {} behind this machine's, and {} ahead of it",
                words(behind),
                words(ahead)
            )),
            (None, Some(ahead)) => {
                Some(format!("at most {} ahead of this machine's", words(ahead)))
            }
            (Some(behind), None) => {
                Some(format!("at most {} behind this machine's", words(behind)))
            }
            (None, None) => None,
        };
        if let Some(bounds) = bounds {
            known = true;
            report.ok(
                Step::Clock,
                format!("the server has accepted the token by its times: its clock is {bounds}"),
            );
        }
    }
    if let Some((date, at)) = key_set
        .found
        .as_ref()
        .and_then(|found| Some((found.date?, found.at)))
    {
        known = true;
        let off = offset(date, at);
        if off.abs() > NOTABLE {
            report.warn(
                Step::Clock,
                format!("the clock of the JWKS endpoint is {}", direction(off)),
                "set the clocks of both machines: `timedatectl` shows whether they are synchronised",
            );
        } else {
            report.ok(
                Step::Clock,
                "the clock of the JWKS endpoint shows what this machine's does",
            );
        }
    }
    if !known {
        report.skip(Step::Clock, "nobody tells what time it is elsewhere");
    }
}

/// Measures the server's clock, if the token is minted here: with tokens that permit nothing, on a
/// call that everybody may make. Such a call is answered from the token's `nbf` on and no earlier.
///
/// Comes back with the seconds by which the server is ahead of us; or with nothing, where the
/// server takes no token at all, so that something else is wrong, or does not answer each time.
pub(super) async fn measure(session: &Session, minter: &Minter) -> Option<i64> {
    let taken_from = async |seconds_ahead: i64| {
        let token = permitting_nothing(minter, seconds_ahead)?;
        takes(session, &token).await
    };
    let (mut ahead, mut behind) = (-FARTHEST, FARTHEST);
    if !taken_from(ahead).await? || taken_from(behind).await? {
        return None;
    }
    // The server takes what is valid from `ahead` on, and not what is valid from `behind` on.
    while behind - ahead > 1 {
        let middle = ahead + (behind - ahead) / 2;
        if taken_from(middle).await? {
            ahead = middle;
        } else {
            behind = middle;
        }
    }
    // One of two servers behind one address may know another time, or other keys.
    let same = taken_from(ahead - 2).await? && !taken_from(behind + 2).await?;
    same.then_some(ahead)
}

fn permitting_nothing(minter: &Minter, seconds_ahead: i64) -> Option<Token> {
    let now = SystemTime::now();
    let begin = seconds(now).checked_add_signed(seconds_ahead)?;
    let claims = Claims {
        sub: "keyutil-doctor".to_owned(),
        permissions_claim: Default::default(),
        iat: begin,
        nbf: begin,
        exp: seconds(now).checked_add_signed(3 * FARTHEST)?,
        aud: minter.template().audience.clone(),
        permissions: Vec::new(),
    };
    let raw = minter.key().current().mint(&claims).ok()?;
    Token::parse(raw.expose_secret(), now).ok()
}

/// What a measured clock means.
pub(super) fn cause(seconds_ahead: i64) -> Diagnosis {
    Diagnosis {
        step: Step::Clock,
        class: Class::Token,
        cause: format!(
            "the server's clock is {}, and so the token is not valid there",
            direction(seconds_ahead)
        ),
        hint: Some(
            "set the clock of the machine that is wrong: `timedatectl` shows whether it is \
             synchronised"
                .to_owned(),
        ),
    }
}

/// The first is ahead of the second by this, in whole seconds.
fn offset(first: SystemTime, second: SystemTime) -> i64 {
    let whole = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    match first.duration_since(second) {
        Ok(ahead) => whole(ahead),
        Err(behind) => -whole(behind.duration()),
    }
}

fn words(seconds: i64) -> String {
    humantime::format_duration(Duration::from_secs(seconds.unsigned_abs())).to_string()
}

fn direction(seconds_ahead: i64) -> String {
    let side = if seconds_ahead < 0 {
        "behind"
    } else {
        "ahead of"
    };
    format!("{} {side} that of this machine", words(seconds_ahead))
}
