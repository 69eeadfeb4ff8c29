//! One line for an error and everything that caused it.

use std::error::Error;

/// The error and its sources, joined by `: `. A cause that its effect has quoted already is left
/// out, because many libraries put the source into their own message.
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
    // Copied out of the reference, so that the source lives as long as the error does.
    std::iter::successors(Some(error), |error| {
        let error: &'a (dyn Error + 'static) = *error;
        error.source()
    })
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
}
