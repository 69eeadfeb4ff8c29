//! A stack to work with by hand, and the environment file that leads to it.

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
};

use crate::support::{self, LIMIT, Program, process::Sandbox};
use sandbox::guard::Signal;
use tempfile::TempDir;
use tokio::process::Command;

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_file_is_all_that_worker_and_starter_need() {
    let folder = tempfile::tempdir().unwrap();
    // The shell has to quote it.
    let env_file = folder.path().join("it's a $file");
    let mut up = Sandbox::up(&env_file).await;
    let programs = support::binaries().await;

    let mut worker = Program::start(&mut sourcing(&env_file, &programs.worker));
    worker.wait_for("worker started", LIMIT).await;
    let mut starter = sourcing(&env_file, &programs.starter);
    support::assert_greeted(&support::run(&mut starter).await);
    starter.env("SANDBOX_PARTY", "starter");
    support::assert_greeted(&support::run(&mut starter).await);
    worker.stop().await;

    up.note_processes().await;
    up.program.signal(Signal::INT);
    let status = up.program.ended(LIMIT).await;
    assert!(status.success(), "{status}\n{}", up.program.log());
    up.leaves_nothing().await;
    assert_eq!(files_in(&folder), [] as [PathBuf; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_takes_the_environment_file_away_and_sigkill_leaves_it_leading_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let env_file = folder.path().join("sandbox.env");
    for signal in [Signal::KILL, Signal::TERM] {
        // The second one replaces the link that the first has left.
        let mut up = Sandbox::up(&env_file).await;
        assert!(
            fs::read_to_string(&env_file)
                .unwrap()
                .contains("TEMPORAL_ADDRESS")
        );
        up.note_processes().await;
        up.program.signal(signal);
        let status = up.program.ended(LIMIT).await;
        up.leaves_nothing().await;
        if signal == Signal::KILL {
            assert_eq!(status.signal(), Some(signal.as_raw()));
            assert!(env_file.is_symlink() && !env_file.exists());
        } else {
            assert!(status.success(), "{status}\n{}", up.program.log());
            assert_eq!(files_in(&folder), [] as [PathBuf; 0]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_at_once_do_not_disturb_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let files = ["one", "two"].map(|name| folder.path().join("made on the way").join(name));
    let (one, two) = tokio::join!(Sandbox::up(&files[0]), Sandbox::up(&files[1]));
    let programs = support::binaries().await;
    let mut addresses = Vec::new();
    for file in &files {
        let mut worker = Program::start(&mut sourcing(file, &programs.worker));
        let connected = worker.wait_for("connected and authorized", LIMIT).await;
        let address = connected.split("target=").nth(1).unwrap().to_owned();
        support::assert_greeted(&support::run(&mut sourcing(file, &programs.starter)).await);
        worker.stop().await;
        addresses.push(address);
    }
    assert_ne!(addresses[0], addresses[1]);

    // A third one does not take over what one of them has.
    let mut third = Sandbox::start(|command| command.args(["up", "--env-file"]).arg(&files[0]));
    third
        .program
        .wait_for("a sandbox that is running", LIMIT)
        .await;
    assert_eq!(third.program.ended(LIMIT).await.code(), Some(1));

    // The end of one is not the end of the other.
    let [mut one, mut two] = [one, two];
    one.program.signal(Signal::INT);
    one.program.ended(LIMIT).await;
    one.leaves_nothing().await;
    let mut admin = sourcing(&files[1], &programs.keyutil);
    admin
        .args(["namespace", "register"])
        .env("SANDBOX_PARTY", "admin");
    let output = support::run(&mut admin).await;
    assert_eq!(
        support::stdout(&output),
        "Namespace already exists: default\n"
    );
    two.program.signal(Signal::INT);
    two.program.ended(LIMIT).await;
    two.leaves_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_no_sandbox_made_is_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let env_file = folder.path().join("precious");
    fs::write(&env_file, "precious").unwrap();

    let mut up = Sandbox::start(|command| command.args(["up", "--env-file"]).arg(&env_file));
    let status = up.program.ended(LIMIT).await;

    assert_eq!(status.code(), Some(1));
    let complaint = up
        .program
        .wait_for("was not made by a sandbox", LIMIT)
        .await;
    assert!(
        complaint.contains(&env_file.display().to_string()),
        "{complaint}"
    );
    assert!(complaint.contains("`--env-file`"), "{complaint}");
    assert_eq!(fs::read_to_string(&env_file).unwrap(), "precious");
    up.leaves_nothing().await;
}

/// A program that a shell starts after it has sourced the file, without the variables of this process
/// that would change its connection.
fn sourcing(env_file: &Path, program: &Path) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", r#". "$1" && shift && exec "$@""#, "sh"])
        .args([env_file, program])
        .env_remove("SANDBOX_PARTY")
        .env_remove("RUST_LOG");
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("TEMPORAL_") || text.starts_with("KEYUTIL_") {
            command.env_remove(name);
        }
    }
    command
}

fn files_in(folder: &TempDir) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder.path()).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}
