//! `keyutil completions …`

use clap::{Args, Command};
use clap_complete::Shell;
use keyutil::program;

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

pub fn run(arguments: Completions, mut tool: Command) -> anyhow::Result<()> {
    let name = tool.get_name().to_owned();
    // Not to standard output at once: clap_complete would panic where nobody reads it.
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut tool, name, &mut script);
    program::print_line(String::from_utf8_lossy(&script).trim_end())?;
    Ok(())
}
