//! No process and no folder of a sandbox survives it, however it ends.
//!
//! No handler runs after a SIGKILL, so other processes must clean up: two small shells. The end of a
//! pipe starts them, which the kernel closes when this process is gone.
//!
//! ```text
//! this process ──pipe──▶ janitor ──pipe──▶ anchor
//!                        kills the group,  leads the group that every
//!                        then removes      process of the sandbox is
//!                        the folder        started in
//! ```
//!
//! The janitor stands outside the group because it works after the group is dead: with no writer
//! left, nothing appears in the folder while it is being removed. A SIGKILL reaches the processes
//! that ignore SIGTERM and those that are stopped. Both shells ignore what a terminal sends.
//!
//! Where this ends:
//! - a process that leaves the group (`setsid`, job control of an interactive shell) escapes;
//! - if the janitor is killed, the anchor still takes the group down with it, at once; the folder is
//!   then removed by [`Guard`]'s drop, and stays if this process is SIGKILLed as well;
//! - a SIGKILL between making the folder and starting the janitor leaves an empty folder.

use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{env, path, thread};

use rustix::process::{Pid, kill_process, kill_process_group};
use tracing::warn;

pub use rustix::process::Signal;

/// Owns a temporary folder and a process group, and ends both when it is dropped or this process
/// ends, in whatever way.
///
/// The guard kills and does not reap: the caller that spawned a process waits for it. Dropping blocks
/// until the folder is gone, milliseconds as a rule and never longer than [`Guard::DROP_LIMIT`].
#[derive(Debug)]
pub struct Guard {
    folder: PathBuf,
    kept: AtomicBool,
    janitor: Child,
    anchor: Child,
    group: i32,
    /// The writing end. The standard library opens it close-on-exec, so no child has a copy that
    /// would keep the pipe open after us.
    lifeline: Option<ChildStdin>,
}

impl Guard {
    /// How long dropping waits for the janitor before it cleans up by itself.
    pub const DROP_LIMIT: Duration = Duration::from_secs(10);

    /// Makes a folder in the system's temporary folder; its name starts with `prefix`.
    pub fn new(prefix: &str) -> Result<Self, GuardError> {
        Self::inside(&env::temp_dir(), prefix)
    }

    /// Makes a folder in `parent`; its name starts with `prefix`.
    pub fn inside(parent: &Path, prefix: &str) -> Result<Self, GuardError> {
        let no_folder = |source| GuardError::Folder {
            parent: parent.to_owned(),
            source,
        };
        // The janitor does not share our working folder.
        let parent = path::absolute(parent).map_err(no_folder)?;
        let folder = tempfile::Builder::new()
            .prefix(prefix)
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(&parent)
            .map_err(no_folder)?;

        let mut janitor = shell(JANITOR)
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(GuardError::Janitor)?;
        let mut lifeline = janitor.stdin.take();
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        let janitor_output = janitor.stdout.take().ok_or_else(broken);
        let anchor = janitor_output
            .and_then(|output| shell(ANCHOR).stdin(output).stdout(Stdio::null()).spawn())
            .map_err(GuardError::Anchor)?;
        lifeline
            .as_mut()
            .ok_or_else(broken)
            .and_then(|pipe| writeln!(pipe, "group {}", anchor.id()))
            .map_err(GuardError::Janitor)?;

        Ok(Self {
            group: Pid::from_child(&anchor).as_raw_pid(),
            folder: folder.keep(),
            kept: AtomicBool::new(false),
            janitor,
            anchor,
            lifeline,
        })
    }

    /// The folder, mode `0700`.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes `command` start its process in the guard's group, with nothing to read.
    pub fn adopt<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command.process_group(self.group).stdin(Stdio::null())
    }

    /// The same for a command of tokio's, whose process is also killed when its handle is dropped.
    pub fn adopt_async<'c>(
        &self,
        command: &'c mut tokio::process::Command,
    ) -> &'c mut tokio::process::Command {
        command
            .process_group(self.group)
            .stdin(Stdio::null())
            .kill_on_drop(true)
    }

    /// Leaves the folder in place. The processes still end.
    pub fn keep(&self) {
        self.kept.store(true, Ordering::Relaxed);
        // Fails only if the janitor is gone, and then only `drop` removes the folder, which
        // reads `kept`.
        if let Some(mut pipe) = self.lifeline.as_ref() {
            let _ = writeln!(pipe, "keep");
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        let ended = wait(&mut self.janitor, Self::DROP_LIMIT);
        if !ended {
            let _ = self.janitor.kill();
            let _ = self.janitor.wait();
        }
        // All of this is already done unless the janitor was killed. The group is still ours: its
        // number is not free before the anchor has been waited for.
        let _ = kill_process_group(Pid::from_child(&self.anchor), Signal::KILL);
        let _ = self.anchor.wait();
        if self.kept.load(Ordering::Relaxed) {
            return;
        }
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn!(folder = %self.folder.display(), %error, "a temporary folder is left behind");
            }
            _ => {}
        }
    }
}

