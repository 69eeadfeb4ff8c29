//! Explains why the server refused a call.
//!
//! Every refusal reads `PERMISSION_DENIED: Request unauthorized.`, whatever its cause. The
//! explanation is therefore derived on the client's side, from the content of the token and from
//! what is known about the server.

use std::time::SystemTime;

use crate::{
    base::time::rfc3339,
    diagnosis::{Class, Diagnosis, Step},
    token::{Lifetime, Permission, PermissionsClaim, Role, UnverifiedToken, permission},
};

/// A refused call, and what is known about the token and the server.
#[derive(Clone, Copy, Debug)]
pub struct Refusal<'a> {
    /// The `authorization` header of the call.
    pub token: Sent<'a>,
    /// The namespace of the call.
    pub namespace: &'a str,
    /// The role that the call requires, by `common/api/metadata.go` of the server.
    pub needed: Role,
    /// The result of verifying the token with the server's key set.
    pub key_set: KeySetCheck<'a>,
    /// Whether the key was published so recently that the server may not have fetched it.
    pub key_is_new: bool,
    /// The audience that the server expects, if it is known.
    pub audience: Option<&'a str>,
    /// Whether the server accepts the token.
    pub verdict: TokenVerdict,
}

/// Whether the server accepts a token, independent of its permissions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenVerdict {
    /// The server answers a call that requires no permission.
    Accepted,
    /// The server refuses such a call with the token, and answers it without a token.
    Rejected,
    /// It was not tested, or the test was inconclusive.
    #[default]
    Unknown,
}

/// The result of verifying a token with the server's key set.
#[derive(Clone, Copy, Debug, Default)]
pub enum KeySetCheck<'a> {
    /// The key set is not known.
    #[default]
    Unknown,
    /// A key in the set verifies the token.
    Verifies,
    /// No key in the set verifies the token.
    Refuses(&'a Diagnosis),
}

/// The content of the `authorization` header of a call.
#[derive(Clone, Copy, Debug)]
pub enum Sent<'a> {
    /// The call had no such header.
    Nothing,
    /// A token that is not a JWT.
    Opaque,
    /// A JWT.
    Token(&'a UnverifiedToken),
}

impl<'a> Sent<'a> {
    /// The header for this token, and its content if it is a JWT.
    pub fn of(token: Option<Option<&'a UnverifiedToken>>) -> Self {
        match token {
            None => Self::Nothing,
            Some(None) => Self::Opaque,
            Some(Some(content)) => Self::Token(content),
        }
    }
}

/// The explanation of a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Explanation {
    /// Each of these causes alone explains the refusal.
    Certain(Vec<Diagnosis>),
    /// The token looks correct. The cause is one of these, the most likely first.
    Possible(Vec<Diagnosis>),
}

fn of_token(cause: impl Into<String>, hint: impl Into<String>) -> Diagnosis {
    Diagnosis {
        step: Step::Token,
        class: Class::Token,
        cause: cause.into(),
        hint: Some(hint.into()),
    }
}

impl Explanation {
    fn causes(&self) -> &[Diagnosis] {
        match self {
            Self::Certain(causes) | Self::Possible(causes) => causes,
        }
    }

    /// Whether the server may accept the same token later, because its next fetch of the key set
    /// cures the most frequent of the possible causes.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Possible(_))
    }

    /// The step of the first cause.
    pub fn step(&self) -> Step {
        self.causes()
            .first()
            .map_or(Step::Permission, |cause| cause.step)
    }

    /// The class of the first cause.
    pub fn class(&self) -> Class {
        self.causes()
            .first()
            .map_or(Class::Permission, |cause| cause.class)
    }

    /// The hint of the first cause. For possible causes it also says how to tell them apart.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Certain(causes) => causes.iter().find_map(|cause| cause.hint.clone()),
            Self::Possible(causes) => {
                let first = causes.iter().find_map(|cause| cause.hint.as_deref());
                Some(match first {
                    Some(first) => format!("{first}; {LOG}"),
                    None => LOG.to_owned(),
                })
            }
        }
    }
}

/// The messages are those of `common/authorization/interceptor.go` of the server and what it calls.
const LOG: &str = "the server's log says which it is, in the field `error` of the message \
                   `Authorization error`: `key not found`, `verification error`, `audience \
                   mismatch`, `Token is expired` or `Token is not valid yet`";

