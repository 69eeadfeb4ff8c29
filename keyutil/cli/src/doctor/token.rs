//! The checks of the token: its content, its permissions, the key set and the clocks.

use std::time::{Duration, SystemTime};

use secrecy::ExposeSecret;
use tonic::Status;

use super::{
    Examination, Report,
    server::{Probe, accepts_token},
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

/// Some proxies limit all headers together to 8 KiB (nginx: `large_client_header_buffers`).
const LARGE: usize = 6 * 1024;

/// `refused` explains why the server refused the token, if it did.
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
            let seen = format!("no token is sent: {source} is unusable, see above");
            report.skip(Step::Token, seen);
        } else if !failed(report, refused, Vec::new()) {
            report.skip(
                Step::Token,
                "no token is sent: none of `--signing-key`, `--token-file` and `--api-key` is given",
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
                // The cause says what to check.
                hint: None,
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
                "the token has {} bytes: some proxies refuse headers of this size",
                token.header().len()
            ),
            "request a token with only the permissions that are needed",
        );
    }
    if let Some(ring) = ring(examination)
        && let Some(expiry) = token.expires_at()
        && let Some(warning) = ring.outlived_by(expiry.duration_since(now).unwrap_or_default())
    {
        report.warn(
            Step::Token,
            warning,
            "or mint tokens with a shorter lifetime",
        );
    }
    // The explanation covers the permissions of a token that was refused.
    if refused.is_none()
        && let Some(content) = content.filter(|content| !content.permissions().is_empty())
    {
        for warning in content.lint(Some(&examination.connect.namespace)) {
            report.warn(Step::Token, warning, "see `keyutil token inspect --help`");
        }
    }
}

/// Reports the certain causes that concern the token. Returns whether there are any.
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

