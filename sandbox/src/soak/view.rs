//! What is seen of a soak while it goes on: a line that moves on a terminal, and a line for each
//! rotation.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinHandle;

use super::load::Load;
use crate::rotations::Rotation;

/// Ends with its owner.
pub(super) struct View {
    bar: ProgressBar,
    begun: Instant,
    ticking: JoinHandle<()>,
}

impl View {
    pub(super) fn new(duration: Duration, load: Load) -> Self {
        let bar = ProgressBar::new(duration.as_secs());
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} s  {msg}") {
            bar.set_style(style);
        }
        let begun = Instant::now();
        let ticking = tokio::spawn(tick(bar.clone(), begun, load));
        Self {
            bar,
            begun,
            ticking,
        }
    }

    pub(super) fn rotated(&self, rotation: &Rotation) {
        self.say(&format!(
            "{}: {} -> {}, in use after {:.1} s",
            rotation.credential.name(),
            rotation.before,
            rotation.now,
            rotation.seen_after.as_secs_f64()
        ));
    }

    pub(super) fn failed(&self, problem: &str) {
        self.say(&format!("PROBLEM: {problem}"));
    }

    pub(super) fn finish(self) {
        self.bar.finish_and_clear();
    }

    fn say(&self, line: &str) {
        let line = format!("{:7.1} s  {line}", self.begun.elapsed().as_secs_f64());
        if self.bar.is_hidden() {
            eprintln!("{line}");
        } else {
            self.bar.println(line);
        }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.ticking.abort();
    }
}

async fn tick(bar: ProgressBar, begun: Instant, load: Load) {
    let mut before = 0;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (done, failed) = load.counts();
        bar.set_position(begun.elapsed().as_secs());
        bar.set_message(format!(
            "{done} workflows, {failed} failed, {} per second",
            (done + failed).saturating_sub(before)
        ));
        before = done + failed;
    }
}
