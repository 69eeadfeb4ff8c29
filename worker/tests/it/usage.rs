//! The worker without a server: its log, its errors and its help.

use std::{
    net::TcpListener,
    process::{Command, Output},
};

use serde_json::Value;

/// Runs the worker with an address where no server listens, and an empty environment.
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
fn it_logs_that_it_waits_unless_it_is_quiet() {
    let log = complaint(&worker(&[]));
    assert!(log.contains(" INFO "), "{log}");
    let log = complaint(&worker(&["-q"]));
    assert!(log.starts_with("worker: "), "{log}");
}

#[test]
fn the_log_can_be_json() {
    let said = complaint(&worker(&["--log-format", "json"]));
    let lines = said.lines().filter(|line| line.starts_with('{'));
    let log: Vec<Value> = lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let is_info = |line: &Value| line["level"] == "INFO";
    assert!(log.iter().any(is_info), "{said}");
}

#[test]
fn help_has_examples_and_names_the_exit_codes() {
    let output = worker(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = String::from_utf8(output.stdout).unwrap();
    for words in [
        "KEYUTIL_LOG_FORMAT",
        "Examples:",
        "Exit codes:",
    ] {
        assert!(help.contains(words), "{words}: {help}");
    }
}
