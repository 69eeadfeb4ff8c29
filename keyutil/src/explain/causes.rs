//! Each cause that can be seen from this side, with what to do about it.

use std::time::SystemTime;

use serde_json::Value;

use super::{KeySetCheck, Refusal, of_token};
use crate::{
    base::time::rfc3339,
    diagnosis::{Class, Diagnosis, Step},
    token::{Lifetime, Permission, Role, UnverifiedToken, permission},
};

impl Refusal<'_> {
    pub(super) fn times(&self, token: &UnverifiedToken, now: SystemTime) -> Vec<Diagnosis> {
        let lifetime = token.lifetime(now);
        let hint = match lifetime {
            Lifetime::Valid { .. } | Lifetime::Unlimited | Lifetime::Unreadable => {
                return Vec::new();
            }
            Lifetime::Expired { .. } => {
                "have the token renewed; a signing key (`--signing-key`) or a token file that an \
                 agent renews (`--token-file`) never runs out"
            }
            Lifetime::NotYetValid { .. } => {
                "set the clock of this machine, or that of whoever minted the token"
            }
        };
        let words = format!("the token is out of its time: {lifetime}");
        vec![of_token(words, hint)]
    }

    /// What the server does not even read.
    pub(super) fn form(&self, token: &UnverifiedToken) -> Vec<Diagnosis> {
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
            .map(|words| of_token(words, hint))
            .collect()
    }

    pub(super) fn permissions(&self, token: &UnverifiedToken) -> Vec<Diagnosis> {
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
        vec![Diagnosis {
            step: Step::Permission,
            class: Class::Permission,
            cause: words,
            hint: Some(hint),
        }]
    }

    pub(super) fn audience(&self, token: &UnverifiedToken) -> Vec<Diagnosis> {
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
                vec![of_token(words, format!("`--audience {expected}`"))]
            }
            _ => Vec::new(),
        }
    }

    fn key_set_is_known(&self) -> bool {
        !matches!(self.key_set, KeySetCheck::Unknown)
    }

    pub(super) fn suspects(&self, token: &UnverifiedToken, now: SystemTime) -> Vec<Diagnosis> {
        let kid = token.kid().unwrap_or("none");
        let of_the_key = match (self.key_set_is_known(), self.key_is_new) {
            (false, _) => (
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
            ),
            (true, true) => (
                Step::Jwks,
                Some(
                    "wait for one `refreshInterval` of the server, and see that its \
                     `keySourceURIs` name this key set",
                ),
                format!(
                    "the server has not fetched the JWKS since the key `{kid}` was put there, or \
                     has fetched none, or reads another one"
                ),
            ),
            (true, false) => (
                Step::Jwks,
                Some(
                    "see that `keySourceURIs` of the server name this key set, and that the \
                     endpoint serves it at all times",
                ),
                format!(
                    "the server does not know the key `{kid}`: it reads another JWKS than this, or \
                     could not fetch it, or was served one without keys the last time"
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
                    "the server expects another audience than `{}`",
                    audience.join("`, `")
                )
            };
            let hint = "compare the token's `aud` with `authorization.audience` of the server: \
                        `keyutil doctor --server-audience <it>` does";
            suspects.push((Step::Token, Some(hint), words));
        }
        if self.key_set_is_known() && !self.key_is_new {
            // A key that is in its place, and has been for long, is the less likely cause.
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

/// A token that is good, and permits the call as far as can be seen.
pub(super) fn otherwise() -> Diagnosis {
    Diagnosis {
        step: Step::Permission,
        class: Class::Permission,
        cause: "the server accepts the token, and does not permit the call, though by the \
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
fn notes(token: &UnverifiedToken, namespace: &str) -> Vec<String> {
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
fn clocks(token: &UnverifiedToken, now: SystemTime) -> Option<String> {
    let until = token.expires_at()?;
    let valid = match token.valid_from() {
        Some(from) => format!("from {} to {}", rfc3339(from), rfc3339(until)),
        None => format!("until {}", rfc3339(until)),
    };
    Some(format!(
        "the clock of this machine, which shows {}, or the server's is wrong: the token is valid \
         {valid}",
        rfc3339(now)
    ))
}
