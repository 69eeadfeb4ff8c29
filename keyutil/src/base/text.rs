//! Text from other parties, made safe for a terminal.

/// Escapes control characters, which can control a terminal, and characters that change the writing
/// direction, which can disguise a line.
pub fn printable(text: &str) -> String {
    escaped(text, |_| false)
}

/// Like [`printable`], but keeps line ends.
pub fn printable_lines(text: &str) -> String {
    escaped(text, |character| character == '\n')
}

/// The text, cut after `most` characters.
pub fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}… ({} characters)", &text[..end], text.chars().count()),
        None => text.to_owned(),
    }
}

/// Text from other parties for one line of a report: printable and of limited length.
pub fn fit(text: &str) -> String {
    const LONGEST: usize = 1500;
    shortened(&printable(text), LONGEST)
}

fn escaped(text: &str, keep: impl Fn(char) -> bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        let turns = matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if !keep(character) && (character.is_control() || turns) {
            escaped.extend(character.escape_default());
        } else {
            escaped.push(character);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(printable("a\u{1b}[31m\nü"), "a\\u{1b}[31m\\nü");
        assert_eq!(printable_lines("a\r\nb\u{9b}"), "a\\r\nb\\u{9b}");
        assert_eq!(printable("a\u{202e}b"), "a\\u{202e}b");
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(shortened("äöü", 3), "äöü");
        assert_eq!(shortened("äöüß", 3), "äöü… (4 characters)");
    }

    proptest! {
        #[test]
        fn printable_text_has_no_control_characters(text in "\\PC*|(?s).*") {
            prop_assert!(!printable(&text).chars().any(char::is_control));
        }
    }
}