impl Refusal<'_> {
    /// The causes of the refusal that can be seen from the client's side at `now`.
    pub fn explain(&self, now: SystemTime) -> Explanation {
        let token = match self.token {
            Sent::Nothing => {
                return Explanation::Certain(vec![of_token(
                    "no token was sent, and this server requires one",
                    "set `--signing-key`, `--token-file` or TEMPORAL_API_KEY",
                )]);
            }
            Sent::Opaque => {
                return Explanation::Certain(vec![of_token(
                    "the API key is not valid, or not valid for this namespace",
                    "compare it with the one that was issued: an API key of Temporal Cloud is \
                     limited to the namespaces of an account, and a self-hosted server accepts \
                     only JWTs, which this is not",
                )]);
            }
            Sent::Token(token) => token,
        };
        let of_token = || {
            [
                self.times(token, now),
                self.form(token),
                self.audience(token),
                match self.key_set {
                    KeySetCheck::Refuses(cause) => vec![cause.clone()],
                    KeySetCheck::Unknown | KeySetCheck::Verifies => Vec::new(),
                },
            ]
            .concat()
        };
        let certain = match self.verdict {
            TokenVerdict::Accepted => match self.permissions(token) {
                none if none.is_empty() => vec![otherwise()],
                permissions => permissions,
            },
            TokenVerdict::Rejected => of_token(),
            TokenVerdict::Unknown => [of_token(), self.permissions(token)].concat(),
        };
        if certain.is_empty() {
            Explanation::Possible(self.suspects(token, now))
        } else {
            Explanation::Certain(certain)
        }
    }
}

impl std::fmt::Display for Explanation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words: Vec<_> = self.causes().iter().map(|cause| &cause.cause[..]).collect();
        match self {
            Self::Certain(_) => f.write_str(&words.join("; ")),
            Self::Possible(_) => write!(
                f,
                "the token looks correct from the client's side; possible causes: {}",
                words.join("; or ")
            ),
        }
    }
}

