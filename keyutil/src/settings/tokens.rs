//! The token source, out of the arguments.

use std::time::SystemTime;

use secrecy::ExposeSecret;

use super::{DEFAULT_TOKEN_LIFETIME, SettingsErrors};
use crate::{
    base::chain,
    credentials::{Token, TokenSource, token::TokenError},
    diagnosis::{Class, Diagnose, Diagnosis, Step},
    settings::{ClaimsArgs, TokenArgs, non_empty, non_empty_text},
    token::{
        ClaimsTemplate, Permission,
        claims::{LONGEST_LIFETIME, SHORTEST_LIFETIME},
        permission,
    },
};

impl TokenArgs {
    /// The token sources that are given, by the names of their flags.
    pub fn sources(&self) -> impl Iterator<Item = &'static str> {
        let api_key = self
            .api_key
            .as_ref()
            .is_some_and(|key| !key.expose_secret().trim().is_empty());
        [
            ("`--api-key` (TEMPORAL_API_KEY)", api_key),
            (
                "`--token-file` (KEYUTIL_TOKEN_FILE)",
                non_empty(&self.token_file).is_some(),
            ),
            (
                "`--signing-key` (KEYUTIL_SIGNING_KEY_PATH)",
                non_empty(&self.signing_key).is_some(),
            ),
        ]
        .into_iter()
        .filter_map(|(name, non_empty)| non_empty.then_some(name))
    }
}

pub(super) fn token_source(
    args: &TokenArgs,
    namespace: &str,
    program: &str,
    problems: &mut SettingsErrors,
) -> (Option<TokenSource>, Vec<String>) {
    let sources: Vec<_> = args.sources().collect();
    if sources.len() > 1 {
        problems.add(format!(
            "there is more than one source of tokens: {}: keep one of them",
            sources.join(" and ")
        ));
    }
    let signing_key = non_empty(&args.signing_key);
    if signing_key.is_none() {
        for flag in args.claims.non_empty() {
            problems.add(format!(
                "{flag} shapes tokens that are minted here, and there is no `--signing-key` to mint them with: leave it out, or unset the variable"
            ));
        }
    }
    if let Some(path) = signing_key {
        let template = args.claims.template(namespace, program, problems);
        let warnings = permission::lint(&template.permissions, Some(namespace));
        let source = problems.note_error(TokenSource::minted(path.clone(), template));
        return (source, warnings);
    }
    let source = if let Some(path) = non_empty(&args.token_file) {
        problems.note_error(TokenSource::file(path.clone()))
    } else if sources.is_empty() {
        None
    } else {
        args.api_key.as_ref().and_then(|key| {
            let parsed = Token::parse_api_key(key.expose_secret(), SystemTime::now());
            let named = parsed.map_err(UnusableApiKey);
            problems.note_error(named).map(TokenSource::Fixed)
        })
    };
    let warnings = match source.as_ref().and_then(TokenSource::current) {
        Some(token) => token
            .content()
            // An API key of Temporal Cloud has no permissions in it.
            .filter(|content| !content.permissions().is_empty())
            .map(|content| content.lint(Some(namespace)))
            .unwrap_or_default(),
        None => Vec::new(),
    };
    (source, warnings)
}

#[derive(Debug, thiserror::Error)]
#[error("`--api-key` (TEMPORAL_API_KEY) is unusable")]
struct UnusableApiKey(#[source] TokenError);

impl Diagnose for UnusableApiKey {
    fn diagnosis(&self) -> Diagnosis {
        Diagnosis {
            step: Step::Token,
            class: Class::Token,
            cause: chain(self),
            hint: Some("`keyutil token mint` makes a new one".to_owned()),
        }
    }
}

impl ClaimsArgs {
    /// The flags that are given, by name.
    fn non_empty(&self) -> impl Iterator<Item = &'static str> {
        [
            (
                "`--permissions` (KEYUTIL_PERMISSIONS)",
                non_empty_text(&self.permissions).is_some(),
            ),
            (
                "`--audience` (KEYUTIL_AUDIENCE)",
                non_empty_text(&self.audience).is_some(),
            ),
            (
                "`--subject` (KEYUTIL_SUBJECT)",
                non_empty_text(&self.subject).is_some(),
            ),
            (
                "`--token-lifetime` (KEYUTIL_TOKEN_LIFETIME)",
                self.token_lifetime.is_some(),
            ),
        ]
        .into_iter()
        .filter_map(|(name, non_empty)| non_empty.then_some(name))
    }

    /// What minted tokens say. Mistakes go to `problems`, with something harmless in their place.
    pub fn template(
        &self,
        namespace: &str,
        program: &str,
        problems: &mut SettingsErrors,
    ) -> ClaimsTemplate {
        let lifetime = self.token_lifetime.unwrap_or(DEFAULT_TOKEN_LIFETIME);
        if !(SHORTEST_LIFETIME..=LONGEST_LIFETIME).contains(&lifetime) {
            problems.add(format!(
                "`--token-lifetime` must be between {} and {}: `{}`",
                humantime::format_duration(SHORTEST_LIFETIME),
                "24h",
                humantime::format_duration(lifetime)
            ));
        }
        let permissions = match non_empty_text(&self.permissions) {
            None => vec![Permission::write(namespace)],
            Some(list) => list
                .split(',')
                .filter_map(|text| {
                    let parsed = text.trim().parse::<Permission>();
                    problems.note(parsed.map_err(|error| format!("`--permissions`: {error}")))
                })
                .collect(),
        };
        ClaimsTemplate {
            subject: non_empty_text(&self.subject).unwrap_or(program).to_owned(),
            audience: non_empty_text(&self.audience).map(str::to_owned),
            permissions,
            lifetime,
        }
    }
}
