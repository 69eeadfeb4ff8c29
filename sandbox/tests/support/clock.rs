//! A clock of a program's own, by `libfaketime`.

use std::{fs, io, path::PathBuf};

use sandbox::Stack;
use tokio::process::Command;

/// What a program takes for the time, as long as its owner wants it.
pub struct Clock {
    library: String,
    file: PathBuf,
}

impl Clock {
    /// A clock that is right. `None`, and loudly so, where `faketime` is not installed.
    pub async fn right(stack: &Stack) -> Option<Self> {
        let library = match library().await {
            Ok(library) => library,
            Err(error) => {
                eprintln!(
                    "SKIPPED: a clock that is wrong was not tested, because `faketime` does not \
                     run here ({error}): install the package `faketime`"
                );
                return None;
            }
        };
        let clock = Self {
            library,
            file: stack.guard().folder().join("clock"),
        };
        clock.differs_by(0);
        Some(clock)
    }

    /// From now on it is ahead by so many seconds, or behind.
    pub fn differs_by(&self, seconds: i64) {
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{seconds:+}\n")).unwrap();
        fs::rename(new, &self.file).unwrap();
    }

    /// Has a program go by it. Pauses and limits stay what they are.
    pub fn is_of<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command
            .env("LD_PRELOAD", &self.library)
            .env("FAKETIME_TIMESTAMP_FILE", &self.file)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    }
}

/// What `faketime` loads into the programs that it starts.
pub async fn library() -> io::Result<String> {
    let mut command = Command::new("faketime");
    let output = command.args(["-m", "-f", "+0", "env"]).output().await?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let library = told
        .lines()
        .find_map(|line| line.strip_prefix("LD_PRELOAD="));
    library
        .map(str::to_owned)
        .ok_or_else(|| io::Error::other("it loads no library"))
}