impl Refusal<'_> {
    fn times(&self, token: &UnverifiedToken, now: SystemTime) -> Vec<Diagnosis> {
        let lifetime = token.lifetime(now);
        let hint = match lifetime {
            Lifetime::Valid { .. } | Lifetime::Unlimited | Lifetime::Unreadable => {
                return Vec::new();
            }
            Lifetime::Expired { .. } => {
                "renew the token; with `--signing-key`, or with `--token-file` and an agent, \
                 tokens are renewed automatically"
            }
            Lifetime::NotYetValid { .. } => {
                "check the clocks of this machine and of the issuer of the token"
            }
        };
        let words = match lifetime {
            Lifetime::NotYetValid { .. } => format!("the token is {lifetime}"),
            _ => format!("the token {lifetime}"),
        };
        vec![of_token(words, hint)]
    }

    /// Defects for which the server rejects the token before it reads the claims.
    fn form(&self, token: &UnverifiedToken) -> Vec<Diagnosis> {
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
        let hint = "reissue the token in the form that the server requires: `keyutil token mint` \
                     mints such a token, and `keyutil token inspect` shows the content of one";
        causes
            .into_iter()
            .map(|words| of_token(words, hint))
            .collect()
    }

    fn permissions(&self, token: &UnverifiedToken) -> Vec<Diagnosis> {
        let entries = token.permissions();
        let granted = entries
            .iter()
            .filter_map(|text| text.parse::<Permission>().ok())
            .any(|permission| permission.grants(self.namespace, self.needed));
        if granted {
            return Vec::new();
        }
        let claim = token.permissions_claim();
        let held = if entries.is_empty() && *claim == PermissionsClaim::default() {
            "no permissions".to_owned()
        } else if entries.is_empty() {
            format!("no permissions in the claim `{claim}`")
        } else {
            format!("the permissions `{}`", entries.join("`, `"))
        };
        let mut words = format!(
            "the token has {held}, and the call requires `{}:{}`",
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
            "issue the token with `--permissions {}:{least}`; namespaces are case-sensitive",
            self.namespace
        );
        vec![Diagnosis {
            step: Step::Permission,
            class: Class::Permission,
            cause: words,
            hint: Some(hint),
        }]
    }

    fn audience(&self, token: &UnverifiedToken) -> Vec<Diagnosis> {
        let found = token.audiences();
        match self.audience {
            Some(expected) if !found.contains(&expected) => {
                let found = if found.is_empty() {
                    "the token has no audience".to_owned()
                } else {
                    format!("the token is for the audience `{}`", found.join("`, `"))
                };
                let words = format!("{found}, and the server expects `{expected}`");
                vec![of_token(words, format!("set `--audience {expected}`"))]
            }
            _ => Vec::new(),
        }
    }

    fn key_set_is_known(&self) -> bool {
        !matches!(self.key_set, KeySetCheck::Unknown)
    }

    fn suspects(&self, token: &UnverifiedToken, now: SystemTime) -> Vec<Diagnosis> {
        let kid = token.kid().unwrap_or("none");
        let of_the_key = match (self.key_set_is_known(), self.key_is_new) {
            (false, _) => (
                Step::Jwks,
                Some(
                    "run `keyutil doctor --jwks <the server's JWKS>` with the same settings to \
                     narrow them down",
                ),
                format!(
                    "the server does not know the key `{kid}`: the server's JWKS does not contain \
                      it, or contains another key under this kid, or it was published less than \
                     one `refreshInterval` ago"
                ),
            ),
            (true, true) => (
                Step::Jwks,
                Some(
                    "wait for one `refreshInterval` of the server, and check that its \
                     `keySourceURIs` name this JWKS",
                ),
                format!(
                    "the server has not fetched the JWKS since the key `{kid}` was published, or \
                     cannot fetch it, or reads another one"
                ),
            ),
            (true, false) => (
                Step::Jwks,
                Some(
                    "check that the server's `keySourceURIs` name this JWKS, and that its \
                     endpoint is always available",
                ),
                format!(
                    "the server does not know the key `{kid}`: it reads another JWKS, or could \
                     not fetch this one, or its last answer had no keys"
                ),
            ),
        };
        let mut suspects = vec![of_the_key];
        if self.audience.is_none() {
            let audience = token.audiences();
            let words = if audience.is_empty() {
                "the server expects an audience, and the token has none".to_owned()
            } else {
                format!(
                    "the server expects an audience other than `{}`",
                    audience.join("`, `")
                )
            };
            let hint = "compare the token's `aud` with the server's `authorization.audience`: \
                        `keyutil doctor --server-audience <audience>`";
            suspects.push((Step::Token, Some(hint), words));
        }
        if self.key_set_is_known() && !self.key_is_new {
            // A key that has been published for a long time is the less likely cause.
            suspects.reverse();
        }
        suspects.extend(clocks(token, now).map(|words| (Step::Clock, None, words)));
        let cause = |(step, hint, cause): (Step, Option<&str>, String)| Diagnosis {
            step,
            class: Class::Token,
            cause,
            hint: hint.map(str::to_owned),
        };
        suspects.into_iter().map(cause).collect()
    }
}

/// The cause that is left when the token is accepted and seems to grant the permission.
fn otherwise() -> Diagnosis {
    Diagnosis {
        step: Step::Permission,
        class: Class::Permission,
        cause: "the server accepts the token but does not permit the call, although the token \
                grants the permission"
            .to_owned(),
        hint: Some(
            "check `permissionsClaimName`, `permissionsRegex` and `authorizer` in the server's \
             `global.authorization`"
                .to_owned(),
        ),
    }
}

/// Notes on permissions that have less effect than they seem to have.
fn notes(token: &UnverifiedToken, namespace: &str) -> Vec<String> {
    let entries = token.permissions();
    if entries.is_empty() {
        return match token.malformed_permissions() {
            true => vec![format!(
                "`{}` is not an array: the server ignores it",
                token.permissions_claim()
            )],
            false => Vec::new(),
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

/// The possible cause that a clock is wrong, with times to compare.
fn clocks(token: &UnverifiedToken, now: SystemTime) -> Option<String> {
    let until = token.expires_at()?;
    let valid = match token.valid_from() {
        Some(from) => format!("from {} to {}", rfc3339(from), rfc3339(until)),
        None => format!("until {}", rfc3339(until)),
    };
    Some(format!(
        "the clock of this machine ({}) or of the server is wrong: the token is valid {valid}",
        rfc3339(now)
    ))
}

#[cfg(test)]
mod tests;
