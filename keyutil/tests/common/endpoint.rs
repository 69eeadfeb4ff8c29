//! `keyutil jwks serve` as a process, on a free port.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, ExitStatus},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use crate::program::keyutil;

/// Ends with its owner.
pub struct Endpoint {
    process: Child,
    log: Receiver<String>,
    /// Of the key set.
    pub url: String,
}

const PATIENCE: Duration = Duration::from_secs(20);

impl Endpoint {
    /// Comes back when it listens.
    pub fn start(folder: &Path, args: &[&str]) -> Self {
        let mut process = keyutil(folder)
            .args(["jwks", "serve", "--listen=127.0.0.1:0"])
            .args(args)
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let (sender, log) = channel();
        thread::spawn(move || {
            lines
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        let mut endpoint = Self {
            process,
            log,
            url: String::new(),
        };
        let line = endpoint.logged("serving the key set");
        let (_, rest) = line.split_once("url=").unwrap();
        endpoint.url = rest.split_whitespace().next().unwrap().to_owned();
        endpoint
    }

    /// Waits for a line of the log with these words in it.
    pub fn logged(&self, words: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.log.recv_timeout(left) {
                Ok(line) if line.contains(words) => return line,
                Ok(line) => seen.push(line),
                Err(error) => panic!("no `{words}` in the log: {error}\n{}", seen.join("\n")),
            }
        }
    }

    /// Sends SIGTERM, and waits for the end.
    pub fn terminate(mut self) -> ExitStatus {
        let id = self.process.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status().unwrap();
        assert!(sent.success());
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!("SIGTERM did not end it");
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
