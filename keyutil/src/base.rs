//! Foundations of all other modules: error chains, text, times, bounded reads, redaction, file
//! descriptors, standard error.

pub mod descriptors;
pub mod read;
pub mod redact;
pub mod stderr;
pub mod text;
pub mod time;

use std::error::Error;

use serde_json::error::Category;

/// The error and its sources, joined by `: `. A source that the text already contains is omitted,
/// because many libraries include the source in their own message.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in causes(error).skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// The error and its sources, outermost first.
pub fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    // Copying the reference gives the sources the lifetime of the error.
    std::iter::successors(Some(error), |error| {
        let error: &'a (dyn Error + 'static) = *error;
        error.source()
    })
}

/// An error in JSON, without values from the document. `serde_json` quotes the wrong value, which
/// may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct JsonError(String);

impl From<serde_json::Error> for JsonError {
    fn from(error: serde_json::Error) -> Self {
        let text = error.to_string();
        // Field names are not secret.
        let named = ["missing field", "duplicate field"]
            .iter()
            .any(|words| text.starts_with(words));
        Self(match (error.classify(), error.line()) {
            (Category::Data, 0) if !named => "a value has the wrong type".to_owned(),
            (Category::Data, line) if !named => format!(
                "a value has the wrong type, at line {line} column {}",
                error.column()
            ),
            _ => text,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Link {
        text: &'static str,
        #[source]
        source: Option<Box<Link>>,
    }

    #[test]
    fn a_quoted_cause_is_not_repeated() {
        let link = |text, source| Link { text, source };
        let root = link("refused", None);
        let middle = link("dial failed: refused", Some(Box::new(root)));
        let top = link("no connection", Some(Box::new(middle)));
        assert_eq!(chain(&top), "no connection: dial failed: refused");
    }

    #[derive(Debug, serde::Deserialize)]
    #[expect(dead_code, reason = "only ever read")]
    struct Pair {
        name: String,
        number: u8,
    }

    #[test]
    fn an_error_names_fields_and_places_but_no_values() {
        for (text, words) in [
            (
                r#"{"name": "secret", "number": "secret"}"#,
                "line 1 column 37",
            ),
            (r#""secret""#, "wrong type"),
            (r#"{"name": "secret"}"#, "missing field `number`"),
            (r#"{"name": "secret" "secret"}"#, "expected `,` or `}`"),
            (r#"{"name": "secret"#, "EOF"),
        ] {
            let error = serde_json::from_str::<Pair>(text).unwrap_err();
            let told = format!("{0} {0:?}", JsonError::from(error));
            assert!(told.contains(words), "{words}: {told}");
            assert!(!told.contains("secret"), "{told}");
        }
    }
}
