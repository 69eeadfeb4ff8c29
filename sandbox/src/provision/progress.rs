//! Progress of the steps that take long.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A receiver of progress. By default it shows nothing.
pub trait Progress: Send + Sync {
    /// A new step has begun.
    fn step(&self, _what: &str) {}
    /// This many bytes are done, of a total that is not always known.
    fn bytes(&self, _done: u64, _total: Option<u64>) {}
    /// A program that does the step has printed a line.
    fn output(&self, _line: &str) {}
}

/// Shows nothing.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Progress for Silent {}

/// Progress on stderr: on a terminal one line that moves and is gone at the end, elsewhere one line
/// per step.
#[derive(Debug)]
pub struct Terminal(ProgressBar);

impl Terminal {
    /// Nothing is shown before the first step.
    #[expect(
        clippy::new_without_default,
        reason = "it draws, which a default should not"
    )]
    pub fn new() -> Self {
        Self(ProgressBar::new_spinner())
    }

    fn set_template(&self, template: &str) {
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.0.set_style(style);
        }
    }
}

impl Progress for Terminal {
    fn step(&self, what: &str) {
        if self.0.is_hidden() {
            eprintln!("{what}");
            return;
        }
        self.set_template("{spinner} {wide_msg}");
        // The template does not show the prefix: `output` reads it.
        self.0.set_prefix(what.to_owned());
        self.0.set_message(what.to_owned());
        self.0.enable_steady_tick(Duration::from_millis(100));
    }

    fn bytes(&self, done: u64, total: Option<u64>) {
        if let (0, Some(total)) = (done, total) {
            self.0.set_length(total);
            self.set_template("{spinner} {msg} {bytes}/{total_bytes} {wide_bar} {eta}");
        }
        self.0.set_position(done);
    }

    fn output(&self, line: &str) {
        self.0.set_message(format!("{}: {line}", self.0.prefix()));
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
