//! The key set that the server verifies tokens with.

use std::time::{Duration, SystemTime};

use super::{Examination, Report};
use crate::keys::{
    fetch::{Fetched, fetch},
    jwks,
    keyring::Keyring,
    verify,
};
use keyutil::{
    base::{chain, redact},
    credentials::{Token, TokenSource},
    diagnosis::{Class, Diagnosis, Step},
    explain::TokenVerdict,
    settings::non_empty,
};

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
pub(super) async fn look(
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
    report.detail(kids.iter().map(|kid| format!("kid {kid}")).collect());
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
