//! What the programs of this workspace have in common: arguments, logs, the one place where an
//! error is printed, and the exit codes.

mod examples;
mod logging;

use std::{
    fmt::Display,
    future::Future,
    io::{self, Write},
    process::ExitCode,
};

use clap::{Command, Parser, error::ErrorKind};
use tonic::{Code, Status};

use crate::{
    chain,
    connect::ConnectError,
    jwt::keyring::KeyringError,
    pki::{PkiError, RotateError},
    settings::Problems,
    transport::DialError,
};

pub use examples::{examples_and_exit_codes, mistaken_examples};
pub use logging::{LogArgs, LogFormat, log_format, print_warning};

/// The exit codes, for `--help`. The numbers are those of `sysexits.h`.
pub const EXIT_CODES: &str = "\
Exit codes:
   0  done
   1  failed for another reason than these
  64  the arguments are wrong, or the settings of the connection and the files they name
  69  the server cannot be reached
  75  too early: try again later
  76  the server's certificate or protocol is wrong
  77  not permitted: client certificate, token or permission";

const USAGE: u8 = 64;
const UNAVAILABLE: u8 = 69;
const TRY_LATER: u8 = 75;
const PROTOCOL: u8 = 76;
const NO_PERMISSION: u8 = 77;

/// A whole program: reads the arguments, does `work`, which starts the log with its [`LogArgs`],
/// prints the error if there is one, and gives the exit code.
pub async fn main<A: Parser>(
    name: &str,
    work: impl AsyncFnOnce(A) -> anyhow::Result<()>,
) -> ExitCode {
    match arguments() {
        Ok(arguments) => run(name, work(arguments)).await,
        Err(code) => code,
    }
}

/// Reads the arguments; prints help, version or mistakes, and ends the process, as needed.
///
/// # Errors
/// The exit code to end with.
pub fn arguments<A: Parser>() -> Result<A, ExitCode> {
    parse().map_err(|error: clap::Error| {
        // Nothing is left to do about an error message that cannot be printed.
        let _ = error.print();
        match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
            _ => ExitCode::from(USAGE),
        }
    })
}

fn parse<A: Parser>() -> Result<A, clap::Error> {
    let mut matches = without_empty_variables(A::command()).try_get_matches()?;
    A::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut A::command()))
}

/// clap takes a variable that is empty for a value, which is none for most types. Compose files
/// and CI set variables to nothing where there is nothing to say.
fn without_empty_variables(command: Command) -> Command {
    command
        .mut_args(|argument| {
            let value = argument.get_env().and_then(std::env::var_os);
            match value {
                Some(value) if value.is_empty() => argument.env(None::<&str>),
                _ => argument,
            }
        })
        .mut_subcommands(without_empty_variables)
}

/// Prints a line on standard output. `println!` would panic where nobody reads it.
///
/// # Errors
/// [`OutputError`], which [`run`] takes for an end in order when the reader has gone away.
pub fn print_line(line: impl Display) -> Result<(), OutputError> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(OutputError)
}

/// Standard output takes nothing.
#[derive(Debug, thiserror::Error)]
#[error("failed to write to standard output")]
pub struct OutputError(#[source] pub io::Error);

/// Runs the program, and prints the error if there is one: the whole chain in one line, and a hint
/// where there is something to do about it.
pub async fn run(name: &str, program: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    match program.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(name, &error),
    }
}

fn report(name: &str, error: &anyhow::Error) -> ExitCode {
    // As when the output goes to `head`, which has seen enough.
    let gone = |OutputError(error): &OutputError| error.kind() == io::ErrorKind::BrokenPipe;
    if find::<OutputError>(error).is_some_and(gone) {
        return ExitCode::SUCCESS;
    }
    complain(format_args!("{name}: {}", chain(error.as_ref())));
    if let Some(hint) = hint(error) {
        complain(format_args!("\nhint: {hint}"));
    }
    ExitCode::from(exit_code(error))
}

/// `eprintln!` would panic where nobody reads it, and hide the exit code.
fn complain(line: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

fn hint(error: &anyhow::Error) -> Option<String> {
    if let Some(hint) = find::<PkiError>(error).and_then(PkiError::hint) {
        return Some(hint.to_owned());
    }
    if let Some(hint) = find::<RotateError>(error).and_then(RotateError::hint) {
        return Some(hint.to_owned());
    }
    if let Some(hint) = find::<KeyringError>(error).and_then(KeyringError::hint) {
        return Some(hint.to_owned());
    }
    find::<ConnectError>(error).and_then(ConnectError::hint)
}

fn exit_code(error: &anyhow::Error) -> u8 {
    let usage = find::<Problems>(error).is_some()
        || find::<Usage>(error).is_some()
        || find::<PkiError>(error).is_some_and(PkiError::is_usage)
        || find::<RotateError>(error).is_some_and(RotateError::is_usage);
    if usage {
        return USAGE;
    }
    let too_early = find::<KeyringError>(error).is_some_and(KeyringError::is_too_early)
        || find::<RotateError>(error).is_some_and(RotateError::is_too_early);
    if too_early {
        return TRY_LATER;
    }
    match find::<ConnectError>(error) {
        Some(ConnectError::Settings(_) | ConnectError::Address(_) | ConnectError::Url(_)) => USAGE,
        Some(ConnectError::Unreachable { source, .. }) => match source {
            DialError::Resolve { .. } | DialError::Connect { .. } | DialError::TimedOut { .. } => {
                UNAVAILABLE
            }
            DialError::TokenInPlaintext { .. } => USAGE,
            _ => PROTOCOL,
        },
        Some(ConnectError::ServerCertificate { .. }) => PROTOCOL,
        Some(
            ConnectError::ClientCertificate { .. }
            | ConnectError::NoToken { .. }
            | ConnectError::Refused { .. },
        ) => NO_PERMISSION,
        Some(ConnectError::Call { status, .. }) => match status.code() {
            Code::InvalidArgument => USAGE,
            _ => UNAVAILABLE,
        },
        Some(ConnectError::NoNamespace { .. } | ConnectError::Sdk(_)) => 1,
        None => match find::<Status>(error).map(Status::code) {
            Some(Code::PermissionDenied | Code::Unauthenticated) => NO_PERMISSION,
            Some(Code::Unavailable | Code::DeadlineExceeded) => UNAVAILABLE,
            _ => 1,
        },
    }
}

fn find<E: std::error::Error + 'static>(error: &anyhow::Error) -> Option<&E> {
    error.chain().find_map(|cause| cause.downcast_ref())
}

/// Arguments that only the program can judge, and refuses: exit code 64.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// Done at the first SIGINT or SIGTERM.
pub async fn interrupted() -> std::io::Result<&'static str> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => interrupted.map(|()| "SIGINT"),
            _ = terminate.recv() => Ok("SIGTERM"),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await.map(|()| "Ctrl-C")
}
