//! Why the server refused a call.
//!
//! Every refusal reads `PERMISSION_DENIED: Request unauthorized.`, whatever its cause, so the
//! explanation has to come from this side: from what the token says, and from what is known of
//! the server.

use std::time::SystemTime;

use serde_json::Value;

use crate::{
    chain,
    diagnosis::{Class, Step},
    jwt::{
        Permission, Role,
        inspect::Unverified,
        permission,
        verify::{self, VerifyError},
    },
    status::in_words,
};

/// A call that was refused, and what is known of both sides.
#[derive(Clone, Copy, Debug)]
pub struct Refusal<'a> {
    /// The token that the call bore.
    pub token: Sent<'a>,
    /// The namespace of the call.
    pub namespace: &'a str,
    /// What the call takes, by `common/api/metadata.go` of the server.
    pub needed: Role,
    /// The key set that the server reads, if it is at hand.
    pub key_set: Option<&'a [u8]>,
    /// The audience that the server expects, if it is known.
    pub audience: Option<&'a str>,
    /// Whether the server finds the token good: it answers a call that everybody may make with it,
    /// or without a token alone.
    pub accepted: Option<bool>,
}

/// What a call had in its `authorization` header.
#[derive(Clone, Copy, Debug)]
pub enum Sent<'a> {
    /// No header at all.
    Nothing,
    /// Something that cannot be read from outside.
    Opaque,
    /// A token, with its text where that is at hand to verify.
    Token(&'a Unverified, Option<&'a str>),
}

/// What explains a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Explanation {
    /// Each of these alone is enough.
    Because(Vec<Cause>),
    /// The token looks right, so it must be one of these, the likeliest first.
    Perhaps(Vec<Cause>),
}

/// One cause of a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// At which step of the way it lies.
    pub step: Step,
    /// The cause, in words.
    pub words: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Cause {
    fn of_token(words: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            step: Step::Token,
            words: words.into(),
            hint: Some(hint.into()),
        }
    }
}

impl Explanation {
    fn causes(&self) -> &[Cause] {
        match self {
            Self::Because(causes) | Self::Perhaps(causes) => causes,
        }
    }

    /// The step of the first cause: of the likeliest.
    pub fn step(&self) -> Step {
        self.causes()
            .first()
            .map_or(Step::Permission, |cause| cause.step)
    }

    /// For the exit code.
    pub fn class(&self) -> Class {
        match self.step() {
            Step::Permission => Class::Permission,
            _ => Class::Token,
        }
    }

    /// What to do: about what is certain, or to make certain which it is.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Because(causes) => causes.iter().find_map(|cause| cause.hint.clone()),
            Self::Perhaps(causes) => {
                let first = causes.iter().find_map(|cause| cause.hint.as_deref());
                Some(match first {
                    Some(first) => format!("{first}; {LOG}"),
                    None => LOG.to_owned(),
                })
            }
        }
    }
}

/// `common/authorization/interceptor.go` of the server, and what it calls.
const LOG: &str = "the server's log says which it is, in the field `error` of `Authorization \
                   error`: `key not found`, `verification error`, `audience mismatch`, `Token is \
                   expired` or `Token is not valid yet`";

