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

use sandbox::guard::{self, Guard, Signal};
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
};

const PARENT: &str = "SANDBOX_GUARD_TEST_PARENT";

#[test]
fn nothing_survives_a_sigkill() {
    nothing_survives(Signal::KILL);
}

#[test]
fn nothing_survives_a_ctrl_c() {
    nothing_survives(Signal::INT);
}

fn nothing_survives(sent: Signal) {
    let parent = tempfile::tempdir().unwrap();
    let mut program = start(parent.path());
    let pids = pids(&mut program);
    assert_eq!(pids.len(), 2, "a child and a grandchild");
    assert!(pids.iter().all(|pid| is_alive(*pid)));
    assert_eq!(entries(parent.path()).len(), 1);

    guard::send_signal(program.id(), sent).unwrap();
    let status = program.wait().unwrap();
    match sent {
        Signal::INT => assert_eq!(status.code(), Some(INTERRUPTED)),
        _ => assert_eq!(status.signal(), Some(sent.as_raw())),
    }

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
    end_at_a_ctrl_c();
    let guard = Guard::inside(Path::new(&parent), "guarded-").unwrap();
    let script = "trap '' INT HUP TERM; sleep 1000 & echo PIDS $$ $! PIDS; wait";
    let mut command = Command::new("/bin/sh");
    guard.adopt(command.args(["-c", script]));
    command.spawn().unwrap().wait().unwrap();
}

/// Ends the process without running any destructor, as the default action of SIGINT does. Where a
/// shell starts the tests in the background, SIGINT is ignored instead of that, until a program
/// installs a handler.
fn end_at_a_ctrl_c() {
    let runtime = Builder::new_current_thread().enable_io().build().unwrap();
    let entered = runtime.enter();
    let mut interrupts = signal(SignalKind::interrupt()).unwrap();
    drop(entered);
    thread::spawn(move || {
        runtime.block_on(interrupts.recv());
        std::process::exit(INTERRUPTED);
    });
}

/// The exit code of the guarded program after SIGINT.
const INTERRUPTED: i32 = 130;

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
