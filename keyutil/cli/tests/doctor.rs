//! `keyutil doctor` with what it was not made for. What it is made for is tested against the real
//! server, in `sandbox/tests/gallery.rs`.

use std::{
    net::TcpListener,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::common::program::{keyutil, run, with_keys};
use serde_json::Value;

/// A port without a listener.
fn nowhere() -> String {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    taken.local_addr().unwrap().to_string()
}

#[test]
fn a_pipe_in_place_of_a_key_set_is_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let made = Command::new("mkfifo")
        .arg(folder.path().join("pipe"))
        .status();
    assert!(made.unwrap().success());
    let begun = Instant::now();
    for source in ["pipe", "/dev/zero", "."] {
        let arguments = ["doctor", "--address", &nowhere(), "--jwks", source];
        let ended = run(keyutil(folder.path()).args(arguments));
        assert!(ended.stdout.contains("not a regular file"), "{ended:?}");
    }
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[test]
fn what_may_be_a_secret_is_not_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("http://joe:hunter2@{}/keys?token=s3cr3t", nowhere());
    let pem = "-----BEGIN PRIVATE KEY-----\nMIIhunter2\n-----END PRIVATE KEY-----";
    for arguments in [
        ["--jwks", &url],
        ["--jwks", pem],
        ["--tls-key-path", pem],
        [
            "--token-file",
            "eyJodW50ZXIyIjoxfQ.eyJodW50ZXIyIjoxfQ.aHVudGVyMg",
        ],
        ["--address", "joe:hunter2@127.0.0.1:1"],
        ["--api-key", "hunter2"],
    ] {
        for output in ["text", "json"] {
            let mut command = keyutil(folder.path());
            command.args(["doctor", "--tls=true", "--output", output]);
            if arguments[0] != "--address" {
                command.args(["--address", &nowhere()]);
            }
            // With a sign, because what begins with a dash would be taken for a flag.
            let ended = run(command.arg(arguments.join("=")));
            for secret in ["hunter2", "s3cr3t", "eyJodW50"] {
                assert!(!ended.stdout.contains(secret), "{arguments:?}: {ended:?}");
                assert!(!ended.stderr.contains(secret), "{arguments:?}: {ended:?}");
            }
        }
    }
}

#[test]
fn the_exit_code_does_not_depend_on_a_reader_of_the_output() {
    let folder = tempfile::tempdir().unwrap();
    for output in ["text", "json"] {
        let mut command = keyutil(folder.path());
        command.args(["doctor", "--address", &nowhere(), "--output", output]);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        assert_eq!(child.wait().unwrap().code(), Some(69), "{output}");
    }
}

#[test]
fn text_of_others_tells_the_terminal_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let keys =
        r#"{"keys":[{"kty":"RSA","kid":"evil\u001b[2J\r\nok  permission","n":"AQAB","e":"AQAB"}]}"#;
    std::fs::write(folder.path().join("keys.json"), keys).unwrap();
    let arguments = ["doctor", "--address", &nowhere(), "--jwks", "keys.json"];
    let ended = run(keyutil(folder.path()).args(arguments));
    assert!(ended.stdout.contains("evil"), "{ended:?}");
    assert!(!ended.stdout.contains('\u{1b}'), "{ended:?}");
    assert!(
        !ended
            .stdout
            .lines()
            .any(|line| line.starts_with("ok  permission")),
        "{ended:?}"
    );
    let ended = run(keyutil(folder.path())
        .args(arguments)
        .args(["--output", "json"]));
    let object: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(object["exit_code"], 69, "{object:#}");
}

#[test]
fn a_key_set_is_judged_as_the_server_does_without_a_token_too() {
    let folder = tempfile::tempdir().unwrap();
    let rsa = r#"{"kty":"RSA","kid":"a","n":"AQAB","e":"AQAB"}"#;
    let foreign = r#"{"kty":"OKP","crv":"X25519","kid":"b","x":"AQAB"}"#;
    for (other, words) in [
        (
            foreign,
            "FAILED   JWKS           `keys.json`: the server refuses the whole key set, because it cannot parse key `b`",
        ),
        (
            rsa,
            "warning  JWKS           two keys have the kid `a`: the server uses the last one",
        ),
    ] {
        let set = format!(r#"{{"keys":[{rsa},{other}]}}"#);
        std::fs::write(folder.path().join("keys.json"), set).unwrap();
        let arguments = ["doctor", "--address", &nowhere(), "--jwks", "keys.json"];
        let ended = run(keyutil(folder.path()).args(arguments));
        assert!(ended.stdout.contains(words), "{ended:?}");
    }
}

#[test]
fn a_token_that_outlives_its_key_is_warned_of() {
    let folder = with_keys();
    let retired = run(keyutil(folder.path()).args(["key", "retire"]));
    assert_eq!(retired.code, Some(0), "{retired:?}");
    let doctor = |lifetime: &str| {
        let mut command = keyutil(folder.path());
        command.args(["doctor", "--tls=false", "--address", &nowhere()]);
        command.args(["--signing-key", "certs/signing/active/current.pem"]);
        run(command.args(["--token-lifetime", lifetime])).stdout
    };
    let words = "stopped signing only for tokens of up to 5m: after that, servers refuse the token";
    assert!(doctor("1h").contains(words), "{}", doctor("1h"));
    assert!(!doctor("5m").contains(words));
}
