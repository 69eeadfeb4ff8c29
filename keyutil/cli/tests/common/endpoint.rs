//! `keyutil` as a process that goes on: of `jwks serve`, on a free port, and of others.

use std::{
    cell::RefCell,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, ExitStatus},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use crate::common::program::keyutil;

/// `keyutil jwks serve`. Ends with its owner.
pub struct Endpoint {
    running: Running,
    /// Of the key set.
    pub url: String,
}

impl Endpoint {
    /// Comes back when it listens.
    pub fn start(folder: &Path, args: &[&str]) -> Self {
        Self::start_as(keyutil(folder), args)
    }

    /// The same, of a command that passes its arguments on.
    pub fn start_as(mut command: Command, args: &[&str]) -> Self {
        command.args(["jwks", "serve", "--listen=127.0.0.1:0"]);
        let running = Running::start(command.args(args));
        let line = running.logged("serving the key set");
        let (_, rest) = line.split_once("url=").unwrap();
        let url = rest.split_whitespace().next().unwrap().to_owned();
        Self { running, url }
    }

    /// Waits for a line of the log with these words in it.
    pub fn logged(&self, words: &str) -> String {
        self.running.logged(words)
    }

    /// Sends SIGTERM, and waits for the end.
    pub fn terminate(self) -> ExitStatus {
        self.running.terminate().0
    }
}

/// A process. Ends with its owner.
pub struct Running {
    process: Child,
    log: Receiver<String>,
    seen: RefCell<Vec<String>>,
}

const PATIENCE: Duration = Duration::from_secs(20);

impl Running {
    pub fn start(command: &mut Command) -> Self {
        let mut process = command.spawn().unwrap();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let (sender, log) = channel();
        thread::spawn(move || {
            lines
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        let seen = RefCell::default();
        Self { process, log, seen }
    }

    /// Waits for a line of the log with these words in it.
    pub fn logged(&self, words: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.log.recv_timeout(left) {
                Ok(line) => {
                    self.seen.borrow_mut().push(line.clone());
                    if line.contains(words) {
                        return line;
                    }
                }
                Err(error) => {
                    let seen = self.seen.borrow().join("\n");
                    panic!("no `{words}` in the log: {error}\n{seen}");
                }
            }
        }
    }

    /// Sends SIGTERM, and waits for the end. The log is all of it.
    pub fn terminate(mut self) -> (ExitStatus, String) {
        let id = self.process.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status().unwrap();
        assert!(sent.success());
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.process.try_wait().unwrap() {
                let mut log = self.seen.take();
                log.extend(self.log.iter());
                return (status, log.join("\n"));
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!("SIGTERM did not end it");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
