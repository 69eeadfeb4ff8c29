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

/// Print a completion script for a shell
#[derive(Args)]
#[command(after_help = "\
Examples:
  keyutil completions bash > ~/.local/share/bash-completion/completions/keyutil
  keyutil completions zsh > ~/.zfunc/_keyutil
  keyutil completions fish > ~/.config/fish/completions/keyutil.fish
  source <(keyutil completions bash)")]
pub struct Completions {
    /// Shell to generate the script for
    shell: Shell,
}

pub fn print_completions(arguments: Completions, mut tool: Command) -> anyhow::Result<()> {
    let name = tool.get_name().to_owned();
    // clap_complete panics when it writes to a closed standard output.
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut tool, name, &mut script);
    program::print_line(String::from_utf8_lossy(&script).trim_end())?;
    Ok(())
}

/// Returns the error for arguments, or files named by them, that cannot be used.
fn unusable(cause: String, hint: Option<&str>) -> Diagnosed {
    Diagnosed::from(Diagnosis {
        step: Step::Configuration,
        class: Class::Usage,
        cause,
        hint: hint.map(str::to_owned),
    })
}

/// Returns the error for an address that cannot be bound.
fn cannot_listen(address: SocketAddr, flag: &str, error: &io::Error) -> Diagnosed {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("another process uses the port: stop it, or name another port with `{flag}`")
        }
        io::ErrorKind::AddrNotAvailable => {
            format!(
                "no network interface of this machine has this address: name another with `{flag}`"
            )
        }
        io::ErrorKind::PermissionDenied => {
            format!("ports below 1024 require a privilege: name another port with `{flag}`")
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

/// Waits until `left` has passed on the wall clock, even if the machine is suspended meanwhile.
///
/// A terminal shows a countdown; otherwise one log line says what the program waits for.
async fn wait_until(what: &str, left: Duration) {
    // Rotation times are whole seconds.
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
