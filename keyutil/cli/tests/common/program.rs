//! The binary as a person calls it, with nothing of the caller's environment in it.

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

/// Every subcommand, in words, with its help; the tool itself has none.
pub fn helps() -> Vec<(Vec<String>, String)> {
    let mut helps = Vec::new();
    let mut to_visit = vec![Vec::new()];
    while let Some(command) = to_visit.pop() {
        let help = help(&command);
        for name in subcommands(&help) {
            to_visit.push([&command[..], &[name]].concat());
        }
        helps.push((command, help));
    }
    helps
}

/// In 100 columns, whatever the terminal is.
fn help(command: &[String]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let ended = run(keyutil(folder.path())
        .args(command)
        .arg("--help")
        .env("COLUMNS", "100"));
    assert_eq!(ended.code, Some(0), "{command:?}: {ended:?}");
    assert_eq!(ended.stderr, "", "{command:?}");
    ended.stdout
}

fn subcommands(help: &str) -> Vec<String> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    listed
        .take_while(|line| !line.is_empty())
        // A name is indented by two, and what continues its description by more.
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

fn ended(output: Output) -> Ended {
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}