impl Refusal<'_> {
    /// The causes that can be seen from this side at `now`, in sentences.
    pub fn explain(&self, now: SystemTime) -> Explanation {
        let (token, text) = match self.token {
            Sent::Nothing => {
                return Explanation::Because(vec![Cause::of_token(
                    "no token was sent, and this server asks for one",
                    "give `--signing-key` to mint tokens with, or `--token-file`, or an API key in \
                     TEMPORAL_API_KEY",
                )]);
            }
            Sent::Opaque => {
                return Explanation::Because(vec![Cause::of_token(
                    "the API key is not valid, or not for this namespace",
                    "compare it with the one that was issued; one of Temporal Cloud belongs to an \
                     account and its namespaces, and a server of one's own takes none that is no \
                     JWT, as this",
                )]);
            }
            Sent::Token(token, text) => (token, text),
        };
        let of_token = || {
            [
                self.times(token, now),
                self.form(token),
                self.audience(token),
                text.and_then(|text| self.signature(text))
                    .into_iter()
                    .collect(),
            ]
            .concat()
        };
        let certain = match self.accepted {
            Some(true) => match self.permissions(token) {
                none if none.is_empty() => vec![otherwise()],
                permissions => permissions,
            },
            Some(false) => of_token(),
            None => [of_token(), self.permissions(token)].concat(),
        };
        if certain.is_empty() {
            Explanation::Perhaps(self.suspects(token, now))
        } else {
            Explanation::Because(certain)
        }
    }

    fn times(&self, token: &Unverified, now: SystemTime) -> Vec<Cause> {
        let words = token.lifetime_in_words(now);
        if ["valid", "never", "`exp`"]
            .iter()
            .any(|begin| words.starts_with(begin))
        {
            return Vec::new();
        }
        let hint = if words.starts_with("expired") {
            "have the token renewed; a signing key (`--signing-key`) or a token file that an agent \
             renews (`--token-file`) never runs out"
        } else {
            "set the clock of this machine, or that of whoever minted the token"
        };
        let words = format!("the token is out of its time: {words}");
        vec![Cause::of_token(words, hint)]
    }

    /// What the server does not even read.
    fn form(&self, token: &Unverified) -> Vec<Cause> {
        let mut causes = Vec::new();
        if !matches!(token.header["alg"].as_str(), Some("ES256" | "RS256")) {
            causes.push("the token is signed neither with ES256 nor with RS256".to_owned());
        }
        if token.kid().is_none() {
            causes.push("the token has no `kid`".to_owned());
        }
        if token.subject().is_none() {
            causes.push("the token has no `sub`".to_owned());
        }
        for claim in ["exp", "nbf", "iat"] {
            if token.malformed_time(claim) {
                causes.push(format!(
                    "the token's `{claim}` is not a number of seconds since 1970"
                ));
            }
        }
        let hint = "have the token made with what is missing: `keyutil token mint` makes one as \
                    the server wants it, and `keyutil token inspect` shows what one has";
        causes
            .into_iter()
            .map(|words| Cause::of_token(words, hint))
            .collect()
    }

    fn permissions(&self, token: &Unverified) -> Vec<Cause> {
        let entries = token.permissions();
        let granted = entries
            .iter()
            .filter_map(|text| text.parse::<Permission>().ok())
            .any(|permission| permission.grants(self.namespace, self.needed));
        if granted {
            return Vec::new();
        }
        let held = if entries.is_empty() {
            "no permissions".to_owned()
        } else {
            format!("the permissions `{}`", entries.join("`, `"))
        };
        let mut words = format!(
            "the token has {held}, and the call takes `{}:{}`",
            self.namespace, self.needed
        );
        let notes = notes(token, self.namespace);
        if !notes.is_empty() {
            words = format!("{words} ({})", notes.join("; "));
        }
        let least = match self.needed {
            Role::Read => Role::Write,
            other => other,
        };
        let hint = format!(
            "have the token made with `--permissions {}:{least}`; namespaces are compared letter by \
             letter",
            self.namespace
        );
        vec![Cause {
            step: Step::Permission,
            words,
            hint: Some(hint),
        }]
    }

    fn audience(&self, token: &Unverified) -> Vec<Cause> {
        let found = token.audiences();
        match self.audience {
            Some(expected) if !found.contains(&expected) => {
                let found = if found.is_empty() {
                    "none".to_owned()
                } else {
                    found.join("`, `")
                };
                let words = format!(
                    "the token is for the audience `{found}`, and the server expects `{expected}`"
                );
                vec![Cause::of_token(words, format!("`--audience {expected}`"))]
            }
            _ => Vec::new(),
        }
    }

    fn signature(&self, text: &str) -> Option<Cause> {
        // Times and audience are told by the other checks, in more words.
        let error = verify::verify(text, self.key_set?, None).err()?;
        Cause::of_signature(&error)
    }

    fn suspects(&self, token: &Unverified, now: SystemTime) -> Vec<Cause> {
        let mut suspects = Vec::new();
        let kid = token.kid().unwrap_or("none");
        if self.key_set.is_none() {
            suspects.push((
                Step::Jwks,
                Some(
                    "`keyutil doctor --jwks <what the server reads>`, with the same settings, \
                     tells them apart as far as that is possible from outside",
                ),
                format!(
                    "the server does not know the key `{kid}`: it is not in the JWKS that the \
                     server reads, or under another key there, or was put there less than one \
                     `refreshInterval` ago"
                ),
            ));
        } else {
            suspects.push((
                Step::Jwks,
                Some(
                    "wait for one `refreshInterval` of the server, and see that its \
                     `keySourceURIs` name this key set",
                ),
                format!(
                    "the server has not fetched the JWKS since the key `{kid}` was put there, or \
                     has fetched none, or reads another one"
                ),
            ));
        }
        if self.audience.is_none() {
            let audience = token.audiences();
            let words = if audience.is_empty() {
                "the server expects an audience, and the token has none".to_owned()
            } else {
                format!(
                    "the server expects another audience than `{}`",
                    audience.join("`, `")
                )
            };
            suspects.push((Step::Token, None, words));
        }
        suspects.extend(clocks(token, now).map(|words| (Step::Clock, None, words)));
        let cause = |(step, hint, words): (Step, Option<&str>, String)| Cause {
            step,
            words,
            hint: hint.map(str::to_owned),
        };
        suspects.into_iter().map(cause).collect()
    }
}

