//! The activity runs without a server.

use worker::activities::greeting;

#[test]
fn greets_by_name() {
    for (name, expected) in [
        ("Temporal", "Hello Temporal!"),
        ("Jörg & Söhne", "Hello Jörg & Söhne!"),
        ("", "Hello !"),
    ] {
        assert_eq!(greeting(name), expected);
    }
}
