//! The log of the tool: its levels, formats and colours.

use std::{
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
};

use crate::common::program::{Ended, keyutil, run, with_keys};
use serde_json::Value;

#[test]
fn quiet_leaves_the_error_and_verbose_adds_to_the_log() {
    let keys = with_keys();
    let said = |flags: &[&str]| {
        let mut command = registering(flags);
        command.current_dir(keys.path());
        // Which is read, and used, and both are details.
        command.args([
            "--signing-key",
            "certs/signing/active/current.pem",
            "--tls=false",
        ]);
        let ended = nobody_listens(&mut command);
        assert!(ended.stderr.contains("Connection refused"), "{ended:?}");
        ended.stderr
    };
    let plain = said(&[]);
    assert!(plain.contains("INFO waiting for the server"), "{plain}");
    assert!(!plain.contains("DEBUG"), "{plain}");

    let quiet = said(&["-q"]);
    assert!(quiet.starts_with("keyutil: failed to connect"), "{quiet}");

    let verbose = said(&["--verbose"]);
    assert!(verbose.contains("DEBUG credential loaded"), "{verbose}");
    let most = said(&["-vv"]);
    assert!(most.contains("DEBUG credential loaded"), "{most}");
    assert!(!most.contains("TRACE"), "{most}");
}

#[test]
fn the_flags_stand_before_or_behind_the_subcommand() {
    let folder = tempfile::tempdir().unwrap();
    let register = ["namespace", "register", "--address", "127.0.0.1"];
    for flag in ["-q", "-v", "-vv", "--log-format=json"] {
        let before = run(keyutil(folder.path()).arg(flag).args(register));
        let behind = run(keyutil(folder.path()).args(register).arg(flag));
        assert_eq!(before.code, Some(64), "{before:?}");
        assert!(before.stderr.contains("the port is missing"), "{before:?}");
        let without_the_time = |said: &str| {
            let (rest, _) = said.split_once("\"timestamp\"").unwrap_or((said, ""));
            rest.to_owned()
        };
        assert_eq!(
            without_the_time(&before.stderr),
            without_the_time(&behind.stderr)
        );
    }
}

#[test]
fn more_and_less_at_once_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [
        &["-v", "-q", "pki", "list"][..],
        &["pki", "list", "-v", "-q"],
        &["-v", "pki", "list", "-q"],
        &["pki", "-q", "list", "--verbose"],
        &["pki", "list", "-qq"],
        &["pki", "list", "--log-format=xml"],
    ] {
        let ended = run(keyutil(folder.path()).args(arguments));
        assert_eq!(ended.code, Some(64), "{arguments:?}: {ended:?}");
    }
}

#[test]
fn a_flag_wins_over_rust_log() {
    for (flag, rust_log, is_logged) in [
        ("-q", "trace", false),
        ("-v", "off", true),
        ("--log-format=text", "off", false),
        ("--log-format=text", "", true),
    ] {
        let ended = nobody_listens(registering(&[flag]).env("RUST_LOG", rust_log));
        let found = ended.stderr.contains("waiting for the server");
        assert_eq!(found, is_logged, "{flag} {rust_log}: {ended:?}");
    }
}

#[test]
fn a_rust_log_that_cannot_be_read_is_said_once() {
    let wrong = "keyutil=loud";
    let ended = nobody_listens(registering(&[]).env("RUST_LOG", wrong));
    assert_eq!(ended.stderr.matches(wrong).count(), 1, "{ended:?}");
    assert!(ended.stderr.contains("WARN `RUST_LOG`"), "{ended:?}");
    assert!(ended.stderr.contains("INFO waiting"), "{ended:?}");

    // Who gives a flag has not asked for it.
    let ended = nobody_listens(registering(&["-q"]).env("RUST_LOG", wrong));
    assert!(!ended.stderr.contains(wrong), "{ended:?}");
}

