//! The frame of a command-line program: arguments, logging, error output and exit codes.

mod logging;

use std::{
    error::Error,
    ffi::{OsStr, OsString},
    fmt::Display,
    future::Future,
    io::{self, Write},
    path::Path,
    process::ExitCode,
    time::{Duration, Instant, SystemTime},
};

use clap::{
    ArgMatches, Command, Parser,
    error::{ContextKind, ContextValue, ErrorKind},
    parser::ValueSource,
};
use tokio::runtime::Runtime;
use tonic::{Code, Status};

use crate::{
    base::{chain, descriptors, redact::is_content, stderr, text::printable_lines, time::rfc3339},
    connect::ConnectError,
    credentials::reload::LoadError,
    diagnosis::{Class, Diagnose, Diagnosed, Diagnosis, Step},
    settings::SettingsErrors,
};

pub use logging::{LogArgs, LogFormat, log_format, log_writer, print_warning};

/// The exit codes, as text for `--help`. The numbers are those of `sysexits.h` where it has one
/// that fits.
pub const EXIT_CODES: &str = "\
Exit codes:
   0  success
   1  any other failure
  64  the arguments are wrong, or a file that they name cannot be read
  69  the server cannot be reached or does not answer
  75  too early: try again later
  76  the server's certificate or protocol is wrong
  77  the token is accepted but does not grant the permission
  79  the client certificate is missing, unusable or rejected
  80  the token is missing, unusable or rejected
  81  the namespace does not exist
  82  no worker polls the task queue";

/// The text that ends a program's help: its examples and the exit codes.
#[must_use]
pub fn examples_and_exit_codes(examples: &str) -> String {
    format!("{examples}\n\n{EXIT_CODES}")
}

/// Time limit at the end of the program, for file operations in progress and for the reader of the
/// log together.
const END_LIMIT: Duration = Duration::from_secs(2);

/// Runs a program: parses the arguments, runs `work` on a tokio runtime of its own, and prints its
/// error.
///
/// `work` starts the log with the [`LogArgs`] among its arguments.
pub fn main<A: Parser>(name: &str, work: impl AsyncFnOnce(A) -> anyhow::Result<()>) -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    descriptors::raise_limit();
    match runtime() {
        Ok(runtime) => {
            let ended = runtime.block_on(with_traces(name, work(arguments)));
            let code = exit_code(name, ended);
            let deadline = Instant::now() + END_LIMIT;
            // A file system that hangs, or a lock that another process holds, must not delay the end.
            runtime.shutdown_timeout(END_LIMIT);
            stderr::flush(deadline.saturating_duration_since(Instant::now()));
            code
        }
        Err(error) => report(name, &anyhow::Error::new(RuntimeError(error))),
    }
}

fn runtime() -> io::Result<Runtime> {
    // tokio panics where the limit of open files leaves it no descriptor for signals.
    #[cfg(unix)]
    (0..DESCRIPTORS)
        .map(|_| std::fs::File::open("/dev/null"))
        .collect::<io::Result<Vec<_>>>()?;
    Runtime::new()
}

/// More than the descriptors that a runtime opens.
#[cfg(unix)]
const DESCRIPTORS: usize = 10;

