//! What the end-to-end tests have in common: a stack, and the programs that run against it.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test file uses a part of this, and a test says what went wrong by panicking"
)]

use std::{
    path::PathBuf,
    process::{ExitStatus, Output, Stdio},
    time::Duration,
};

use clap::Parser;
use keyutil::pki::Party;
use sandbox::{
    Stack, StackOptions,
    binaries::Binaries,
    guard::Guard,
    provision::{self, Options, Silent},
    signal::{self, Signal},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    sync::{OnceCell, watch},
    task::JoinSet,
    time::timeout,
};

/// For each thing that is waited for: far more than it takes, even on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The environment says where the server's binary comes from, as it does for the sandbox itself.
#[derive(Parser)]
struct Environment {
    #[command(flatten)]
    provision: Options,
}

/// The server's binary.
pub async fn server_binary() -> PathBuf {
    let environment = Environment::parse_from(["test"]);
    let binary = provision::temporal_server(&environment.provision, &Silent).await;
    binary.unwrap_or_else(|error| panic!("{}", keyutil::chain(&error)))
}

/// A server of the test's own, with everything that it needs.
pub async fn stack(options: StackOptions) -> Stack {
    let guard = Guard::new("temporal-test-").unwrap();
    let stack = Stack::start(&server_binary().await, guard, options).await;
    stack.unwrap_or_else(|error| panic!("{}", keyutil::chain(&error)))
}

/// Worker, starter and keyutil, built once for all tests of a file.
pub async fn binaries() -> &'static Binaries {
    static BUILT: OnceCell<Binaries> = OnceCell::const_new();
    let build = || async {
        let guard = Guard::new("temporal-test-").unwrap();
        Binaries::build(&guard, &Silent).await.unwrap()
    };
    BUILT.get_or_init(build).await
}

/// The starter as it is, run to its end.
pub async fn starter(stack: &Stack, args: &[&str]) -> Output {
    run(starter_command(stack).await.args(args)).await
}

/// The starter, to be changed before it is run.
pub async fn starter_command(stack: &Stack) -> Command {
    stack.command(&binaries().await.starter, Party::Starter)
}

/// The worker as it is, once it polls.
pub async fn worker(stack: &Stack) -> Program {
    polling(&mut worker_command(stack).await).await
}

/// The worker, to be changed before it is run.
pub async fn worker_command(stack: &Stack) -> Command {
    stack.command(&binaries().await.worker, Party::Worker)
}

/// Starts a worker, and waits until it polls.
pub async fn polling(command: &mut Command) -> Program {
    let mut worker = Program::start(command);
    worker.wait_for("worker started", LIMIT).await;
    worker
}

/// Takes from `command` all that the stack would have told it about the connection.
pub fn untold<'c>(stack: &Stack, command: &'c mut Command) -> &'c mut Command {
    for (name, _) in stack.environment(Party::Worker) {
        command.env_remove(name);
    }
    command
}

/// Runs a program to its end.
pub async fn run(command: &mut Command) -> Output {
    run_within(LIMIT, command).await
}

/// The same, for one that takes long.
pub async fn run_within(limit: Duration, command: &mut Command) -> Output {
    let output = timeout(limit, command.kill_on_drop(true).output()).await;
    output
        .unwrap_or_else(|_| panic!("not done within {limit:?}: {command:?}"))
        .unwrap()
}

/// Asserts that a starter ended well, and that this, and nothing else, is what it printed.
pub fn assert_greeted(output: &Output) {
    assert_success(output);
    assert_eq!(stdout(output), "Workflow result: Hello Temporal!\n");
}

/// Asserts that a starter ended well, and that `count` of `count` workflows did.
pub fn assert_all_greeted(output: &Output, count: u32) {
    assert_success(output);
    let summary =
        format!("Workflow result: Hello Temporal! ({count} times)\nfailed: 0\nlatency: median ");
    let printed = stdout(output);
    assert!(printed.starts_with(&summary), "{printed}");
    assert_eq!(printed.lines().count(), 3, "{printed}");
}

/// Asserts that a program ended well.
pub fn assert_success(output: &Output) {
    assert!(
        output.status.success(),
        "{}\n{}",
        output.status,
        stderr(output)
    );
}

/// What a program printed.
pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What a program logged.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A program that runs beside the test. It is killed when it is dropped.
#[derive(Debug)]
pub struct Program {
    child: Child,
    lines: watch::Receiver<Vec<String>>,
    /// How many lines have been waited for.
    read: usize,
    readers: JoinSet<()>,
}

impl Program {
    /// Starts it, and collects what it prints and logs.
    pub fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (sender, lines) = watch::channel(Vec::new());
        let mut readers = JoinSet::new();
        readers.spawn(collect(child.stdout.take().unwrap(), sender.clone()));
        readers.spawn(collect(child.stderr.take().unwrap(), sender));
        Self {
            child,
            lines,
            read: 0,
            readers,
        }
    }

    /// Its process, as long as it has not been waited for.
    pub fn id(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// The next line with these words in it, after the last one that was waited for.
    pub async fn wait_for(&mut self, words: &str, limit: Duration) -> String {
        let read = self.read;
        let find = |lines: &Vec<String>| {
            let mut unread = lines.iter().enumerate().skip(read);
            unread.find_map(|(index, line)| line.contains(words).then(|| (index, line.clone())))
        };
        let mut lines = self.lines.clone();
        // Also over when the program has ended, and nothing more can come.
        let _ = timeout(limit, lines.wait_for(|lines| find(lines).is_some())).await;
        let found = find(&lines.borrow());
        let Some((index, line)) = found else {
            panic!("no `{words}` within {limit:?} in\n{}", self.log());
        };
        self.read = index + 1;
        line
    }

    /// All that it has said so far.
    pub fn log(&self) -> String {
        self.lines.borrow().join("\n")
    }

    /// The lines with these words in them.
    pub fn lines_with(&self, words: &str) -> Vec<String> {
        let lines = self.lines.borrow();
        let found = lines.iter().filter(|line| line.contains(words));
        found.cloned().collect()
    }

    /// The warnings and errors that it has logged.
    pub fn complaints(&self) -> Vec<String> {
        [self.lines_with(" WARN "), self.lines_with(" ERROR ")].concat()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        signal::send(self.id(), signal).unwrap();
    }

    /// Waits until it ends and all of its output is read.
    pub async fn ended(&mut self, limit: Duration) -> ExitStatus {
        let ended = timeout(limit, async {
            let status = self.child.wait().await.unwrap();
            while self.readers.join_next().await.is_some() {}
            status
        });
        let ended = ended.await;
        ended.unwrap_or_else(|_| panic!("it has not ended within {limit:?}:\n{}", self.log()))
    }

    /// Asks it to end, as a person or an orchestrator does, and asserts that it does so in order
    /// and has had nothing to complain about.
    pub async fn stop(mut self) {
        assert_eq!(self.complaints(), [""; 0]);
        self.signal(Signal::TERM);
        let status = self.ended(LIMIT).await;
        assert!(status.success(), "{status}\n{}", self.log());
    }
}

async fn collect(output: impl AsyncRead + Unpin, lines: watch::Sender<Vec<String>>) {
    let mut output = BufReader::new(output).lines();
    while let Ok(Some(line)) = output.next_line().await {
        lines.send_modify(|lines| lines.push(line));
    }
}
