//! One file per subcommand.

pub mod doctor;
pub mod jwks;
pub mod key;
pub mod namespace;
pub mod pki;
pub mod probe;
pub mod token;

use std::{
    io,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use clap::{Args, Command};
use clap_complete::Shell;
use humantime::format_duration;
use indicatif::{ProgressBar, ProgressStyle};
use keyutil::{
    diagnosis::{Class, Diagnosed, Diagnosis, Step},
    program,
};
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

/// Arguments, or a file that they name, that cannot be used.
fn unusable(cause: String, hint: Option<&str>) -> Diagnosed {
    Diagnosed::from(Diagnosis {
        step: Step::Configuration,
        class: Class::Usage,
        cause,
        hint: hint.map(str::to_owned),
    })
}

/// An address at which nothing can listen.
fn cannot_listen(address: SocketAddr, flag: &str, error: &io::Error) -> Diagnosed {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("another process listens there: end it, or name another port with `{flag}`")
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("no network interface of this machine has the address: see `{flag}`")
        }
        io::ErrorKind::PermissionDenied => {
            format!("ports below 1024 take a privilege: name another port with `{flag}`")
        }
        _ => format!("name another address with `{flag}`"),
    };
    Diagnosed::from(Diagnosis {
        step: Step::Configuration,
        class: Class::Other,
        cause: format!("failed to listen at `{address}`: {error}"),
        hint: Some(hint),
    })
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