/// The operating system does not provide what a runtime needs.
#[derive(Debug, thiserror::Error)]
#[error("failed to start: no threads or files for the runtime; `ulimit -a` shows the limits")]
struct RuntimeError(#[source] io::Error);

/// Exports traces while `work` runs, if the feature is enabled and the environment names an
/// endpoint.
async fn with_traces(
    name: &str,
    work: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    #[cfg(feature = "otel")]
    crate::traces::start(name).map_err(|error| UsageError(chain(&error)))?;
    #[cfg(not(feature = "otel"))]
    let _ = name;
    let ended = work.await;
    #[cfg(feature = "otel")]
    crate::traces::stop().await;
    ended
}

/// Parses the arguments of the process. Prints the help, the version or the error that clap
/// returns instead of arguments.
///
/// # Errors
/// The exit code for the process.
pub fn arguments<A: Parser>() -> Result<A, ExitCode> {
    parse(std::env::args_os()).map_err(|error| {
        // If standard error is closed there is no other place for the message.
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
    let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
    let mut matches = with_variables(A::command(), &|value| !value.is_empty())
        .try_get_matches_from(&arguments)
        .map_err(|error| match error.kind() {
            ErrorKind::InvalidUtf8 => name_variables::<A>(error, &arguments),
            _ => without_content(error),
        })?;
    let mut command = A::command();
    command.build();
    check_no_flag_is_empty(&command, &matches)?;
    A::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut A::command()))
}

/// clap repeats an argument that it does not expect. A key or a token that stands there, most often
/// for lack of quotes or of a flag, is left out.
fn without_content(mut error: clap::Error) -> clap::Error {
    let is_secret = |(_, value): &(ContextKind, &ContextValue)| match value {
        ContextValue::String(text) => {
            // The value of `--flag=value` is a part of the text.
            let value = text.split_once('=').map_or(&text[..], |(_, value)| value);
            [text, value]
                .into_iter()
                .any(|text| is_content(Path::new(text)))
        }
        _ => false,
    };
    let secrets: Vec<_> = error
        .context()
        .filter(is_secret)
        .map(|(kind, _)| kind)
        .collect();
    for kind in &secrets {
        error.insert(*kind, ContextValue::String("…".to_owned()));
    }
    if !secrets.is_empty() {
        // "To pass … as a value"
        error.remove(ContextKind::Suggested);
    }
    error
}

/// Adds the names of the variables that are not UTF-8 and must be: clap does not say which.
fn name_variables<A: Parser>(error: clap::Error, arguments: &[OsString]) -> clap::Error {
    let mut broken = Vec::new();
    collect_variables(&A::command(), &mut broken);
    broken.sort();
    broken.dedup();
    // A path need not be UTF-8, so each is parsed without the others.
    broken.retain(|(_, value)| {
        let alone = with_variables(A::command(), &|other| other == value);
        let parsed = alone.try_get_matches_from(arguments);
        parsed.is_err_and(|error| error.kind() == ErrorKind::InvalidUtf8)
    });
    if broken.is_empty() {
        return error;
    }
    let names: Vec<_> = broken
        .iter()
        .map(|(name, _)| name.to_string_lossy())
        .collect();
    let message = format!("not UTF-8: the variable `{}`\n", names.join("`, `"));
    A::command().error(ErrorKind::InvalidUtf8, message)
}

fn collect_variables(command: &Command, broken: &mut Vec<(OsString, OsString)>) {
    for argument in command.get_arguments() {
        if let Some(name) = argument.get_env()
            && let Some(value) = std::env::var_os(name)
            && value.to_str().is_none()
        {
            broken.push((name.to_owned(), value));
        }
    }
    for command in command.get_subcommands() {
        collect_variables(command, broken);
    }
}

/// An empty flag is most often a shell variable that is not set: `--permissions "$ROLE"`. Without
/// this check the flag would count as not set, and the default would be used silently.
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

/// Reads only the variables whose value passes, and prints none in `--help`: a key may stand in the
/// place of a path.
///
/// clap parses an empty variable as a value, and fails for most types. Compose files and CI systems
/// set variables to the empty string where nothing is configured.
fn with_variables(command: Command, usable: &dyn Fn(&OsStr) -> bool) -> Command {
    command
        .mut_args(|argument| {
            let value = argument.get_env().and_then(std::env::var_os);
            match value {
                Some(value) if !usable(&value) => argument.env(None::<&str>),
                _ => argument.hide_env_values(true),
            }
        })
        .mut_subcommands(|command| with_variables(command, usable))
}

/// Prints a line on standard output. `println!` panics when standard output is closed.
///
/// # Errors
/// [`OutputError`]. [`run`] treats a closed pipe as success.
pub fn print_line(line: impl Display) -> Result<(), OutputError> {
    stderr::keep_order();
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(OutputError)
}

/// Standard output cannot be written to.
#[derive(Debug, thiserror::Error)]
#[error("failed to write to standard output")]
pub struct OutputError(#[source] pub io::Error);

/// Awaits `program` and prints its error: the whole chain in one line, and the hint below it.
pub async fn run(name: &str, program: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    let code = exit_code(name, program.await);
    stderr::flush(END_LIMIT);
    code
}

fn exit_code(name: &str, ended: anyhow::Result<()>) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(name, &error),
    }
}

