//! The sandbox as a process of its own, and what is left of it.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::{process::Command, time::sleep};

use super::{LIMIT, Program, binaries, run};

/// A sandbox whose folders are made in a temporary folder of its own.
#[derive(Debug)]
pub struct Sandbox {
    pub program: Program,
    temporary: TempDir,
    /// Its own process, and those that were found to descend from it.
    processes: BTreeSet<u32>,
    /// The process groups that they are in.
    groups: BTreeSet<u32>,
}

impl Sandbox {
    /// `sandbox demo`.
    pub async fn demo() -> Self {
        let programs = binaries().await.worker.parent().unwrap();
        Self::start(|command| command.arg("demo").env("SANDBOX_PROGRAMS", programs))
    }

    /// `sandbox up`, once it can be used.
    pub async fn up(env_file: &Path) -> Self {
        let mut up = Self::start(|command| command.args(["up", "--env-file"]).arg(env_file));
        up.program.wait_for("Ctrl-C ends it", LIMIT).await;
        up
    }

    /// `sandbox` with any arguments.
    pub fn start(arguments: impl FnOnce(&mut Command) -> &mut Command) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_sandbox"));
        command
            .env("TMPDIR", temporary.path())
            .env_remove("RUST_LOG")
            .process_group(0);
        let program = Program::start(arguments(&mut command));
        Self {
            processes: BTreeSet::from([program.id()]),
            groups: BTreeSet::from([program.id()]),
            temporary,
            program,
        }
    }

    /// Notes the processes that there are now.
    pub async fn note_processes(&mut self) {
        let all = processes().await;
        loop {
            let known = self.processes.len();
            for process in &all {
                if self.processes.contains(&process.parent) {
                    self.processes.insert(process.id);
                    self.groups.insert(process.group);
                }
            }
            if self.processes.len() == known {
                return;
            }
        }
    }

    /// How many processes were noted, its own included.
    pub fn noted(&self) -> usize {
        self.processes.len()
    }

    /// Asserts that neither a folder nor a process of it is there, or will be for long.
    pub async fn leaves_nothing(&self) {
        let begun = Instant::now();
        loop {
            let left = self.left().await;
            if left.is_empty() {
                return;
            }
            assert!(
                begun.elapsed() < AT_MOST,
                "left after {AT_MOST:?}: {left:#?}"
            );
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn left(&self) -> Vec<String> {
        let folder = self.temporary.path();
        let entries = fs::read_dir(folder).unwrap();
        let mut left: Vec<_> = entries
            .map(|entry| entry.unwrap().path().display().to_string())
            .collect();
        let folder = folder.display().to_string();
        let processes = processes().await.into_iter().filter(|process| {
            self.processes.contains(&process.id)
                || self.groups.contains(&process.group)
                || process.line.contains(&folder)
        });
        left.extend(processes.map(|process| process.line));
        left
    }
}

/// From the end of a sandbox to the end of all that belongs to it.
const AT_MOST: Duration = Duration::from_secs(10);

struct Process {
    id: u32,
    parent: u32,
    group: u32,
    line: String,
}

/// All on this machine, but those that are dead and not waited for.
async fn processes() -> Vec<Process> {
    let mut command = Command::new("ps");
    let listed = run(command.args(["-A", "-o", "pid=,ppid=,pgid=,stat=,args="])).await;
    let listed = String::from_utf8_lossy(&listed.stdout);
    let parse = |line: &str| {
        let mut fields = line.split_whitespace();
        let mut number = || fields.next()?.parse().ok();
        let (id, parent, group) = (number()?, number()?, number()?);
        let alive = !fields.next()?.starts_with('Z');
        let line = line.to_owned();
        alive.then_some(Process {
            id,
            parent,
            group,
            line,
        })
    };
    listed.lines().filter_map(parse).collect()
}