/// Returns whether the token suffices.
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
            // The same failure is reported at its own step.
            if report.has_failed_at(diagnosis.step) {
                report.skip(Step::Permission, "the call was not answered, see above");
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
        None => " without a token",
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
            "it is also answered without a token: authorization is disabled on this server",
            "to enable it, set `authorizer: default` and `claimMapper: default` in \
             `global.authorization` of the server",
        );
    }
    let Some(program) = program else {
        return true;
    };
    match session.permits(program).await {
        Ok(()) => {
            let purpose = program.purpose();
            report.ok(
                Step::Permission,
                format!("the token is sufficient to {purpose}"),
            );
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
            // A broken key set is reported at its own step; it may not be the cause.
            let others = if report.has_failed_at(Step::Jwks) {
                suspects
                    .iter()
                    .filter(|other| other.step != Step::Jwks)
                    .map(|other| format!("possible cause: {}", other.cause))
                    .collect()
            } else {
                report.fail(diagnosis);
                Vec::new()
            };
            report.skip(Step::Permission, "unknown: the token is not accepted");
            report.detail(others);
        }
        Explanation::Certain(causes) => {
            // Causes that concern the token or the key set are reported at their own steps.
            let here = [Step::Clock, Step::Permission];
            for cause in causes.iter().filter(|cause| here.contains(&cause.step)) {
                report.fail(cause.clone());
            }
            if !report.has_failed_at(Step::Permission) {
                report.skip(Step::Permission, "unknown: the token is not accepted");
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
    /// Whether `--jwks` names it: then it is the one that the server reads.
    pub(super) named_by_flag: bool,
    pub(super) found: Option<Fetched>,
    /// Whether the signing key was published less than one refresh interval ago.
    pub(super) key_is_new: bool,
}

impl KeySet {
    /// Returns the document.
    pub(super) fn document(&self) -> Option<&[u8]> {
        self.found.as_ref().map(|found| &found.document[..])
    }
}

/// `verdict` is the server's verdict on the token. If the server accepts a token that this key set
/// does not verify, it reads another key set.
pub(super) async fn check_key_set(
    report: &mut Report,
    examination: &Examination<'_>,
    source: Option<&TokenSource>,
    verdict: TokenVerdict,
) -> KeySet {
    let beside = beside_the_signing_key(examination);
    let named_by_flag = examination.jwks.is_some();
    let Some(name) = examination.jwks.map(str::to_owned).or(beside) else {
        report.skip(
            Step::Jwks,
            "unknown: name the key set that the server reads with `--jwks`",
        );
        return KeySet::default();
    };
    let fail = |report: &mut Report, cause: String, hint: &str| {
        if verdict == TokenVerdict::Accepted {
            let seen = format!("{cause}; the server accepts the token nevertheless");
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
            let hint = "check that the endpoint runs, and that `keySourceURIs` of the server and \
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
                "the key set `{name}` has no keys: a server that reads it drops the keys it has"
            );
            fail(
                report,
                cause,
                "publish the public keys; `keyutil jwks serve` never serves an empty set",
            );
            return KeySet::default();
        }
        Err(error) => {
            let cause = format!("the key set `{name}` cannot be read: {}", chain(&error));
            fail(
                report,
                cause,
                "serve a JWKS there, for example with `keyutil jwks serve`",
            );
            return KeySet::default();
        }
    };
    let mut set = KeySet {
        named_by_flag,
        found: Some(found),
        key_is_new: false,
    };
    let token = source.and_then(TokenSource::current);
    let text = token.as_ref().map(Token::text);
    let kid = token
        .as_ref()
        .and_then(Token::content)
        .and_then(|content| content.kid());
    if let Some(document) = set.document() {
        // A set that the server refuses is reported without a token, too.
        let wrong = match (text, kid) {
            (Some(text), Some(_)) => verify::verify(text, document, None).err(),
            _ => verify::server_keys(document).err(),
        };
        if let Some(cause) = wrong.and_then(|error| error.key_set_diagnosis()) {
            fail(
                report,
                format!("`{name}`: {}", cause.cause),
                cause.hint.as_deref().unwrap_or_default(),
            );
            return set;
        }
    }
    report_key_set(report, &name, &kids, kid, &set);
    let twice = set.document().and_then(verify::kid_of_two_keys);
    if let Some(kid) = twice {
        report.warn(
            Step::Jwks,
            format!("two keys have the kid `{kid}`: the server uses the last one"),
            "give each key a `kid` of its own",
        );
    }
    if verdict == TokenVerdict::Rejected {
        set.key_is_new = report_key_age(report, examination, kid);
    }
    set
}

fn report_key_set(
    report: &mut Report,
    name: &str,
    kids: &[String],
    kid: Option<&str>,
    set: &KeySet,
) {
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
        match kids.len() {
            1 => format!("`{name}` has 1 key{type_}{verifies}"),
            count => format!("`{name}` has {count} keys{type_}{verifies}"),
        },
    );
    report.detail(kids.iter().map(|kid| format!("kid {kid}")));
    if !set.named_by_flag {
        report.detail(vec![
            "this is the file beside the signing key; `--jwks` names the key set that the server \
             reads"
                .to_owned(),
        ]);
    }
}

/// Reports how long ago the key was published. Returns whether that is less than one refresh
/// interval: a server that refuses the token may not have fetched the key yet.
fn report_key_age(report: &mut Report, examination: &Examination<'_>, kid: Option<&str>) -> bool {
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
                "wait for one `refreshInterval` of the server ({refresh}; set `--refresh-interval` if it differs)"
            ),
        );
    } else {
        report.detail(vec![format!(
            "the key was published {ago} ago; the server fetches the key set every {refresh}"
        )]);
    }
    new
}

/// Returns the key set that `keyutil key` keeps beside the signing keys.
fn beside_the_signing_key(examination: &Examination<'_>) -> Option<String> {
    let ring = ring(examination)?;
    Some(ring.jwks_path().to_str()?.to_owned())
}

fn ring(examination: &Examination<'_>) -> Option<Keyring> {
    let key = non_empty(&examination.connect.token.signing_key)?;
    let ring = Keyring::of_signing_key(key)?;
    ring.jwks_path().exists().then_some(ring)
}

/// Returns when the key was published, according to the record of the ring.
fn published(examination: &Examination<'_>, kid: Option<&str>) -> Option<SystemTime> {
    let ring = ring(examination).filter(|ring| ring.ring_path().exists())?;
    let ring = ring.look(SystemTime::now()).ok()?;
    let key = ring.keys().find(|key| Some(&key.kid[..]) == kid)?;
    Some(key.published)
}