/// Why there is no guard.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say what the variants are")]
pub enum GuardError {
    #[error("failed to make a temporary folder in `{}`; is it writable, and is `TMPDIR` right?", parent.display())]
    Folder { parent: PathBuf, source: io::Error },
    #[error("failed to start the shell that cleans up; is there a `/bin/sh`?")]
    Janitor(#[source] io::Error),
    #[error("failed to start the shell that leads the process group; is there a `/bin/sh`?")]
    Anchor(#[source] io::Error),
}

/// Sends `signal` to a process.
///
/// Only for a child that has not been waited for yet: after that another process may have its id.
pub fn send_signal(id: u32, signal: Signal) -> io::Result<()> {
    let pid = i32::try_from(id).ok().and_then(Pid::from_raw);
    Ok(kill_process(
        pid.ok_or(io::ErrorKind::InvalidInput)?,
        signal,
    )?)
}

/// A shell in a group of its own, so that a Ctrl-C meant for us passes it by. The script gets its
/// arguments as `$1`…: a path is never part of the script.
fn shell(script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", script, "sh"])
        .current_dir("/")
        .process_group(0)
        .stderr(Stdio::null());
    command
}

fn wait(child: &mut Child, limit: Duration) -> bool {
    let start = Instant::now();
    while matches!(child.try_wait(), Ok(None)) {
        if start.elapsed() > limit {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
    true
}

/// `rm` is repeated because a killed process may still be inside its last system call.
const JANITOR: &str = r#"
trap '' HUP INT QUIT TERM
group= keep=
while read -r word value; do
    case $word in
        group) group=$value ;;
        keep) keep=yes ;;
    esac
done
[ -z "$group" ] || kill -s KILL -- "-$group"
[ -z "$keep" ] || exit 0
tries=0
until rm -rf -- "$1" && [ ! -e "$1" ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 50 ] || exit 1
    sleep 0.1
done
"#;

/// Waits for the janitor's end; it should not live to see it, as the janitor kills the group.
const ANCHOR: &str = r"
trap '' HUP INT QUIT TERM
read -r _
kill -s KILL 0
";

#[cfg(test)]
mod tests {
    use super::*;

    /// A child that ignores SIGTERM and has a child of its own, which writes all the time.
    fn stubborn(guard: &Guard) -> Child {
        let script = "trap '' TERM; (while :; do : > \"$1/$$\"; : > \"$1/x\"; done) & wait";
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script, "sh"]).arg(guard.folder());
        guard.adopt(&mut command).spawn().unwrap()
    }

    fn assert_killed(mut child: Child) {
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }

    fn group_is_gone(guard_group: i32) -> bool {
        let group = Pid::from_raw(guard_group).unwrap();
        rustix::process::test_kill_process_group(group).is_err()
    }

    #[test]
    fn dropping_ends_children_grandchildren_and_the_folder() {
        let parent = tempfile::tempdir().unwrap();
        let odd = parent.path().join("a 'quoted' \"folder\" $(x) -rf");
        fs::create_dir(&odd).unwrap();
        let guard = Guard::inside(&odd, "-guard ").unwrap();
        let mode = fs::metadata(guard.folder()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        fs::create_dir_all(guard.folder().join("deep/er")).unwrap();
        let child = stubborn(&guard);
        while !guard.folder().join("x").exists() {
            thread::yield_now();
        }

        let (folder, group) = (guard.folder().to_owned(), guard.group);
        drop(guard);

        assert!(!folder.exists());
        assert_killed(child);
        let start = Instant::now();
        while !group_is_gone(group) {
            // The grandchild is init's to reap now.
            assert!(start.elapsed() < Duration::from_secs(5));
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_stopped_process_ends_too() {
        let guard = Guard::new("guard-").unwrap();
        let child = stubborn(&guard);
        send_signal(child.id(), Signal::STOP).unwrap();
        drop(guard);
        assert_killed(child);
    }

    #[test]
    fn what_was_kept_stays_and_the_processes_do_not() {
        let parent = tempfile::tempdir().unwrap();
        let guard = Guard::inside(parent.path(), "guard-").unwrap();
        let folder = guard.folder().to_owned();
        let child = stubborn(&guard);
        guard.keep();
        drop(guard);
        assert!(folder.exists());
        assert_killed(child);
    }

    #[test]
    fn a_killed_janitor_takes_the_processes_along_and_drop_the_folder() {
        let mut guard = Guard::new("guard-").unwrap();
        let folder = guard.folder().to_owned();
        let child = stubborn(&guard);
        guard.janitor.kill().unwrap();
        assert_killed(child);
        drop(guard);
        assert!(!folder.exists());
    }

    #[test]
    fn a_missing_parent_is_named() {
        let error = Guard::inside(Path::new("/nowhere/at/all"), "guard-").unwrap_err();
        assert!(error.to_string().contains("`/nowhere/at/all`"));
    }
}
