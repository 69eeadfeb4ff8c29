//! The command-line tool for keys, tokens, certificates and namespaces.

mod commands;

use std::{process::ExitCode, time::Duration};

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
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            program::print_warning(format_args!("failed to start the runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(run());
    // A file system that hangs, or a lock that another process holds, must not delay the end.
    runtime.shutdown_timeout(END_LIMIT);
    code
}

/// Time limit for file operations in progress at the end.
const END_LIMIT: Duration = Duration::from_secs(2);

async fn run() -> ExitCode {
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
    .await
}
