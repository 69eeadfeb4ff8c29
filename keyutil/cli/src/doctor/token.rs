//! The token that a call would bear now, what it permits, and what decides whether the server accepts
//! it: the key set and the clocks.

use std::time::{Duration, SystemTime};

use secrecy::ExposeSecret;
use tonic::Status;

use super::{
    Examination, Report,
    server::{Probe, takes},
};
use crate::keys::{
    fetch::{Fetched, fetch},
    jwks,
    keyring::Keyring,
    verify,
};
use keyutil::{
    base::{chain, redact, time::when},
    connect::{ConnectError, Session, check::Program},
    credentials::{Credential, Minter, Token, TokenSource},
    diagnosis::{Class, Diagnose, Diagnosis, Step},
    explain::{Explanation, TokenVerdict},
    settings::{SettingsErrors, non_empty},
    token::{Claims, claims::seconds},
};

/// Proxies have limits of 8 KiB and less for all headers together (nginx: `large_client_header_buffers`).
const LARGE: usize = 6 * 1024;

/// `refused` is why, if the server has refused it.
pub(super) fn check_token(
    report: &mut Report,
    examination: &Examination<'_>,
    source: Option<&TokenSource>,
    problems: &SettingsErrors,
    refused: Option<&Explanation>,
) {
    let mut unusable = problems
        .all()
        .iter()
        .filter(|problem| problem.step == Step::Token)
        .peekable();
    if unusable.peek().is_some() {
        for problem in unusable {
            report.fail(problem.clone());
        }
        return;
    }
    let Some(source) = source else {
        if let Some(source) = examination.connect.token.sources().next() {
            let seen = format!("no token is sent: {source} is not usable, see above");
            report.skip(Step::Token, seen);
        } else if !failed(report, refused, Vec::new()) {
            report.skip(
                Step::Token,
                "no token is sent: there is no `--signing-key`, `--token-file` or `--api-key`",
            );
        }
        return;
    };
    let now = SystemTime::now();
    let token = match source.token(now) {
        Ok(token) => token,
        Err(error) => {
            report.fail(Diagnosis {
                step: Step::Token,
                class: Class::Token,
                cause: format!("no token can be sent: {}", chain(&error)),
                hint: Some("see to whoever renews the token, or to the signing key".to_owned()),
            });
            return;
        }
    };
    let content = token.content();
    let details = content
        .map(|content| {
            let lifetime = match content.expires_at() {
                Some(until) => format!("valid until {}", when(until, now)),
                None => content.lifetime(now).to_string(),
            };
            vec![
                format!("header   {}", content.header),
                format!("claims   {}", content.claims),
                format!("lifetime {lifetime}"),
                format!("size     {} bytes", token.header().len()),
            ]
        })
        .unwrap_or_default();
    if failed(report, refused, details.clone()) {
        return;
    }
    let identity = token.identify();
    report.ok(Step::Token, format!("{source}: {identity}"));
    report.detail(details);
    if token.header().len() > LARGE {
        report.warn(
            Step::Token,
            format!(
                "the token has {} bytes: proxies refuse headers that large",
                token.header().len()
            ),
            "have it made with the permissions that are needed, and no more",
        );
    }
    // Of a token that was refused the explanation says it.
    if refused.is_none()
        && let Some(content) = content.filter(|content| !content.permissions().is_empty())
    {
        for warning in content.lint(Some(&examination.connect.namespace)) {
            report.warn(Step::Token, warning, "see `keyutil token inspect --help`");
        }
    }
}

/// Whether what is wrong with the token is certain; then it stands in the report.
fn failed(report: &mut Report, refused: Option<&Explanation>, details: Vec<String>) -> bool {
    let Some(Explanation::Certain(causes)) = refused else {
        return false;
    };
    let mut details = Some(details);
    let mut any = false;
    for cause in causes.iter().filter(|cause| cause.step == Step::Token) {
        any = true;
        report.fail(cause.clone());
        report.detail(details.take().unwrap_or_default());
    }
    any
}

