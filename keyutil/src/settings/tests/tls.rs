//! When TLS is on, and what must not travel without it.

use std::path::Path;

use super::*;

#[test]
fn what_is_empty_counts_as_not_set() {
    let empty = Some(Path::new("").to_owned());
    let mut args = ConnectArgs {
        tls_cert_path: empty.clone(),
        tls_key_path: empty.clone(),
        tls_ca_path: empty.clone(),
        tls_server_name: Some(" ".into()),
        ..ConnectArgs::default()
    };
    args.token.api_key = Some(" ".into());
    args.token.token_file = empty.clone();
    args.token.signing_key = empty;
    args.token.claims.permissions = Some(String::new());
    args.token.claims.audience = Some(String::new());
    args.token.claims.subject = Some(" ".into());

    let settings = Settings::new(&args, "test").unwrap();

    assert!(settings.token.is_none());
    assert!(!is_tls(&settings));
    assert!(settings.watched().is_empty());
}

#[test]
fn a_token_does_not_travel_in_plaintext_to_another_machine() {
    for (address, tls, allowed) in [
        ("temporal.example:7233", Some(false), false),
        ("http://10.0.0.1:7233", None, false),
        ("http://localhost.example:7233", None, false),
        ("http://LOCALHOST:7233", None, true),
        ("frontend.localhost:7233", Some(false), true),
        ("127.0.0.7:7233", Some(false), true),
        ("http://[::1]:7233", None, true),
    ] {
        let mut args = ConnectArgs {
            address: address.into(),
            tls,
            ..ConnectArgs::default()
        };
        args.token.api_key = Some("key".into());
        match Settings::new(&args, "test") {
            Ok(settings) => {
                assert!(allowed, "{address}");
                // The name is not enough: what it resolves to is looked at when it is dialled.
                let security = settings.connector.security();
                let kept_here = matches!(
                    security,
                    Security::Plaintext {
                        loopback_only: true
                    }
                );
                assert!(kept_here, "{address}");
            }
            Err(refused) => {
                assert!(!allowed, "{address}: {refused}");
                let refused = refused.to_string();
                assert!(
                    refused.contains("plaintext to another machine"),
                    "{refused}"
                );
            }
        }
    }
}

#[test]
fn tls_is_on_as_soon_as_something_needs_it() {
    type Change = fn(&mut ConnectArgs, &World);
    let cases: &[(&str, Change, bool)] = &[
        ("nothing given", |args, _| args.tls_ca_path = None, false),
        ("CA", |_, _| {}, true),
        ("--tls", |args, _| args.tls = Some(true), true),
        (
            "https",
            |args, _| args.address = "https://localhost:7233".into(),
            true,
        ),
        (
            "server name",
            |args, _| args.tls_server_name = Some("temporal".into()),
            true,
        ),
        (
            "client certificate",
            |args, world| {
                args.tls_cert_path = Some(world.file("tls.crt"));
                args.tls_key_path = Some(world.file("tls.key"));
            },
            true,
        ),
        (
            "API key",
            |args, _| args.token.api_key = Some("key".into()),
            true,
        ),
        (
            "signing key",
            |args, world| args.token.signing_key = Some(world.signing_key()),
            true,
        ),
        (
            "--tls=false",
            |args, _| {
                args.tls = Some(false);
                args.tls_ca_path = None;
            },
            false,
        ),
        (
            "http",
            |args, _| {
                args.address = "http://localhost:7233".into();
                args.tls_ca_path = None;
            },
            false,
        ),
        (
            "API key and --tls=false",
            |args, _| {
                args.tls = Some(false);
                args.tls_ca_path = None;
                args.token.api_key = Some("key".into());
            },
            false,
        ),
    ];
    let world = World::new();
    for (name, change, expected) in cases {
        let mut args = world.tls();
        change(&mut args, &world);
        let settings = Settings::new(&args, "test").unwrap();
        assert_eq!(is_tls(&settings), *expected, "{name}");
    }
}
