//! A program, and what it says.

use std::{
    process::{ExitStatus, Stdio},
    time::Duration,
};

use sandbox::guard::{self, Signal};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

use super::LIMIT;

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
        guard::send_signal(self.id(), signal).unwrap();
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

    /// Sends a signal every second until the program has ended.
    pub async fn ended_by(&mut self, signal: Signal, limit: Duration) -> ExitStatus {
        let id = self.id();
        let again = async {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                // An error means that the program has ended.
                let _ = guard::send_signal(id, signal);
            }
        };
        tokio::select! {
            status = self.ended(limit) => status,
            never = again => never,
        }
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
