//! One file per subcommand.

pub mod doctor;
pub mod jwks;
pub mod key;
pub mod namespace;
pub mod pki;
pub mod probe;
pub mod token;

use std::time::{Duration, SystemTime};

use clap::{Args, Command};
use clap_complete::Shell;
use humantime::format_duration;
use indicatif::{ProgressBar, ProgressStyle};
use keyutil::program;
use tracing::info;

/// Print a script that makes a shell complete subcommands and flags
#[derive(Args)]
#[command(after_help = "\
Examples:
  keyutil completions bash > ~/.local/share/bash-completion/completions/keyutil
  keyutil completions zsh > ~/.zfunc/_keyutil
  keyutil completions fish > ~/.config/fish/completions/keyutil.fish
  source <(keyutil completions bash)")]
pub struct Completions {
    /// Shell that the script is for
    shell: Shell,
}

pub fn print_completions(arguments: Completions, mut tool: Command) -> anyhow::Result<()> {
    let name = tool.get_name().to_owned();
    // Not to standard output at once: clap_complete would panic where nobody reads it.
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut tool, name, &mut script);
    program::print_line(String::from_utf8_lossy(&script).trim_end())?;
    Ok(())
}

/// Waits until `left` has passed on the wall clock, also if the machine sleeps meanwhile, and
/// counts down on a terminal. Where there is none, one line in the log says what is waited for.
async fn wait_until(what: &str, left: Duration) {
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
