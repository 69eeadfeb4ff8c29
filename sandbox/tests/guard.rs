//! A guard whose process is killed or interrupted from outside.
//!
//! The process is this test program, started again with a variable that turns one of its tests into
//! the guarded program.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use crate::support::signals;
use sandbox::guard::{self, Guard, Signal};

const PARENT: &str = "SANDBOX_GUARD_TEST_PARENT";

#[test]
fn nothing_survives_a_sigkill() {
    nothing_survives(Signal::KILL);
}

#[test]
fn nothing_survives_a_ctrl_c() {
    if signals::is_ignored(Signal::INT) {
        eprintln!("skipped: this process ignores SIGINT, and so does what it starts");
        return;
    }
    nothing_survives(Signal::INT);
}

fn nothing_survives(signal: Signal) {
    let parent = tempfile::tempdir().unwrap();
    let mut program = start(parent.path());
    let pids = pids(&mut program);
    assert_eq!(pids.len(), 2, "a child and a grandchild");
    assert!(pids.iter().all(|pid| is_alive(*pid)));
    assert_eq!(entries(parent.path()).len(), 1);

    guard::send_signal(program.id(), signal).unwrap();
    let status = program.wait().unwrap();
    assert_eq!(status.signal(), Some(signal.as_raw()));

    within(Duration::from_secs(5), || {
        entries(parent.path()).is_empty() && !pids.iter().any(|pid| is_alive(*pid))
    });
}

/// Not a test by itself: the program that the others kill.
#[test]
fn guarded_program() {
    let Some(parent) = env::var_os(PARENT) else {
        return;
    };
    let guard = Guard::inside(Path::new(&parent), "guarded-").unwrap();
    let script = "trap '' INT HUP TERM; sleep 1000 & echo PIDS $$ $! PIDS; wait";
    let mut command = Command::new("/bin/sh");
    guard.adopt(command.args(["-c", script]));
    command.spawn().unwrap().wait().unwrap();
}

fn start(parent: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["guard::guarded_program", "--exact", "--nocapture"])
        .env(PARENT, parent)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn pids(program: &mut Child) -> Vec<u32> {
    let output = BufReader::new(program.stdout.take().unwrap());
    let line = output
        .lines()
        .map(Result::unwrap)
        .find(|line| line.contains("PIDS"))
        .unwrap();
    let numbers = line.split("PIDS").nth(1).unwrap();
    numbers
        .split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect()
}

/// A killed process may stay a zombie until init gets round to it.
fn is_alive(pid: u32) -> bool {
    let output = Command::new("ps")
        .args(["-o", "stat=", "-p", &pid.to_string()])
        .output()
        .unwrap();
    let state = String::from_utf8(output.stdout).unwrap();
    !state.trim().is_empty() && !state.trim().starts_with('Z')
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn within(limit: Duration, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < limit, "not within {limit:?}");
        thread::sleep(Duration::from_millis(20));
    }
}