/// The largest difference of clocks that is measured, in seconds.
const FARTHEST: i64 = 2 * 24 * 60 * 60;

/// The smallest difference that is reported, in seconds: more than one second of transfer and half
/// a second of rounding.
const NOTABLE: i64 = 5;

/// Reports what is known of other clocks. `accepted` is whether the server accepted the token.
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
                "at most {} behind the local clock and {} ahead of it",
                duration(behind),
                duration(ahead)
            )),
            (None, Some(ahead)) => Some(format!(
                "at most {} ahead of the local clock",
                duration(ahead)
            )),
            (Some(behind), None) => Some(format!(
                "at most {} behind the local clock",
                duration(behind)
            )),
            (None, None) => None,
        };
        if let Some(bounds) = bounds {
            known = true;
            report.ok(
                Step::Clock,
                format!("the server accepts the times of the token: its clock is {bounds}"),
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
                "synchronize both clocks; `timedatectl` shows whether a clock is synchronized",
            );
        } else {
            report.ok(
                Step::Clock,
                "the clock of the JWKS endpoint agrees with the local clock",
            );
        }
    }
    if !known {
        report.skip(Step::Clock, "no other clock to compare with");
    }
}

/// Measures the clock of the server with tokens that permit nothing, on a call that needs no
/// permission: the server answers it from the `nbf` of the token on.
///
/// Returns by how many seconds the server is ahead. `None` if the server accepts no token at all,
/// which has another cause, or did not answer each call.
pub(super) async fn measure_clock(session: &Session, minter: &Minter) -> Option<i64> {
    let accepts_from = async |seconds_ahead: i64| {
        let token = permitting_nothing(minter, seconds_ahead)?;
        accepts_token(session, &token).await
    };
    let (mut ahead, mut behind) = (-FARTHEST, FARTHEST);
    if !accepts_from(ahead).await? || accepts_from(behind).await? {
        return None;
    }
    // The server accepts tokens valid from `ahead` on, and refuses those valid from `behind` on.
    while behind - ahead > 1 {
        let middle = ahead + (behind - ahead) / 2;
        if accepts_from(middle).await? {
            ahead = middle;
        } else {
            behind = middle;
        }
    }
    // Two servers behind one address may have different clocks or different keys.
    let same = accepts_from(ahead - 2).await? && !accepts_from(behind + 2).await?;
    same.then_some(ahead)
}

fn permitting_nothing(minter: &Minter, seconds_ahead: i64) -> Option<Token> {
    let now = SystemTime::now();
    let begin = seconds(now).checked_add_signed(seconds_ahead)?;
    let claims = Claims {
        kid: minter.template().kid.clone(),
        sub: "keyutil-doctor".to_owned(),
        permissions_claim: minter.template().permissions_claim.clone(),
        iat: begin,
        nbf: begin,
        exp: seconds(now).checked_add_signed(3 * FARTHEST)?,
        aud: minter.template().audience.clone(),
        permissions: Vec::new(),
    };
    let raw = minter.key().current().mint(&claims).ok()?;
    Token::parse(raw.expose_secret(), now).ok()
}

/// Returns the diagnosis for a measured difference.
pub(super) fn clock_cause(seconds_ahead: i64) -> Diagnosis {
    Diagnosis {
        step: Step::Clock,
        class: Class::Token,
        cause: format!(
            "the clock of the server is {}: the token is not valid there",
            direction(seconds_ahead)
        ),
        hint: Some(
            "correct the clock that is wrong; `timedatectl` shows whether a clock is synchronized"
                .to_owned(),
        ),
    }
}

/// Returns by how many whole seconds the first time is ahead of the second.
fn offset(first: SystemTime, second: SystemTime) -> i64 {
    let whole = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    match first.duration_since(second) {
        Ok(ahead) => whole(ahead),
        Err(behind) => -whole(behind.duration()),
    }
}

fn duration(seconds: i64) -> String {
    humantime::format_duration(Duration::from_secs(seconds.unsigned_abs())).to_string()
}

fn direction(seconds_ahead: i64) -> String {
    let side = if seconds_ahead < 0 {
        "behind"
    } else {
        "ahead of"
    };
    format!("{} {side} the local clock", duration(seconds_ahead))
}
