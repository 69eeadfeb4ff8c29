//! The command-line tool for keys, tokens, certificates and namespaces.

mod commands;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use keyutil::program::{self, LogArgs};

/// Manage keys, tokens, certificates and namespaces of a Temporal Server with authorization
#[derive(Parser)]
#[command(name = "keyutil", version, after_help = program::examples_and_exit_codes(EXAMPLES), subcommand_required = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,

    #[command(flatten)]
    log: LogArgs,
}

const EXAMPLES: &str = "\
Examples:
  keyutil pki init
  keyutil key generate
  keyutil doctor
  keyutil token mint --namespace orders | keyutil token inspect";

#[derive(Subcommand)]
enum Command {
    Pki(commands::pki::PkiArgs),
    /// Manage the keys that sign tokens
    #[command(subcommand)]
    Key(commands::key::Key),
    /// Print or serve the public keys that the server verifies tokens with
    #[command(subcommand)]
    Jwks(commands::jwks::Jwks),
    /// Mint, inspect and renew tokens
    #[command(subcommand)]
    Token(commands::token::Token),
    Doctor(Box<commands::doctor::Doctor>),
    /// Manage namespaces
    #[command(subcommand)]
    Namespace(commands::namespace::Namespace),
    Probe(commands::probe::Probe),
    Completions(commands::Completions),
}

fn main() -> ExitCode {
    program::main("keyutil", async |arguments: Arguments| {
        match &arguments.command {
            // The report has everything; warnings of the library would repeat it.
            Command::Doctor(_) => arguments.log.start_at("error")?,
            _ => arguments.log.start()?,
        }
        match arguments.command {
            Command::Pki(command) => commands::pki::run(command).await,
            Command::Key(command) => commands::key::run(command).await,
            Command::Jwks(command) => commands::jwks::run(command).await,
            Command::Token(command) => commands::token::run(command).await,
            Command::Doctor(arguments) => commands::doctor::run(*arguments).await,
            Command::Namespace(command) => commands::namespace::run(command).await,
            Command::Probe(command) => commands::probe::run(command).await,
            Command::Completions(command) => {
                commands::print_completions(command, Arguments::command())
            }
        }
    })
}
