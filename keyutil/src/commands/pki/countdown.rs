//! A wait that a person can watch.

use std::time::{Duration, SystemTime};

use indicatif::{ProgressBar, ProgressStyle};
use tracing::info;

/// Waits by the wall clock, because a monotonic one stands still while a laptop sleeps. Where
/// standard error is no terminal, one log line says until when.
pub async fn wait(left: Duration, what: &str) {
    // Rounded up, so that the bar does not end before the wait.
    let seconds = left.as_secs() + 1;
    let due = SystemTime::now() + left;
    let bar = ProgressBar::new(seconds);
    if let Ok(style) = ProgressStyle::with_template("{msg} {bar:30} {len}s") {
        bar.set_style(style);
    }
    if bar.is_hidden() {
        let until = humantime::format_rfc3339_seconds(due);
        info!(%until, "waiting: {what}");
    }
    while let Ok(rest) = due.duration_since(SystemTime::now())
        && !rest.is_zero()
    {
        let rest_seconds = rest.as_secs() + 1;
        bar.set_message(format!("{what}: {rest_seconds}s left"));
        bar.set_position(seconds.saturating_sub(rest_seconds));
        tokio::time::sleep(rest.min(TICK)).await;
    }
    bar.finish_and_clear();
}

const TICK: Duration = Duration::from_millis(500);
