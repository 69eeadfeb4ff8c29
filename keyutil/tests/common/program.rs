//! The binary as a person calls it, with nothing of the caller's environment in it.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::{
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

/// `keyutil` in this folder.
pub fn keyutil(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyutil"));
    command
        .current_dir(folder)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// A folder with signing keys in `certs/signing`.
pub fn with_keys() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let made = run(keyutil(folder.path()).args(["key", "generate"]));
    assert_eq!(made.code, Some(0), "{made:?}");
    folder
}

/// `keyutil token mint` in this folder.
pub fn mint(folder: &Path) -> Command {
    let mut command = keyutil(folder);
    command.args(["token", "mint"]);
    command
}

/// `keyutil token inspect` in this folder.
pub fn inspect(folder: &Path) -> Command {
    let mut command = keyutil(folder);
    command.args(["token", "inspect"]);
    command
}

/// What is left of a call.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs it to its end.
pub fn run(command: &mut Command) -> Ended {
    ended(command.output().unwrap())
}

/// The same, with something to read.
pub fn piped(command: &mut Command, input: &str) -> Ended {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    // Who was given the token as an argument does not read.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    ended(child.wait_with_output().unwrap())
}

fn ended(output: Output) -> Ended {
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}