/// What the token permits.
pub(super) async fn check_permission(
    session: &Session,
    report: &mut Report,
    program: Option<Program>,
    probe: Probe,
    why: Option<&Explanation>,
) -> bool {
    match probe {
        Probe::Accepted => {}
        Probe::NoNamespace(error) => {
            report.fail(error.diagnosis());
            return false;
        }
        Probe::Failed(error) => {
            let diagnosis = error.diagnosis();
            // What is said already need not be said again.
            if report.has_failed_at(diagnosis.step) {
                report.skip(Step::Permission, "the call was not answered: see above");
            } else {
                report.fail(diagnosis);
            }
            return false;
        }
        Probe::Refused(status) => {
            refused(session, report, status, why);
            return false;
        }
    }
    let how = match session.token_source() {
        Some(_) => "",
        None => ", and no token was sent",
    };
    report.ok(
        Step::Permission,
        format!(
            "`DescribeNamespace` of `{}` is answered{how}",
            session.namespace()
        ),
    );
    if session.token_source().is_some()
        && session.with_token(None).describe_namespace().await.is_ok()
    {
        report.warn(
            Step::Permission,
            "it is answered without a token, too: this server asks nobody for permission",
            "if that is not meant, set `authorizer: default` and `claimMapper: default` in \
             `global.authorization` of the server",
        );
    }
    let Some(program) = program else {
        return true;
    };
    match session.permits(program).await {
        Ok(()) => {
            let purpose = program.purpose();
            report.ok(Step::Permission, format!("the token suffices to {purpose}"));
            true
        }
        Err(diagnosis) => {
            report.fail(diagnosis);
            false
        }
    }
}

fn refused(session: &Session, report: &mut Report, status: Status, why: Option<&Explanation>) {
    let Some(explanation) = why else {
        return;
    };
    let diagnosis = refusal(session, status, explanation.clone()).diagnosis();
    match explanation {
        Explanation::Possible(suspects) => {
            // What is the matter with the key set is told there; it may not be the cause.
            let others = if report.has_failed_at(Step::Jwks) {
                suspects
                    .iter()
                    .filter(|other| other.step != Step::Jwks)
                    .map(|other| format!("perhaps, too: {}", other.cause))
                    .collect()
            } else {
                report.fail(diagnosis);
                Vec::new()
            };
            report.skip(Step::Permission, "not known: the token is not accepted");
            report.detail(others);
        }
        Explanation::Certain(causes) => {
            // Those of the token and of the key set are told there.
            let here = [Step::Clock, Step::Permission];
            for cause in causes.iter().filter(|cause| here.contains(&cause.step)) {
                report.fail(cause.clone());
            }
            if !report.has_failed_at(Step::Permission) {
                report.skip(Step::Permission, "not known: the token is not accepted");
            }
        }
    }
}

fn refusal(session: &Session, status: Status, explanation: Explanation) -> ConnectError {
    ConnectError::Refused {
        target: session.target(),
        namespace: session.namespace().to_owned(),
        explanation,
        status,
    }
}

/// What is known of the key set.
#[derive(Debug, Default)]
pub(super) struct KeySet {
    /// Whether somebody has said that this is the one which the server reads.
    pub(super) of_the_server: bool,
    pub(super) found: Option<Fetched>,
    /// Whether the key that signs was put there less than one refresh interval ago.
    pub(super) key_is_new: bool,
}

impl KeySet {
    /// Its bytes.
    pub(super) fn document(&self) -> Option<&[u8]> {
        self.found.as_ref().map(|found| &found.document[..])
    }
}

/// `verdict` is what the server makes of the token: if it accepts it, it reads
/// another key set than one which does not verify it.
pub(super) async fn check_key_set(
    report: &mut Report,
    examination: &Examination<'_>,
    source: Option<&TokenSource>,
    verdict: TokenVerdict,
) -> KeySet {
    let beside = beside_the_signing_key(examination);
    let of_the_server = examination.jwks.is_some();
    let Some(name) = examination.jwks.map(str::to_owned).or(beside) else {
        report.skip(
            Step::Jwks,
            "not known: give the address from which the server reads it with `--jwks`",
        );
        return KeySet::default();
    };
    let fail = |report: &mut Report, cause: String, hint: &str| {
        if verdict == TokenVerdict::Accepted {
            let seen = format!("{cause}; the server accepts the token all the same");
            report.warn(Step::Jwks, seen, hint);
        } else {
            report.fail(Diagnosis {
                step: Step::Jwks,
                class: Class::Token,
                cause,
                hint: Some(hint.to_owned()),
            });
        }
    };
    let fetched = fetch(&name, examination.limit()).await;
    let name = redact::source(&name);
    let found = match fetched {
        Ok(found) => found,
        Err(error) => {
            let hint = "see that the endpoint runs, and that `keySourceURIs` of the server and \
                        `--jwks` name it; a server that starts without it refuses every token \
                        until it has fetched it";
            fail(report, chain(&error), hint);
            return KeySet::default();
        }
    };
    let kids = match jwks::kids(&found.document) {
        Ok(kids) if !kids.is_empty() => kids,
        Ok(_) => {
            let cause = format!(
                "the key set `{name}` has no keys: a server that reads it drops all it had"
            );
            fail(
                report,
                cause,
                "publish the public keys: `keyutil jwks serve` never serves less",
            );
            return KeySet::default();
        }
        Err(error) => {
            let cause = format!("the key set `{name}` cannot be read: {}", chain(&error));
            fail(
                report,
                cause,
                "have the endpoint serve a JWKS: `keyutil jwks serve` does",
            );
            return KeySet::default();
        }
    };
    let mut set = KeySet {
        of_the_server,
        found: Some(found),
        key_is_new: false,
    };
    let token = source.and_then(TokenSource::current);
    let text = token.as_ref().map(Token::text);
    let kid = token
        .as_ref()
        .and_then(Token::content)
        .and_then(|content| content.kid());
    if let (Some(text), Some(document), Some(_)) = (text, set.document(), kid) {
        let wrong = verify::verify(text, document, None).err();
        if let Some(cause) = wrong.and_then(|error| error.of_the_key_set()) {
            fail(
                report,
                format!("`{name}`: {}", cause.cause),
                cause.hint.as_deref().unwrap_or_default(),
            );
            return set;
        }
    }
    tell(report, &name, &kids, kid, &set);
    if verdict == TokenVerdict::Rejected {
        set.key_is_new = tell_age(report, examination, kid);
    }
    set
}

