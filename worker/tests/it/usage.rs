//! The worker as a person starts it who has no server: what it says, and in which form.

use std::{
    net::TcpListener,
    process::{Command, Output},
};

use serde_json::Value;

/// Where nobody listens, and with nothing of our own environment.
fn worker(arguments: &[&str]) -> Output {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    drop(taken);
    let mut command = Command::new(env!("CARGO_BIN_EXE_worker"));
    command
        .env_clear()
        .args(["--address", &address, "--connect-timeout", "200ms"])
        .args(arguments);
    command.output().unwrap()
}

fn complaint(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    assert_eq!(output.stdout, b"", "logs are for standard error");
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn it_says_that_it_waits_unless_it_is_to_be_quiet() {
    let said = complaint(&worker(&[]));
    assert!(said.contains("INFO waiting for the server"), "{said}");
    let said = complaint(&worker(&["-v"]));
    assert!(said.contains("INFO waiting for the server"), "{said}");
    let said = complaint(&worker(&["-q"]));
    assert!(said.starts_with("worker: failed to connect"), "{said}");
}

#[test]
fn the_log_can_be_json() {
    let said = complaint(&worker(&["--log-format", "json"]));
    let lines = said.lines().filter(|line| line.starts_with('{'));
    let log: Vec<Value> = lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let waits = |line: &Value| line["message"] == "waiting for the server";
    assert!(log.iter().any(waits), "{said}");
}

#[test]
fn help_has_examples_and_names_the_exit_codes() {
    let output = worker(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = String::from_utf8(output.stdout).unwrap();
    for words in [
        "KEYUTIL_LOG_FORMAT",
        "Examples:",
        "80  the token is missing",
    ] {
        assert!(help.contains(words), "{words}: {help}");
    }
}
