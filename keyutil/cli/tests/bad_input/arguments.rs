//! Flags and variables, which come to the same parsers, and the files that they name.

use std::{ffi::OsString, fs, os::unix::ffi::OsStringExt, sync::LazyLock};

use clap::{Args, Command, FromArgMatches};
use keyutil::{ConnectArgs, settings::Settings};
use proptest::prelude::*;

use super::{
    check::{Secrets, cases, soon_with_files, told},
    mutation::{Input, Sample, inputs},
    samples::{PEM, TOKENS, secrets_of},
};

static SAMPLES: LazyLock<Vec<Sample>> = LazyLock::new(|| [&PEM[..], &TOKENS[..]].concat());

static SECRETS: LazyLock<Secrets> = LazyLock::new(|| {
    let keys = PEM.iter().flat_map(|sample| secrets_of(&sample.text));
    Secrets::new(keys.chain(TOKENS.iter().take(2).map(|sample| sample.text.clone())))
});

/// Those that take text. What stands in them is told.
const TEXTS: [&str; 11] = [
    "address",
    "namespace",
    "tls",
    "tls-server-name",
    "grpc-compression",
    "connect-timeout",
    "permissions",
    "audience",
    "subject",
    "token-lifetime",
    "tls-ca-path",
];

/// Those that name a file, which holds the input.
const FILES: [&str; 5] = [
    "tls-cert-path",
    "tls-key-path",
    "tls-ca-path",
    "token-file",
    "signing-key",
];

/// What `--address` and others might be, and anything else.
fn texts() -> impl Strategy<Value = OsString> {
    let likely = [
        "",
        "true",
        "off",
        "none",
        "gzip",
        "localhost",
        "localhost:7233",
        "https://localhost:7233",
        "[::1]:7233",
        "http://localhost:0",
        "1s",
        "0s",
        "1000000years",
        "default:write",
        "a b",
        "é:1",
        "xn--:1",
        "[::1%eth0]:1",
        "https://https://x:1",
        "localhost:65536",
        "::1:7233",
        "[",
        "]:1",
        "[]:1",
        ":",
        ":1",
        "a:+1",
        "*.x:1",
        "256.1.1.1:1",
        "0x7f.1:1",
        "a..b:1",
        "\u{202e}:1",
        "a:１",
        "%00:1",
        "user@host:1",
        "host:1/path",
        "host:1?x#y",
    ];
    prop_oneof![
        4 => prop::sample::select(likely.to_vec()).prop_map(OsString::from),
        2 => "(https?://)?[a-z0-9.\\[\\]:%_@/-]{0,40}(:[0-9]{0,6})?/?".prop_map(OsString::from),
        1 => any::<String>().prop_map(OsString::from),
        1 => prop::collection::vec(1..=255_u8, 0..40).prop_map(OsString::from_vec),
    ]
}

fn parse(words: Vec<OsString>) -> Result<ConnectArgs, clap::Error> {
    // Not those of who runs the tests.
    let command =
        ConnectArgs::augment_args(Command::new("test")).mut_args(|arg| arg.env(None::<&str>));
    ConnectArgs::from_arg_matches(&command.try_get_matches_from(words)?)
}

fn flag(name: &str, value: impl Into<OsString>) -> OsString {
    let mut flag = OsString::from(format!("--{name}="));
    flag.push(value.into());
    flag
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn flags_and_files(
        mut texts in prop::collection::hash_map(prop::sample::select(&TEXTS[..]), texts(), 0..5),
        files in prop::collection::hash_map(prop::sample::select(&FILES[..]), inputs(&SAMPLES), 0..4),
        api_key in prop::option::of(inputs(&TOKENS)),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut words = vec![OsString::from("test")];
        for (name, Input { text, .. }) in &files {
            texts.remove(name);
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            words.push(flag(name, path));
        }
        if let Some(Input { text, .. }) = &api_key {
            let without_end = text.iter().copied().filter(|byte| *byte != 0).collect();
            words.push(flag("api-key", OsString::from_vec(without_end)));
        }
        words.extend(texts.iter().map(|(name, text)| flag(name, text)));
        soon_with_files(&(&texts, &files, &api_key), || match parse(words) {
            Err(error) => SECRETS.check(&format!("{error} {error:?}")),
            Ok(arguments) => {
                SECRETS.check(&format!("{arguments:?}"));
                SECRETS.check(&told(&Settings::new(&arguments, "test")));
            }
        });
    }
}
