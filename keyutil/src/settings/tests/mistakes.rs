//! What is refused, that all of it is refused at once, and that no secret is told.

use std::fs;

use secrecy::SecretString;

use super::*;

#[test]
fn what_contradicts_itself_or_is_incomplete_is_refused() {
    type Change = fn(&mut ConnectArgs, &World);
    let cases: &[(Change, &str)] = &[
        (
            |args, _| args.namespace = " ".into(),
            "`--namespace` is empty",
        ),
        (
            |args, _| args.connect_timeout = Duration::ZERO,
            "`--connect-timeout` is zero",
        ),
        (
            |args, world| args.tls_cert_path = Some(world.file("tls.crt")),
            "`--tls-key-path` is not",
        ),
        (
            |args, world| args.tls_key_path = Some(world.file("tls.key")),
            "`--tls-cert-path` is not",
        ),
        (
            |args, _| {
                args.address = "http://localhost:7233".into();
                args.tls = Some(true);
            },
            "contradicts the scheme",
        ),
        (
            |args, _| {
                args.address = "https://localhost:7233".into();
                args.tls = Some(false);
            },
            "contradicts the scheme",
        ),
        (
            |args, world| {
                args.tls = Some(false);
                args.tls_ca_path = Some(world.file("ca.crt"));
            },
            "`--tls-ca-path` would have no effect",
        ),
        (
            |args, _| {
                args.address = "http://localhost:7233".into();
                args.tls_server_name = Some("temporal".into());
            },
            "`--tls-server-name` would have no effect",
        ),
        (
            |args, _| args.tls_server_name = Some("a b".into()),
            "must be a DNS name or an IP address: `a b`",
        ),
        (
            |args, world| {
                args.token.api_key = Some("key".into());
                args.token.signing_key = Some(world.signing_key());
            },
            "`--api-key` (TEMPORAL_API_KEY) and `--signing-key`",
        ),
        (
            |args, _| args.token.claims.permissions = Some("default:write".into()),
            "`--permissions` (KEYUTIL_PERMISSIONS) shapes tokens that are minted here",
        ),
        (
            |args, _| {
                args.token.api_key = Some("key".into());
                args.token.claims.token_lifetime = Some(Duration::from_secs(60));
            },
            "`--token-lifetime` (KEYUTIL_TOKEN_LIFETIME) shapes tokens that are minted here",
        ),
        (
            |args, _| args.token.api_key = Some("two words".into()),
            "`--api-key` (TEMPORAL_API_KEY) is unusable",
        ),
    ];
    let world = World::new();
    for (change, words) in cases {
        let mut args = world.tls();
        args.tls_ca_path = None;
        change(&mut args, &world);
        let refused = Settings::new(&args, "test").unwrap_err().to_string();
        assert!(refused.contains(words), "{words}: {refused}");
    }
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let missing = |name: &str| Some(folder.path().join(name));
    let mut args = ConnectArgs {
        names: Names::Flags,
        address: "localhost".into(),
        namespace: String::new(),
        tls_cert_path: missing("missing.crt"),
        tls_key_path: missing("missing.key"),
        tls_ca_path: missing("missing-ca.crt"),
        connect_timeout: Duration::ZERO,
        ..ConnectArgs::default()
    };
    args.token.token_file = missing("missing.jwt");
    args.token.signing_key = missing("missing.pem");
    args.token.claims.permissions = Some("default:write,default:wirte".into());
    args.token.claims.token_lifetime = Some(Duration::from_secs(1));

    let refused = Settings::new(&args, "test").unwrap_err().to_string();

    assert!(refused.starts_with("there are 9 mistakes"), "{refused}");
    assert_eq!(refused.matches("\n  - ").count(), 9, "{refused}");
    for words in [
        "the port is missing",
        "`--namespace` is empty",
        "more than one source of tokens",
        "`default:wirte` is not a permission",
        "`--token-lifetime` must be between 2s and 24h: `1s`",
        "missing.pem",
        "missing.crt",
        "missing-ca.crt",
        "`--connect-timeout` is zero",
    ] {
        assert!(refused.contains(words), "{words}: {refused}");
    }
}

#[test]
fn no_secret_is_in_a_message() {
    let world = World::new();
    let mut args = world.tls();
    args.tls_cert_path = Some(world.file("tls.crt"));
    let key = fs::read_to_string(world.file("tls.key")).unwrap();
    let cut = &key[..key.len() / 2];
    let cut_path = world.folder.path().join("cut.key");
    fs::write(&cut_path, cut).unwrap();
    args.tls_key_path = Some(cut_path.clone());
    args.token.signing_key = Some(cut_path);
    args.token.api_key = Some(SecretString::from("tops3cret tops3cret"));

    let refused = Settings::new(&args, "test").unwrap_err();
    let mut said = format!("{refused} {refused:?} {args:?}");
    // On its own, so that it is looked at and not only counted.
    args.token.signing_key = None;
    let refused = Settings::new(&args, "test").unwrap_err();
    said = format!("{said} {refused} {refused:?}");

    assert!(said.contains("TEMPORAL_API_KEY) is unusable"), "{said}");
    assert!(!said.contains("tops3cret"), "{said}");
    let secret = cut.lines().nth(1).unwrap();
    assert!(!said.contains(&secret[..20]), "{said}");
}

#[test]
fn what_is_allowed_and_probably_not_meant_is_a_warning() {
    let world = World::new();
    let mut args = world.tls();
    args.tls_cert_path = Some(world.file("server.crt"));
    args.tls_key_path = Some(world.file("server.key"));
    args.token.signing_key = Some(world.signing_key());
    args.token.claims.permissions = Some("default:worker".into());

    let warnings = Settings::new(&args, "test").unwrap().warnings;

    assert_eq!(warnings.len(), 2, "{warnings:?}");
    let warnings = warnings.join("\n");
    assert!(warnings.contains("alone allows nothing"), "{warnings}");
    assert!(warnings.contains("lacks `clientAuth`"), "{warnings}");
}

#[test]
fn settings_that_were_made_in_code_are_named_by_their_fields() {
    let world = World::new();
    let args = ConnectArgs {
        names: Names::default(),
        tls_cert_path: Some(world.file("tls.crt")),
        ..world.tls()
    };
    let told = Settings::new(&args, "test").unwrap_err().to_string();
    assert!(
        told.contains("`tls_cert_path` is set and `tls_key_path` is not"),
        "{told}"
    );
}
