//! Why the server refused a call.
//!
//! Every refusal reads `PERMISSION_DENIED: Request unauthorized.`, whatever its cause, so the
//! explanation has to come from this side: from what the token says, and from what is known of
//! the server.

mod causes;

use std::time::SystemTime;

use self::causes::otherwise;
use crate::{
    diagnosis::{Class, Step},
    token::{Role, UnverifiedToken},
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
    /// Whether the key was put there so lately that the server may not have fetched it.
    pub key_is_new: bool,
    /// The audience that the server expects, if it is known.
    pub audience: Option<&'a str>,
    /// Whether the server accepts the token.
    pub verdict: TokenVerdict,
}

/// Whether the server accepts a token, whatever the token permits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenVerdict {
    /// The server answers a call with the token that takes no permission.
    Accepted,
    /// The server refuses such a call with the token, and answers it without a token.
    Rejected,
    /// The two cannot be told apart.
    #[default]
    Unknown,
}

/// What a call had in its `authorization` header.
#[derive(Clone, Copy, Debug)]
pub enum Sent<'a> {
    /// No header at all.
    Nothing,
    /// Something that cannot be read from outside.
    Opaque,
    /// A token, with its text where that is at hand to verify.
    Token(&'a UnverifiedToken, Option<&'a str>),
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
        let certain = match self.verdict {
            TokenVerdict::Accepted => match self.permissions(token) {
                none if none.is_empty() => vec![otherwise()],
                permissions => permissions,
            },
            TokenVerdict::Rejected => of_token(),
            TokenVerdict::Unknown => [of_token(), self.permissions(token)].concat(),
        };
        if certain.is_empty() {
            Explanation::Perhaps(self.suspects(token, now))
        } else {
            Explanation::Because(certain)
        }
    }
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
mod tests;