#[test]
fn json_is_an_object_per_line() {
    let mut chosen_by_flag = registering(&["--log-format", "json"]);
    let mut chosen_by_variable = registering(&[]);
    chosen_by_variable.env("KEYUTIL_LOG_FORMAT", "json");
    for command in [&mut chosen_by_flag, &mut chosen_by_variable] {
        let ended = nobody_listens(command.env("CLICOLOR_FORCE", "1"));
        let log = objects(&ended.stderr);
        let waiting = log
            .iter()
            .find(|line| line["message"] == "waiting for the server");
        let waiting = waiting.unwrap();
        assert_eq!(waiting["level"], "INFO");
        assert_eq!(waiting["limit"], "200ms");
        let reason = waiting["reason"].as_str().unwrap();
        assert!(reason.contains("Connection refused"), "{reason}");
        let timestamp = waiting["timestamp"].as_str().unwrap();
        humantime::parse_rfc3339(timestamp).unwrap();
    }
}

#[test]
fn a_warning_of_the_tool_follows_the_format() {
    let folder = with_keys();
    let mint = ["token", "mint", "--permissions", "default:worker"];
    let ended = run(keyutil(folder.path()).args(mint));
    assert!(ended.stderr.starts_with("warning: "), "{ended:?}");

    let ended = run(keyutil(folder.path()).args(mint).arg("--log-format=json"));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let log = objects(&ended.stderr);
    assert_eq!(log.len(), ended.stderr.lines().count(), "{ended:?}");
    assert_eq!(log[0]["level"], "WARN");
}

#[test]
fn colours_are_for_terminals_and_for_who_asks() {
    let piped = |name: &str, value: &str| {
        let ended = nobody_listens(registering(&[]).env("TERM", "xterm").env(name, value));
        is_colourful(&ended.stderr)
    };
    assert!(!piped("CLICOLOR", "1"));
    assert!(piped("CLICOLOR_FORCE", "1"));

    if !has_script() {
        eprintln!("skipped: there is no `script` of util-linux to make a terminal with");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for call in [
        "namespace register --address 127.0.0.1:1 --connect-timeout 200ms",
        "pki --help",
        "pki lost",
    ] {
        for (variables, expected) in [
            (&[][..], true),
            (&[("NO_COLOR", "1")], false),
            (&[("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")], false),
            (&[("NO_COLOR", "")], true),
            (&[("CLICOLOR", "0")], false),
            (&[("TERM", "dumb")], false),
        ] {
            let shown = on_a_terminal(folder.path(), call, variables);
            assert_eq!(is_colourful(&shown), expected, "{variables:?}: {shown}");
        }
    }
}

#[test]
fn a_countdown_on_a_terminal_has_no_colours() {
    if !has_script() {
        eprintln!("skipped: there is no `script` of util-linux to make a terminal with");
        return;
    }
    // Long enough for a slow machine: the countdown begins when the keys are made.
    let waits = "--refresh-interval 4s --token-lifetime 2s --clock-skew 0s --propagation 0s";
    let call = format!("key rotate --wait --quiet {waits}");
    let shown = on_a_terminal(with_keys().path(), &call, &[]);
    assert!(shown.contains("waiting until"), "{shown}");
    assert!(!is_colourful(&shown), "{shown:?}");
}

/// `keyutil namespace register` on a port without a listener. It logs that it waits for the server.
fn registering(flags: &[&str]) -> Command {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = keyutil(&std::env::temp_dir());
    command
        .args(["namespace", "register", "--connect-timeout", "200ms"])
        .args(["--address", &address])
        .args(flags);
    command
}

fn nobody_listens(command: &mut Command) -> Ended {
    let ended = run(command);
    assert_eq!(ended.code, Some(69), "{ended:?}");
    ended
}

/// The lines of the log, without the error that the program ends with.
fn objects(log: &str) -> Vec<Value> {
    let lines = log.lines().filter(|line| line.starts_with('{'));
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// `ESC [ … m`, of which a terminal makes colours and bold letters.
fn is_colourful(text: &str) -> bool {
    text.split("\u{1b}[").skip(1).any(|rest| {
        let end = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
        end.starts_with('m')
    })
}

fn has_script() -> bool {
    let version = Command::new("script").arg("--version").output();
    version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("util-linux"))
}

/// The output of the tool on a terminal.
fn on_a_terminal(folder: &Path, call: &str, variables: &[(&str, &str)]) -> String {
    let call = format!("{} {call}", env!("CARGO_BIN_EXE_keyutil"));
    let mut command = Command::new("script");
    command
        .args(["--quiet", "--return", "--command", &call, "/dev/null"])
        .current_dir(folder)
        .stdin(Stdio::null())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("TERM", "xterm")
        .envs(variables.iter().copied());
    run(&mut command).stdout
}
