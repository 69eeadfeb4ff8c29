//! A wait that a person can watch.

use std::time::{Duration, SystemTime};

use humantime::format_duration;
use indicatif::{ProgressBar, ProgressStyle};
use tracing::info;

/// Waits until `left` has passed on the wall clock, also if the machine sleeps meanwhile, and
/// counts down on a terminal. Where there is none, one line in the log says what is waited for.
pub async fn wait(what: &str, left: Duration) {
    // Times of rotations are whole seconds.
    let until = SystemTime::now() + left + Duration::from_millis(50);
    let bar = ProgressBar::new_spinner();
    if bar.is_hidden() {
        let seconds = Duration::from_secs(left.as_secs() + 1);
        info!(left = %format_duration(seconds), "waiting until {what}");
    }
    if let Ok(style) = ProgressStyle::with_template("{msg}") {
        bar.set_style(style);
    }
    while let Ok(left) = until.duration_since(SystemTime::now())
        && !left.is_zero()
    {
        let seconds = Duration::from_secs(left.as_secs() + 1);
        bar.set_message(format!(
            "waiting until {what}: {} left",
            format_duration(seconds)
        ));
        bar.tick();
        tokio::time::sleep(left.min(Duration::from_millis(500))).await;
    }
    bar.finish_and_clear();
}
