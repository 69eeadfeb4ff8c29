//! Settings that are accepted, settings that are refused, and their messages.

use std::{
    fs,
    path::{Path, PathBuf},
};

use secrecy::SecretString;
use tempfile::TempDir;

use super::*;
use crate::samples;

/// A folder with certificates and a signing key.
struct World {
    folder: TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        let worker = samples::client();
        let server = samples::valid_for(rcgen::ExtendedKeyUsagePurpose::ServerAuth);
        for (file, content) in [
            ("tls.crt", worker.leaf_pem),
            ("tls.key", worker.key_pem),
            ("ca.crt", worker.ca_pem),
            ("server.crt", server.leaf_pem),
            ("server.key", server.key_pem),
        ] {
            fs::write(world.file(file), content).unwrap();
        }
        samples::write_key(&world.signing_key());
        world
    }

    /// Settings with a CA file, independent of the CAs of the operating system.
    fn tls(&self) -> ConnectArgs {
        ConnectArgs {
            tls_ca_path: Some(self.file("ca.crt")),
            names: Names::Flags,
            ..ConnectArgs::default()
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn signing_key(&self) -> PathBuf {
        self.file("signing.pem")
    }
}

fn is_tls(settings: &Settings) -> bool {
    matches!(settings.connector.security(), Security::Tls { .. })
}

#[test]
fn a_flag_is_accepted_before_and_after_a_subcommand() {
    #[derive(clap::Parser)]
    struct Program {
        #[command(flatten)]
        connect: ConnectArgs,
        #[command(subcommand)]
        command: Order,
    }
    #[derive(clap::Subcommand)]
    enum Order {
        Start,
    }
    let address = "temporal.example:7233";
    let permissions = "orders:read";
    for arguments in [
        ["--address", address, "--permissions", permissions, "start"],
        ["--address", address, "start", "--permissions", permissions],
        ["start", "--address", address, "--permissions", permissions],
    ] {
        let arguments = ["test"].into_iter().chain(arguments);
        let Program { connect, command } = clap::Parser::parse_from(arguments);
        let Order::Start = command;
        assert_eq!(connect.address, address);
        let parsed = connect.token.claims.permissions;
        assert_eq!(parsed.as_deref(), Some(permissions));
    }
    let command = <Program as clap::CommandFactory>::command();
    let local = command.get_arguments().find(|one| !one.is_global_set());
    assert_eq!(local, None);
}

#[test]
fn valid_addresses_are_parsed() {
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
fn invalid_addresses_are_refused() {
    for (text, words) in [
        ("", "the port is missing"),
        ("localhost", "the port is missing"),
        ("https://temporal.example", "the port is missing"),
        ("localhost:", "not a number from 1 to 65535"),
        ("localhost:0", "not a number from 1 to 65535"),
        ("localhost:+7233", "not a number from 1 to 65535"),
        ("localhost:65536", "not a number from 1 to 65535"),
        ("localhost:seven", "not a number from 1 to 65535"),
        ("localhost:7233/path", "it has a path"),
        (":7233", "neither a name nor an IP address"),
        ("two words:7233", "neither a name nor an IP address"),
        ("user@host:7233", "it has a user name"),
        ("user:hunter2@host:7233", "it has a user name"),
        ("https://host:7233/path", "it has a path"),
        ("host/path", "it has a path"),
        ("http://:7233", "neither a name nor an IP address"),
        ("::1:7233", "needs brackets"),
        ("[::1]", "the port is missing"),
        ("[::1:7233", "do not contain an IPv6 address"),
        ("[localhost]:7233", "do not contain an IPv6 address"),
        ("[127.0.0.1]:7233", "do not contain an IPv6 address"),
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

#[test]
fn empty_values_count_as_not_set() {
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
fn a_token_is_not_sent_in_plaintext_to_another_machine() {
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
                // The resolved address is checked again when it is dialled.
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

#[test]
fn contradictory_and_incomplete_settings_are_refused() {
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
            "`--tls=false` switches TLS off, and `--tls-ca-path` would have no effect",
        ),
        (
            |args, _| {
                args.address = "http://localhost:7233".into();
                args.tls_server_name = Some("temporal".into());
            },
            "the scheme `http://` of `--address` switches TLS off, and `--tls-server-name` would have \
             no effect",
        ),
        (
            |args, world| {
                args.namespace = "temporal-system".into();
                args.token.signing_key = Some(world.signing_key());
            },
            "would be valid for every namespace: name its permissions with `--permissions`",
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
            "`--permissions` (KEYUTIL_PERMISSIONS) applies to minted tokens",
        ),
        (
            |args, _| {
                args.token.api_key = Some("key".into());
                args.token.claims.token_lifetime = Some(Duration::from_secs(60));
            },
            "`--token-lifetime` (KEYUTIL_TOKEN_LIFETIME) applies to minted tokens",
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
fn all_errors_are_reported_at_once() {
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

    assert!(
        refused.starts_with("the settings have 9 errors"),
        "{refused}"
    );
    assert_eq!(refused.matches("\n  - ").count(), 9, "{refused}");
    for words in [
        "the port is missing",
        "`--namespace` is empty",
        "more than one token source",
        "`default:wirte` is not a permission",
        "`--token-lifetime` must be between 2s and 24h: `1s`",
        "`--signing-key` (KEYUTIL_SIGNING_KEY_PATH): failed to read",
        "`--tls-cert-path` (TEMPORAL_TLS_CLIENT_CERT_PATH): failed to read",
        "`--tls-ca-path` (TEMPORAL_TLS_SERVER_CA_CERT_PATH): failed to read",
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
    // Alone, so that its content is parsed and not only counted.
    args.token.signing_key = None;
    let refused = Settings::new(&args, "test").unwrap_err();
    said = format!("{said} {refused} {refused:?}");

    assert!(said.contains("TEMPORAL_API_KEY) is unusable"), "{said}");
    assert!(!said.contains("tops3cret"), "{said}");
    let secret = cut.lines().nth(1).unwrap();
    assert!(!said.contains(&secret[..20]), "{said}");
}

#[test]
fn settings_that_are_probably_unintended_are_warnings() {
    let world = World::new();
    let mut args = world.tls();
    args.tls_cert_path = Some(world.file("server.crt"));
    args.tls_key_path = Some(world.file("server.key"));
    args.token.signing_key = Some(world.signing_key());
    args.token.claims.permissions = Some("default:worker".into());

    let warnings = Settings::new(&args, "test").unwrap().warnings;

    assert_eq!(warnings.len(), 2, "{warnings:?}");
    let warnings = warnings.join("\n");
    assert!(warnings.contains("alone grants nothing"), "{warnings}");
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
    let args = ConnectArgs {
        tls_ca_path: Some(world.file("missing.crt")),
        ..ConnectArgs::default()
    };
    let told = Settings::new(&args, "test").unwrap_err().to_string();
    assert!(told.starts_with("`tls_ca_path`: failed to read"), "{told}");
}

#[test]
fn permissions_can_be_in_another_claim() {
    let world = World::new();
    let mut args = world.tls();
    args.token.signing_key = Some(world.signing_key());
    args.token.claims.permissions_claim = Some("roles".into());
    let settings = Settings::new(&args, "test").unwrap();
    let minted = settings.token.unwrap().token(SystemTime::now()).unwrap();
    let content = minted.content().unwrap();
    assert_eq!(content.claims["roles"][0], "default:write");
    assert!(content.claims.get("permissions").is_none());
    assert_eq!(content.permissions(), ["default:write"]);

    args.token.signing_key = None;
    args.token.token_file = Some(world.file("token.jwt"));
    fs::write(world.file("token.jwt"), minted.text()).unwrap();
    let settings = Settings::new(&args, "test").unwrap();
    let read = settings.token.unwrap().current().unwrap();
    assert_eq!(read.content().unwrap().permissions(), ["default:write"]);

    for reserved in ["iss", "sub", "aud", "exp", "nbf", "iat", "jti"] {
        args.token.claims.permissions_claim = Some(reserved.into());
        let refused = Settings::new(&args, "test").unwrap_err().to_string();
        let named = "`--permissions-claim` (KEYUTIL_PERMISSIONS_CLAIM): the claim";
        assert!(refused.contains(named), "{refused}");
    }
}

#[test]
fn the_proxy_is_that_of_the_environment_except_for_this_machine() {
    let chosen = |address: &str, variables: &[(&str, &str)]| {
        let variable = |name: &str| {
            let set = variables.iter().find(|(set, _)| *set == name);
            set.map(|(_, value)| OsString::from(value))
        };
        let proxy = proxy(&Address::parse(address).unwrap(), variable);
        proxy.map(|proxy| proxy.map(|proxy| proxy.to_string()))
    };
    let (upper, lower) = (("HTTPS_PROXY", "http://a:1"), ("https_proxy", "http://b:2"));
    let server = "temporal.example:7233";
    for (address, variables, expected) in [
        (server, &[][..], None),
        (server, &[("HTTP_PROXY", "http://a:1")], None),
        (server, &[lower, upper], Some("a:1")),
        (server, &[("HTTPS_PROXY", ""), lower], Some("b:2")),
        (server, &[upper, ("NO_PROXY", "example")], None),
        (
            server,
            &[upper, ("NO_PROXY", ""), ("no_proxy", "example")],
            None,
        ),
        (server, &[upper, ("NO_PROXY", "other")], Some("a:1")),
        ("[fd00::1]:7233", &[upper, ("NO_PROXY", "fd00::/8")], None),
        ("localhost:7233", &[upper], None),
        ("127.0.0.2:7233", &[upper], None),
        ("[::1]:7233", &[upper], None),
    ] {
        let expected = expected.map(str::to_owned);
        assert_eq!(
            chosen(address, variables),
            Ok(expected),
            "{address} {variables:?}"
        );
    }
    let refused = chosen(server, &[("https_proxy", "socks5://joe:hunter2@a:1")]).unwrap_err();
    assert_eq!(
        refused,
        "`https_proxy` is not usable: its scheme must be `http`: TLS to the proxy and SOCKS are not \
         supported; correct it, or set `--no-proxy`"
    );
    // The variable is not checked where no proxy is used.
    let broken = chosen("localhost:7233", &[("https_proxy", "socks5://a:1")]);
    assert_eq!(broken, Ok(None));
}
