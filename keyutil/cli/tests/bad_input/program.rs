//! The program itself: what only its commands do with files and variables.

use std::{ffi::OsString, fs, os::unix::ffi::OsStringExt, process::Command};

use proptest::prelude::*;

use super::{
    check::{cases, soon_with_files},
    mutation::inputs,
    samples::{KEY_SETS, PEM, PEM_SECRETS, TOKEN_SECRETS, TOKENS},
};

const VARIABLES: [&str; 7] = [
    "TEMPORAL_NAMESPACE",
    "KEYUTIL_PERMISSIONS",
    "KEYUTIL_AUDIENCE",
    "KEYUTIL_SUBJECT",
    "KEYUTIL_KID",
    "KEYUTIL_TOKEN_LIFETIME",
    "RUST_LOG",
];

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn token_commands(
        key in inputs(&PEM),
        token in inputs(&TOKENS),
        key_set in inputs(&KEY_SETS),
        variable in prop::sample::select(&VARIABLES[..]),
        value in prop_oneof![
            prop::collection::vec(1..=255_u8, 0..30).prop_map(OsString::from_vec),
            "[0-9]{1,20}(s|m|y)|default:[a-z]*,?".prop_map(OsString::from),
        ],
    ) {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in [("key", &key), ("token", &token), ("keys", &key_set)] {
            fs::write(folder.path().join(name), &content.text).unwrap();
        }
        for words in [
            &["token", "mint", "--signing-key", "key"][..],
            &["token", "inspect", "--file", "token", "--jwks", "keys"],
            &["jwks", "print", "--signing-key", "key"],
        ] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_keyutil"));
            command.current_dir(folder.path()).env_clear().env(variable, &value).args(words);
            let output = soon_with_files(&(&key, &token, &key_set), || command.output().unwrap());
            let stderr = String::from_utf8_lossy(&output.stderr);
            // 101 is that of a panic, and none that of a signal.
            let code = output.status.code();
            prop_assert!(code.is_some_and(|code| code < 101), "{code:?}: {stderr}");
            PEM_SECRETS.check(&stderr);
            TOKEN_SECRETS.check(&stderr);
        }
    }
}
