//! What the programs of this workspace have in common: arguments, logs, the one place where an
//! error is printed, and the exit codes.

mod logging;

use std::{
    error::Error,
    ffi::{OsStr, OsString},
    fmt::Display,
    future::Future,
    io::{self, Write},
    process::ExitCode,
    time::SystemTime,
};

use clap::{
    ArgMatches, Command, Parser,
    error::{ContextKind, ContextValue, ErrorKind},
    parser::ValueSource,
};
use tonic::{Code, Status};

use crate::{
    base::{chain, text::printable_lines, time::rfc3339},
    connect::ConnectError,
    credentials::reload::LoadError,
    diagnosis::{Class, Diagnose, Diagnosed, Diagnosis, Step},
    settings::SettingsErrors,
};

pub use logging::{LogArgs, LogFormat, log_format, print_warning};

/// The exit codes, for `--help`: those of [`Class`], and two more. Where `sysexits.h` has a fitting
/// number it is that.
pub const EXIT_CODES: &str = "\
Exit codes:
   0  done
   1  failed for another reason than these
  64  the arguments are wrong, or a file that they name cannot be read
  69  the server cannot be reached, or does not answer
  75  too early: try again later
  76  the server's certificate or protocol is wrong
  77  the token is accepted, and permits too little
  79  our client certificate is missing, unusable, or refused
  80  the token is missing, unusable, or not accepted
  81  the namespace does not exist
  82  nobody polls the task queue";

/// The end of a program's help: its examples, and the exit codes.
#[must_use]
pub fn examples_and_exit_codes(examples: &str) -> String {
    format!("{examples}\n\n{EXIT_CODES}")
}

/// A whole program: reads the arguments, does `work`, which starts the log with its [`LogArgs`],
/// prints the error if there is one, and gives the exit code.
pub async fn main<A: Parser>(
    name: &str,
    work: impl AsyncFnOnce(A) -> anyhow::Result<()>,
) -> ExitCode {
    match arguments() {
        Ok(arguments) => run(name, with_traces(name, work(arguments))).await,
        Err(code) => code,
    }
}

/// Exports traces while the work goes on, where the feature is compiled in and the environment asks
/// for it.
async fn with_traces(
    name: &str,
    work: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    #[cfg(feature = "otel")]
    crate::traces::start(name).map_err(|error| UsageError(crate::chain(&error)))?;
    #[cfg(not(feature = "otel"))]
    let _ = name;
    let ended = work.await;
    #[cfg(feature = "otel")]
    crate::traces::stop().await;
    ended
}

/// Reads the arguments; prints help, version or mistakes, and ends the process, as needed.
///
/// # Errors
/// The exit code to end with.
pub fn arguments<A: Parser>() -> Result<A, ExitCode> {
    parse(std::env::args_os()).map_err(|error| {
        // Nothing is left to do about an error message that cannot be printed.
        let _ = error.print();
        match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
            _ => ExitCode::from(Class::Usage.exit_code()),
        }
    })
}

fn parse<A: Parser>(
    arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>,
) -> Result<A, clap::Error> {
    let mut matches = without_empty_variables(A::command()).try_get_matches_from(arguments)?;
    let mut command = A::command();
    command.build();
    check_no_flag_is_empty(&command, &matches)?;
    A::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut A::command()))
}

/// An empty flag is most often a shell variable that is not set: `--permissions "$ROLE"`. Without
/// this check the flag would count as not set, and the default would be used without a word.
fn check_no_flag_is_empty(command: &Command, matches: &ArgMatches) -> Result<(), clap::Error> {
    for argument in command.get_arguments() {
        let id = argument.get_id().as_str();
        let Ok(Some(mut values)) = matches.try_get_raw(id) else {
            continue;
        };
        if argument.get_long().is_some()
            && matches.value_source(id) == Some(ValueSource::CommandLine)
            && values.any(OsStr::is_empty)
        {
            // The error of clap's own `NonEmptyStringValueParser`.
            let mut error = clap::Error::new(ErrorKind::InvalidValue).with_cmd(command);
            let flag = ContextValue::String(argument.to_string());
            error.insert(ContextKind::InvalidArg, flag);
            error.insert(
                ContextKind::InvalidValue,
                ContextValue::String(String::new()),
            );
            return Err(error);
        }
    }
    if let Some((name, matches)) = matches.subcommand()
        && let Some(command) = command.find_subcommand(name)
    {
        check_no_flag_is_empty(command, matches)?;
    }
    Ok(())
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
    if let Some(Failed { exit_code, what }) = find::<Failed>(error) {
        say(name, what, None, *exit_code);
        return ExitCode::from(*exit_code);
    }
    let diagnosis = diagnosis(error);
    let exit_code = diagnosis.class.exit_code();
    let what = chain(error.as_ref());
    say(name, &what, diagnosis.hint.as_deref(), exit_code);
    ExitCode::from(exit_code)
}

/// In the form of the log, and whatever that leaves out.
fn say(name: &str, what: &str, hint: Option<&str>, exit_code: u8) {
    match log_format() {
        LogFormat::Json => complain(serde_json::json!({
            "timestamp": rfc3339(SystemTime::now()),
            "level": "ERROR",
            "message": format!("{name}: {what}"),
            "hint": hint,
            "exit_code": exit_code,
        })),
        LogFormat::Text => {
            // Some of it is of others: of the server, of a token.
            complain(format_args!("{name}: {}", printable_lines(what)));
            if let Some(hint) = hint {
                complain(format_args!("\nhint: {}", printable_lines(hint)));
            }
        }
    }
}

