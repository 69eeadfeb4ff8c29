//! The scripts that make a shell complete the words of the tool.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::Command,
};

use crate::common::program::{helps, keyutil, piped, run};

#[test]
fn bash_completes_every_subcommand() {
    let folder = tempfile::tempdir().unwrap();
    let made = run(keyutil(folder.path()).args(["completions", "bash"]));
    assert_eq!(made.code, Some(0), "{made:?}");
    let commands: Vec<_> = helps().into_iter().map(|(command, _)| command).collect();
    for name in commands.iter().flatten() {
        assert!(made.stdout.contains(name), "{name}");
    }

    if Command::new("bash").arg("--version").output().is_err() {
        eprintln!("skipped: there is no bash to try the script with");
        return;
    }
    let checked = piped(Command::new("bash").arg("-n"), &made.stdout);
    assert_eq!((checked.code, &*checked.stderr), (Some(0), ""));
    let script = folder.path().join("keyutil.bash");
    fs::write(&script, made.stdout).unwrap();
    for command in &commands {
        let Some((last, before)) = command.split_last() else {
            continue;
        };
        // What bash does at the Tab key.
        let pressed = run(Command::new("bash")
            .args(["--norc", "-c", TAB, "keyutil"])
            .arg(&script)
            .args(before)
            .arg(last));
        let mut offered = pressed.stdout.lines();
        assert!(offered.any(|word| word == last), "{command:?}: {pressed:?}");
    }
}

/// `keyutil` and the words, of which the last one is about to be completed.
const TAB: &str = r#"
source "$1"; shift
COMP_WORDS=("$0" "$@"); COMP_CWORD=$#
_keyutil "$0" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\n' "${COMPREPLY[@]}"
"#;

#[test]
fn every_shell_has_a_script() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let made = run(keyutil(folder.path()).args(["completions", shell]));
        assert_eq!(made.code, Some(0), "{shell}: {made:?}");
        // fish names flags without their dashes.
        assert!(made.stdout.contains("signing-key"), "{shell}");
    }
}

#[test]
fn a_closed_output_is_no_failure() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = keyutil(folder.path())
        .args(["completions", "bash"])
        .spawn()
        .unwrap();
    let mut first = String::new();
    // More is left than a pipe holds.
    let mut output = BufReader::with_capacity(16, child.stdout.take().unwrap());
    output.read_line(&mut first).unwrap();
    drop(output);
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert_eq!(String::from_utf8(ended.stderr).unwrap(), "");
}
