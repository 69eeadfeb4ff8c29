//! Mistakes in the arguments, and a server that cannot be reached. No server is needed.

use std::process::{Command, Output};

fn starter(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_starter"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("TEMPORAL_") || text.starts_with("KEYUTIL_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).output().unwrap()
}

fn complaint(output: &Output) -> String {
    assert_eq!(
        output.stdout, b"",
        "mistakes do not belong on standard output"
    );
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn all_mistakes_are_reported_at_once_and_before_any_connection() {
    // A connection to this address would take the whole connect timeout.
    let output = starter(&[
        "--address",
        "192.0.2.1",
        "--tls-cert-path",
        "missing.crt",
        "--api-key",
        "secret-value",
        "--token-file",
        "missing.jwt",
    ]);
    assert_eq!(output.status.code(), Some(64));
    let complaint = complaint(&output);
    for words in [
        "`--address`",
        "missing.jwt",
        "`--tls-key-path`",
        "`--api-key`",
    ] {
        assert!(complaint.contains(words), "{words}: {complaint}");
    }
    assert!(!complaint.contains("secret-value"), "{complaint}");
}

#[test]
fn zero_workflows_are_refused() {
    for flag in ["--count", "--concurrency"] {
        let output = starter(&[flag, "0"]);
        assert_eq!(output.status.code(), Some(64), "{flag}");
        assert!(complaint(&output).contains(flag));
    }
}

#[test]
fn help_names_the_exit_codes() {
    let output = starter(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = String::from_utf8(output.stdout).unwrap();
    for words in [
        "--count",
        "TEMPORAL_API_KEY",
        "Examples:",
        "Exit codes:",
    ] {
        assert!(help.contains(words), "{words}: {help}");
    }
}

#[test]
fn an_unreachable_server_is_reported_with_a_hint() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    drop(taken);
    let output = starter(&[
        "--address",
        &format!("127.0.0.1:{port}"),
        "--connect-timeout",
        "1s",
    ]);
    assert_eq!(output.status.code(), Some(69));
    let complaint = complaint(&output);
    for words in ["Connection refused", "hint:", "TEMPORAL_ADDRESS"] {
        assert!(complaint.contains(words), "{words}: {complaint}");
    }
}

#[test]
fn quiet_leaves_only_the_error_and_the_hint() {
    let output = starter(&[
        "--address=127.0.0.1:1",
        "--connect-timeout=200ms",
        "--quiet",
    ]);
    assert_eq!(output.status.code(), Some(69));
    let complaint = complaint(&output);
    assert!(complaint.starts_with("starter: "), "{complaint}");
}

#[test]
fn durations_beyond_the_clock_are_accepted() {
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = unused.local_addr().unwrap().to_string();
    drop(unused);
    let endless = "18446744073709551615s 999999999ns";
    for limits in [
        ["--connect-timeout", "1s", "--timeout", endless],
        ["--connect-timeout", endless, "--timeout", "1s"],
    ] {
        let output = starter(&[&["--address", &address][..], &limits].concat());
        assert_eq!(output.status.code(), Some(69), "{}", complaint(&output));
    }
    let output = starter(&["--timeout", "0s"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(complaint(&output).contains("'--timeout <DURATION>'"));
}

#[test]
fn the_exit_code_does_not_depend_on_a_reader_of_the_output() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_starter"))
        .args(["--address", "127.0.0.1", "--output", "json"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(64));
}