fn report(name: &str, error: &anyhow::Error) -> ExitCode {
    // For example, the output is piped to `head`.
    let gone = |OutputError(error): &OutputError| error.kind() == io::ErrorKind::BrokenPipe;
    if find::<OutputError>(error).is_some_and(gone) {
        return ExitCode::SUCCESS;
    }
    if let Some(Failed { exit_code, what }) = find::<Failed>(error) {
        print_error(name, what, None, *exit_code);
        return ExitCode::from(*exit_code);
    }
    let diagnosis = diagnosis(error);
    let exit_code = diagnosis.class.exit_code();
    let what = chain(error.as_ref());
    print_error(name, &what, diagnosis.hint.as_deref(), exit_code);
    ExitCode::from(exit_code)
}

/// Prints the error in the format of the log, whatever the log filter is.
fn print_error(name: &str, what: &str, hint: Option<&str>, exit_code: u8) {
    match log_format() {
        LogFormat::Json => {
            let error = serde_json::json!({
                "timestamp": rfc3339(SystemTime::now()),
                "level": "ERROR",
                "message": format!("{name}: {what}"),
                "hint": hint,
                "exit_code": exit_code,
            });
            complain(error, true);
        }
        LogFormat::Text => {
            // The text may contain parts of a server's answer or of a token.
            complain(format_args!("{name}: {}", printable_lines(what)), true);
            if let Some(hint) = hint {
                complain(format_args!("\nhint: {}", printable_lines(hint)), true);
            }
        }
    }
}

/// The diagnosis of the outermost error in the chain that has one.
///
/// The errors of [`connect()`](crate::connect()), of
/// [`Settings::new`](crate::settings::Settings::new) and of loading a credential are recognised by
/// their type. Other errors have a diagnosis if [`ResultExt::diagnosed`] attached one.
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
    let found = attached
        .map(|attached| attached.diagnosis.clone())
        .or_else(|| of::<ConnectError>(cause))
        .or_else(|| of::<SettingsErrors>(cause))
        .or_else(|| of::<LoadError>(cause));
    #[cfg(feature = "health")]
    let found = found.or_else(|| of::<crate::health::ListenError>(cause));
    found
}

/// Writes a line to standard error, after the lines of the log. It is never dropped if it `must` be
/// written.
fn complain(line: impl Display, must: bool) {
    stderr::write(format!("{line}\n").as_bytes(), must);
}

fn find<E: Error + 'static>(error: &anyhow::Error) -> Option<&E> {
    error.chain().find_map(|cause| cause.downcast_ref())
}

/// A check that failed, with the exit code of the process.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Failed {
    /// The message.
    pub what: String,
    /// The exit code of the process.
    pub exit_code: u8,
}

/// An error in arguments that clap cannot check. The exit code is 64.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// Completes at the first SIGINT or SIGTERM after this call, with the name of the signal. A signal
/// before the first poll counts. If no handler can be installed the future never completes, and a
/// signal ends the process. Needs a tokio runtime.
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

/// Completes at the first Ctrl-C. Needs a tokio runtime.
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
        #[cfg(feature = "health")]
        {
            let taken = crate::health::ListenError {
                address: ([127, 0, 0, 1], 9090).into(),
                source: io::ErrorKind::AddrInUse.into(),
            };
            let found = diagnosis(&anyhow::Error::new(taken));
            assert_eq!(found.class, Class::Other);
            assert!(found.hint.unwrap().contains("`--health-listen`"));
        }
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
