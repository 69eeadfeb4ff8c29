//! Why the server refused a call.
//!
//! Every refusal reads `PERMISSION_DENIED: Request unauthorized.`, whatever its cause, so the
//! explanation has to come from this side: from what the token says, and from what is known of
//! the server.

mod causes;

use std::time::SystemTime;

use self::causes::otherwise;
use crate::{
    diagnosis::{Class, Diagnosis, Step},
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
    /// What the key set that the server reads says of the token.
    pub key_set: KeySetCheck<'a>,
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

/// What the key set that the server reads says of a token.
#[derive(Clone, Copy, Debug, Default)]
pub enum KeySetCheck<'a> {
    /// The key set is not at hand.
    #[default]
    Unknown,
    /// A key of it verifies the token.
    Verifies,
    /// No key of it does.
    Refuses(&'a Diagnosis),
}

/// What a call had in its `authorization` header.
#[derive(Clone, Copy, Debug)]
pub enum Sent<'a> {
    /// No header at all.
    Nothing,
    /// Something that cannot be read from outside.
    Opaque,
    /// A token.
    Token(&'a UnverifiedToken),
}

impl<'a> Sent<'a> {
    /// What is sent with this token: its content, where it is a JWT.
    pub fn of(token: Option<Option<&'a UnverifiedToken>>) -> Self {
        match token {
            None => Self::Nothing,
            Some(None) => Self::Opaque,
            Some(Some(content)) => Self::Token(content),
        }
    }
}

/// What explains a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Explanation {
    /// Each of these alone is enough.
    Certain(Vec<Diagnosis>),
    /// The token looks right, so it must be one of these, the likeliest first.
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

    /// The step of the first cause: of the likeliest.
    pub fn step(&self) -> Step {
        self.causes()
            .first()
            .map_or(Step::Permission, |cause| cause.step)
    }

    /// For the exit code.
    pub fn class(&self) -> Class {
        self.causes()
            .first()
            .map_or(Class::Permission, |cause| cause.class)
    }

    /// What to do: about what is certain, or to make certain which it is.
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

/// `common/authorization/interceptor.go` of the server, and what it calls.
const LOG: &str = "the server's log says which it is, in the field `error` of `Authorization \
                   error`: `key not found`, `verification error`, `audience mismatch`, `Token is \
                   expired` or `Token is not valid yet`";

impl Refusal<'_> {
    /// The causes that can be seen from this side at `now`, in sentences.
    pub fn explain(&self, now: SystemTime) -> Explanation {
        let token = match self.token {
            Sent::Nothing => {
                return Explanation::Certain(vec![of_token(
                    "no token was sent, and this server asks for one",
                    "give `--signing-key` to mint tokens with, or `--token-file`, or an API key in \
                     TEMPORAL_API_KEY",
                )]);
            }
            Sent::Opaque => {
                return Explanation::Certain(vec![of_token(
                    "the API key is not valid, or not for this namespace",
                    "compare it with the one that was issued; one of Temporal Cloud belongs to an \
                     account and its namespaces, and a server of one's own takes none that is no \
                     JWT, as this",
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
                "the token looks right from here, so perhaps: {}",
                words.join("; or ")
            ),
        }
    }
}

#[cfg(test)]
mod tests;
