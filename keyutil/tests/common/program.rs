//! The binary as a person calls it, with nothing of the caller's environment in it.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::{
    path::Path,
    process::{Command, Stdio},
};

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

/// What is left of a call.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs it to its end.
pub fn run(command: &mut Command) -> Ended {
    let output = command.output().unwrap();
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}