impl Cause {
    /// What the key set tells of a token, if it is anything that nothing else tells.
    pub(crate) fn of_signature(error: &VerifyError) -> Option<Self> {
        let hint = match error {
            VerifyError::UnknownKid { .. } => {
                "publish the key before it signs (`keyutil key rotate` does), or sign with one of \
                 those that are published"
            }
            VerifyError::Signature => {
                "two keys have the same `kid`: publish the one that signs; `keyutil key` names \
                 keys by their thumbprint, so that no two are named alike"
            }
            VerifyError::Jwks(_) | VerifyError::Key(_) => {
                "have the JWKS endpoint serve the public keys: `keyutil jwks serve` never serves \
                 anything else"
            }
            _ => return None,
        };
        Some(Self {
            step: Step::Jwks,
            words: chain(error),
            hint: Some(hint.to_owned()),
        })
    }
}

/// A token that is good, and permits the call as far as can be seen.
fn otherwise() -> Cause {
    Cause {
        step: Step::Permission,
        words: "the server accepts the token, and does not permit the call, though by the \
                token's `permissions` it should"
            .to_owned(),
        hint: Some(
            "see `permissionsClaimName`, `permissionsRegex` and `authorizer` in the server's \
             `global.authorization`"
                .to_owned(),
        ),
    }
}

/// Why permissions are worth less than they seem.
fn notes(token: &Unverified, namespace: &str) -> Vec<String> {
    let entries = token.permissions();
    if entries.is_empty() {
        let ignored = "`permissions` is not an array: the server ignores it";
        return match &token.claims["permissions"] {
            Value::Null | Value::Array(_) => Vec::new(),
            _ => vec![ignored.to_owned()],
        };
    }
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for entry in entries {
        match entry.parse::<Permission>() {
            Ok(permission) => known.push(permission),
            Err(error) => unknown.push(error.to_string()),
        }
    }
    if unknown.is_empty() {
        permission::lint(&known, Some(namespace))
    } else {
        unknown
    }
}

/// What the server's clock would have to show. To the second, so that a person can compare.
fn clocks(token: &Unverified, now: SystemTime) -> Option<String> {
    let until = token.expires_at()?;
    let valid = match token.valid_from() {
        Some(from) => format!("from {} to {}", in_words(from), in_words(until)),
        None => format!("until {}", in_words(until)),
    };
    Some(format!(
        "the clock of this machine, which shows {}, or the server's is wrong: the token is valid \
         {valid}",
        in_words(now)
    ))
}