/// The diagnosis of the outermost error in the chain that has one.
///
/// An error of [`connect()`](crate::connect()), of [`Settings::new`](crate::settings::Settings::new)
/// or of a credential that cannot be loaded needs no [`ResultExt::diagnosed`]. Other errors have a
/// diagnosis if it was attached.
///
/// [`ResultExt::diagnosed`]: crate::diagnosis::ResultExt::diagnosed
pub fn diagnosis(error: &anyhow::Error) -> Diagnosis {
    if let Some(known) = error.chain().find_map(known) {
        return known;
    }
    let (step, class) = match find::<Status>(error).map(Status::code) {
        _ if find::<UsageError>(error).is_some() => (Step::Configuration, Class::Usage),
        Some(Code::PermissionDenied | Code::Unauthenticated) => (Step::Token, Class::Token),
        Some(Code::Unavailable | Code::DeadlineExceeded) => (Step::Grpc, Class::Unreachable),
        _ => (Step::Grpc, Class::Other),
    };
    Diagnosis {
        step,
        class,
        cause: chain(error.as_ref()),
        hint: None,
    }
}

/// `anyhow` finds an error by its type alone, so the types are listed here.
fn known(cause: &(dyn Error + 'static)) -> Option<Diagnosis> {
    fn of<E: Diagnose>(cause: &(dyn Error + 'static)) -> Option<Diagnosis> {
        cause.downcast_ref::<E>().map(E::diagnosis)
    }
    let attached = cause.downcast_ref::<Diagnosed>();
    attached
        .map(|attached| attached.diagnosis.clone())
        .or_else(|| of::<ConnectError>(cause))
        .or_else(|| of::<SettingsErrors>(cause))
        .or_else(|| of::<LoadError>(cause))
}

/// `eprintln!` would panic where nobody reads it, and hide the exit code.
fn complain(line: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

fn find<E: Error + 'static>(error: &anyhow::Error) -> Option<&E> {
    error.chain().find_map(|cause| cause.downcast_ref())
}

/// What was looked for is not so, and has been printed: the exit code says the rest.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Failed {
    /// What is not so.
    pub what: String,
    /// What to end with.
    pub exit_code: u8,
}

/// Arguments that only the program can judge, and refuses: exit code 64.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// Done at the first SIGINT or SIGTERM from this call on, whenever it is awaited, with its name.
/// Where no signal can be received it is never done, and a signal ends the process by itself. Needs
/// a tokio runtime.
#[cfg(unix)]
pub fn interrupted() -> impl Future<Output = &'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let interrupt = signal(SignalKind::interrupt());
    let terminate = signal(SignalKind::terminate());
    async move {
        let (Ok(mut interrupt), Ok(mut terminate)) = (interrupt, terminate) else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
        }
    }
}

/// Done at the first Ctrl-C. Needs a tokio runtime.
#[cfg(not(unix))]
pub async fn interrupted() -> &'static str {
    match tokio::signal::ctrl_c().await {
        Ok(()) => "Ctrl-C",
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{ConnectArgs, Settings};

    #[test]
    fn an_empty_flag_is_refused_by_name() {
        #[derive(Debug, Parser)]
        struct Program {
            #[command(flatten)]
            connect: ConnectArgs,
            #[command(subcommand)]
            command: Option<Order>,
        }
        #[derive(Debug, clap::Subcommand)]
        enum Order {
            Start {
                #[arg(long)]
                id: Option<String>,
            },
        }
        for (arguments, flag) in [
            (&["--permissions", ""][..], "--permissions <LIST>"),
            (&["--address="], "--address <HOST:PORT>"),
            (&["--tls-cert-path", ""], "--tls-cert-path <FILE>"),
            (&["--api-key", ""], "--api-key <TOKEN>"),
            (&["start", "--id", ""], "--id <ID>"),
            (&["start", "--token-file", ""], "--token-file <FILE>"),
        ] {
            let refused = parse::<Program>([&["program"], arguments].concat()).unwrap_err();
            let told = refused.to_string();
            assert!(
                told.contains(&format!("a value is required for '{flag}'")),
                "{told}"
            );
        }
        let parsed = parse::<Program>(["program", "--audience", "a", "start"]).unwrap();
        assert_eq!(parsed.connect.token.claims.audience.as_deref(), Some("a"));
        assert!(matches!(parsed.command, Some(Order::Start { id: None })));
    }

    #[test]
    fn a_bare_question_mark_keeps_the_diagnosis_of_the_library() {
        let missing = ConnectError::NoNamespace {
            target: "localhost:7233".to_owned(),
            namespace: "orders".to_owned(),
        };
        let args = |change: fn(&mut ConnectArgs)| {
            let mut args = ConnectArgs::default();
            change(&mut args);
            Settings::new(&args, "test").unwrap_err()
        };
        let unreadable = args(|args| args.tls_ca_path = Some("/none".into()));
        let wrong = args(|args| args.address.clear());
        for (error, class, has_hint) in [
            (anyhow::Error::new(missing), Class::Namespace, true),
            (anyhow::Error::new(unreadable), Class::Usage, true),
            (anyhow::Error::new(wrong), Class::Usage, false),
            (anyhow::Error::msg("other"), Class::Other, false),
        ] {
            let found = diagnosis(&error.context("failed to start"));
            assert_eq!((found.class, found.hint.is_some()), (class, has_hint));
        }
    }
}
