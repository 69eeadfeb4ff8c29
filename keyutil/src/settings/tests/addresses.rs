//! What `--address` may be.

use super::*;

#[test]
fn addresses_that_can_be_dialled() {
    for (text, host, port, tls) in [
        ("localhost:7233", "localhost", 7233, None),
        (" localhost:7233\n", "localhost", 7233, None),
        ("10.0.0.1:1", "10.0.0.1", 1, None),
        ("[::1]:7233", "::1", 7233, None),
        ("[2001:db8::7]:65535", "2001:db8::7", 65535, None),
        ("temporal_frontend:7233", "temporal_frontend", 7233, None),
        (
            "https://a.b.tmprl.cloud:443",
            "a.b.tmprl.cloud",
            443,
            Some(true),
        ),
        ("https://[::1]:7233/", "::1", 7233, Some(true)),
        ("http://127.0.0.1:7233/", "127.0.0.1", 7233, Some(false)),
    ] {
        let expected = Address {
            host: host.to_owned(),
            port,
            tls,
        };
        assert_eq!(Address::parse(text), Ok(expected), "{text}");
    }
}

#[test]
fn addresses_that_cannot_be_dialled() {
    for (text, words) in [
        ("", "the port is missing"),
        ("localhost", "the port is missing"),
        ("https://temporal.example", "the port is missing"),
        ("localhost:", "no number from 1 to 65535"),
        ("localhost:0", "no number from 1 to 65535"),
        ("localhost:+7233", "no number from 1 to 65535"),
        ("localhost:65536", "no number from 1 to 65535"),
        ("localhost:seven", "no number from 1 to 65535"),
        ("localhost:7233/path", "no number from 1 to 65535"),
        (":7233", "neither a name nor an IP address"),
        ("two words:7233", "neither a name nor an IP address"),
        ("user@host:7233", "neither a name nor an IP address"),
        ("http://:7233", "neither a name nor an IP address"),
        ("::1:7233", "put in brackets"),
        ("[::1]", "the port is missing"),
        ("[::1:7233", "no IPv6 address in the brackets"),
        ("[localhost]:7233", "no IPv6 address in the brackets"),
        ("[127.0.0.1]:7233", "no IPv6 address in the brackets"),
        ("grpc://localhost:7233", "the only schemes are"),
    ] {
        let refused = Address::parse(text).unwrap_err();
        assert!(refused.contains("`--address` must be"), "{text}: {refused}");
        assert!(refused.contains(words), "{text}: {refused}");
    }
}

#[test]
fn a_password_before_the_host_is_not_repeated() {
    for text in ["user:hunter2@host:7233", "https://user:hunter2@host"] {
        let refused = Address::parse(text).unwrap_err();
        assert!(!refused.contains("hunter2"), "{refused}");
        assert!(refused.contains("…@host"), "{refused}");
    }
}