fn tell(report: &mut Report, name: &str, kids: &[String], kid: Option<&str>, set: &KeySet) {
    let type_ = set
        .found
        .as_ref()
        .and_then(|found| found.content_type.as_deref());
    let type_ = type_.map(|type_| format!(", {type_}")).unwrap_or_default();
    let verifies = match kid {
        Some(kid) => format!(", and verifies the token with `{kid}`"),
        None => String::new(),
    };
    report.ok(
        Step::Jwks,
        format!("`{name}` has {} key(s){type_}{verifies}", kids.len()),
    );
    report.detail(kids.iter().map(|kid| format!("kid {kid}")));
    if !set.of_the_server {
        report.detail(vec![
            "this is the file beside the signing key; whether the server reads the same is not \
             known: give `--jwks`"
                .to_owned(),
        ]);
    }
}

/// Where the server does not accept the token, it may not know the key yet: then it is new.
fn tell_age(report: &mut Report, examination: &Examination<'_>, kid: Option<&str>) -> bool {
    let Some(published) = published(examination, kid) else {
        return false;
    };
    let age = SystemTime::now()
        .duration_since(published)
        .unwrap_or_default();
    let ago = humantime::format_duration(Duration::from_secs(age.as_secs()));
    let refresh = humantime::format_duration(examination.jwks_refresh);
    let new = age < examination.jwks_refresh;
    if new {
        report.warn(
            Step::Jwks,
            format!("the key was published {ago} ago: the server may not have fetched it yet"),
            format!(
                "wait for one `refreshInterval` of the server ({refresh}, by `--refresh-interval`)"
            ),
        );
    } else {
        report.detail(vec![format!(
            "the key was published {ago} ago, and the server fetches every {refresh}"
        )]);
    }
    new
}

/// The signing keys of `keyutil key` have their key set beside them.
fn beside_the_signing_key(examination: &Examination<'_>) -> Option<String> {
    let ring = ring(examination)?;
    Some(ring.jwks_path().to_str()?.to_owned())
}

fn ring(examination: &Examination<'_>) -> Option<Keyring> {
    let key = non_empty(&examination.connect.token.signing_key)?;
    let ring = Keyring::at(key.parent()?);
    ring.jwks_path().exists().then_some(ring)
}

/// When the key was put into the key set, as far as the ring knows.
fn published(examination: &Examination<'_>, kid: Option<&str>) -> Option<SystemTime> {
    let ring = ring(examination).filter(|ring| ring.ring_path().exists())?;
    let ring = ring.look(SystemTime::now()).ok()?;
    let key = ring.keys().find(|key| Some(&key.kid[..]) == kid)?;
    Some(key.published)
}

/// As far away as the server's clock is looked for.
const FARTHEST: i64 = 2 * 24 * 60 * 60;

/// What a second of reading and half a second of rounding cannot explain.
const NOTABLE: i64 = 5;

/// Says what is known. `accepted` is whether the server has accepted the token.
pub(super) fn check_clock(
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
pub(super) async fn measure_clock(session: &Session, minter: &Minter) -> Option<i64> {
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
pub(super) fn clock_cause(seconds_ahead: i64) -> Diagnosis {
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
