//! What is shown of a soak while it goes on: a line that moves on a terminal, and a line for each
//! rotation.

use std::{
    cell::RefCell,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinHandle;

use super::load::Load;
use crate::rotations::Rotation;

/// Shows a soak until it is dropped, and collects what has been rotated.
pub(super) struct View {
    bar: ProgressBar,
    begun: Instant,
    ticking: JoinHandle<()>,
    rotations: RefCell<Vec<Rotation>>,
    problems: RefCell<Vec<String>>,
}

impl View {
    pub(super) fn new(duration: Duration, load: Load) -> Self {
        let bar = ProgressBar::new(duration.as_secs());
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} s  {msg}") {
            bar.set_style(style);
        }
        let begun = Instant::now();
        Self {
            ticking: tokio::spawn(tick(bar.clone(), begun, load)),
            bar,
            begun,
            rotations: RefCell::default(),
            problems: RefCell::default(),
        }
    }

    pub(super) fn note(&self, rotated: anyhow::Result<Rotation>) {
        match rotated {
            Ok(rotation) => {
                self.say(&format!(
                    "{}: {} -> {}, in use after {:.1} s",
                    rotation.credential.name(),
                    rotation.before,
                    rotation.now,
                    rotation.seen_after.as_secs_f64()
                ));
                self.rotations.borrow_mut().push(rotation);
            }
            Err(error) => {
                let problem = keyutil::chain(error.as_ref());
                self.say(&format!("PROBLEM: {problem}"));
                self.problems.borrow_mut().push(problem);
            }
        }
    }

    /// The rotations, in the order of their time, and what went wrong.
    pub(super) fn finish(self) -> (Vec<Rotation>, Vec<String>) {
        let mut rotations = self.rotations.take();
        rotations.sort_by_key(|rotation| rotation.at);
        (rotations, self.problems.take())
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
        self.bar.finish_and_clear();
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
