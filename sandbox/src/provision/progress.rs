//! What is told while something takes long.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Is told what is being done.
pub trait Progress: Send + Sync {
    /// Something new has begun.
    fn step(&self, what: &str);
    /// So many bytes are done, of a total that is not always known.
    fn bytes(&self, done: u64, total: Option<u64>);
    /// A program that does the step has said something.
    fn output(&self, line: &str);
}

/// Tells nobody.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Progress for Silent {
    fn step(&self, _: &str) {}
    fn bytes(&self, _: u64, _: Option<u64>) {}
    fn output(&self, _: &str) {}
}

/// Tells a person on stderr: on a terminal one line that moves and is gone at the end, elsewhere
/// one line per step.
#[derive(Debug)]
pub struct Terminal {
    bar: ProgressBar,
    step: Mutex<String>,
}

impl Terminal {
    /// Nothing is shown before the first step.
    #[expect(
        clippy::new_without_default,
        reason = "it draws, which a default should not"
    )]
    pub fn new() -> Self {
        Self {
            bar: ProgressBar::new_spinner(),
            step: Mutex::default(),
        }
    }
}

impl Progress for Terminal {
    fn step(&self, what: &str) {
        if self.bar.is_hidden() {
            eprintln!("{what}");
            return;
        }
        what.clone_into(&mut self.step.lock().unwrap_or_else(PoisonError::into_inner));
        self.bar.set_style(style("{spinner} {wide_msg}"));
        self.bar.set_message(what.to_owned());
        self.bar.enable_steady_tick(Duration::from_millis(100));
    }

    fn bytes(&self, done: u64, total: Option<u64>) {
        if let (0, Some(total)) = (done, total) {
            self.bar.set_length(total);
            self.bar.set_style(style(
                "{spinner} {msg} {bytes}/{total_bytes} {wide_bar} {eta}",
            ));
        }
        self.bar.set_position(done);
    }

    fn output(&self, line: &str) {
        let step = self.step.lock().unwrap_or_else(PoisonError::into_inner);
        self.bar.set_message(format!("{step}: {line}"));
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}