impl std::fmt::Display for Explanation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words: Vec<_> = self.causes().iter().map(|cause| &cause.words[..]).collect();
        match self {
            Self::Because(_) => f.write_str(&words.join("; ")),
            Self::Perhaps(_) => write!(
                f,
                "the token looks right from here, so perhaps: {}",
                words.join("; or ")
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use serde_json::json;

    use super::*;

    fn explain(header: Value, claims: Value) -> String {
        let token = Unverified { header, claims };
        let refusal = Refusal {
            token: Sent::Token(&token, None),
            namespace: "default",
            needed: Role::Read,
            key_set: None,
            audience: Some("temporal"),
            accepted: None,
        };
        refusal
            .explain(UNIX_EPOCH + Duration::from_secs(1000))
            .to_string()
    }

    #[test]
    fn each_cause_is_seen() {
        let header = json!({"alg": "ES256", "kid": "k"});
        let good = json!({
            "sub": "s", "exp": 2000, "aud": "temporal", "permissions": ["default:write"]
        });
        let with = |name: &str, value: Value| {
            let mut claims = good.clone();
            claims[name] = value;
            claims
        };
        for (header, claims, words) in [
            (header.clone(), good.clone(), "the token looks right"),
            (header.clone(), good.clone(), "does not know the key `k`"),
            (
                header.clone(),
                with("exp", json!(900)),
                "expired 1m 40s ago",
            ),
            (header.clone(), with("nbf", json!(1100)), "not valid yet"),
            (
                header.clone(),
                with("nbf", json!(900)),
                "which shows 1970-01-01T00:16:40.000Z, or the server's is wrong: the token is valid \
                 from 1970-01-01T00:15:00.000Z to 1970-01-01T00:33:20.000Z",
            ),
            (
                header.clone(),
                with("aud", json!("x")),
                "the server expects `temporal`",
            ),
            (
                header.clone(),
                with("permissions", json!(["other:write"])),
                "takes `default:read`",
            ),
            (
                header.clone(),
                with("permissions", json!(["default:worker"])),
                "alone allows nothing",
            ),
            (
                header.clone(),
                with("permissions", json!("default:write")),
                "no permissions",
            ),
            (
                header.clone(),
                with("exp", json!("2000")),
                "`exp` is not a number",
            ),
            (
                header.clone(),
                with("iat", json!(1e30)),
                "`iat` is not a number",
            ),
            (header, with("sub", Value::Null), "no `sub`"),
            (json!({"alg": "none"}), good.clone(), "neither with ES256"),
        ] {
            let found = explain(header, claims);
            assert!(found.contains(words), "{words}: {found}");
        }
    }

    #[test]
    fn whether_the_token_is_accepted_parts_what_it_is_from_what_it_permits() {
        let header = json!({"alg": "ES256", "kid": "k"});
        let good = json!({"sub": "s", "exp": 2000, "permissions": ["default:write"]});
        let small = json!({"sub": "s", "exp": 2000, "permissions": ["other:write"]});
        for (claims, accepted, class, words) in [
            (&good, Some(true), Class::Permission, "by the token's"),
            (&good, Some(false), Class::Token, "the token looks right"),
            (
                &small,
                Some(true),
                Class::Permission,
                "takes `default:read`",
            ),
            (&small, Some(false), Class::Token, "the token looks right"),
            (&small, None, Class::Permission, "takes `default:read`"),
        ] {
            let token = Unverified {
                header: header.clone(),
                claims: claims.clone(),
            };
            let refusal = Refusal {
                token: Sent::Token(&token, None),
                namespace: "default",
                needed: Role::Read,
                key_set: None,
                audience: None,
                accepted,
            };
            let explanation = refusal.explain(UNIX_EPOCH + Duration::from_secs(1000));
            assert_eq!(explanation.class(), class, "{explanation}");
            let told = explanation.to_string();
            assert!(told.contains(words), "{words}: {told}");
            assert!(explanation.hint().is_some());
        }
    }
}
