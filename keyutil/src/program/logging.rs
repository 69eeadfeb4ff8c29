//! The log on standard error, and the flags that configure it.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    ffi::{OsStr, OsString},
    fmt::Display,
    io,
    panic::{self, PanicHookInfo},
    sync::OnceLock,
    thread,
};

use anstream::{AutoStream, ColorChoice};
use clap::{ArgAction, Args, ValueEnum};
use tracing::{error, warn};
use tracing_subscriber::EnvFilter;

use super::{UsageError, complain};
use crate::base::stderr::{self, LogWriter};

/// The flags of the log.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Log, on standard error")]
pub struct LogArgs {
    /// Log more; `-vv` includes libraries. RUST_LOG is used only without `-v` and `-q`
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet")]
    verbose: u8,

    /// Log warnings and errors only
    #[arg(short, long, global = true)]
    quiet: bool,

    /// Format: `text`, or `json` with one object per line
    #[arg(
        long,
        global = true,
        env = "KEYUTIL_LOG_FORMAT",
        default_value = "text",
        value_name = "FORMAT",
        // The list of values would take several lines in the help of every subcommand.
        hide_possible_values = true
    )]
    log_format: LogFormat,
}

/// Format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people, in colour on a terminal
    Text,
    /// One JSON object per line, for log collectors
    Json,
}

/// The format that [`LogArgs::start`] has set, for output on standard error outside the log.
#[must_use]
pub fn log_format() -> LogFormat {
    // Until the arguments are parsed, messages are for people.
    CHOSEN.get().copied().unwrap_or(LogFormat::Text)
}

/// Whether to colour standard error: it is a terminal, and `NO_COLOR`, `CLICOLOR`,
/// `CLICOLOR_FORCE` and `TERM` allow it. clap uses the same function for its own output.
fn stderr_is_colourful() -> bool {
    AutoStream::choice(&io::stderr()) != ColorChoice::Never
}

/// Prints a warning on standard error: as a log event in JSON, without a timestamp in text.
pub fn print_warning(warning: impl Display) {
    match log_format() {
        LogFormat::Text => complain(format_args!("warning: {warning}"), false),
        LogFormat::Json => warn!("{warning}"),
    }
}

/// Prints a panic like a line of the log. The hook of the standard library would write to standard
/// error directly, and wait for its reader.
fn print_panic(panic: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let thread = thread.name().unwrap_or("<unnamed>");
    let backtrace = Backtrace::capture();
    let backtrace = match backtrace.status() {
        BacktraceStatus::Captured => format!("\n{backtrace}"),
        _ => String::new(),
    };
    match log_format() {
        LogFormat::Text => complain(format_args!("thread '{thread}' {panic}{backtrace}"), false),
        LogFormat::Json => error!("thread '{thread}' {panic}{backtrace}"),
    }
}

/// The writer of the log, for a program with a subscriber of its own. At its end,
/// [`run`](super::run) waits up to a limit until the last lines are written.
#[must_use]
pub fn log_writer() -> LogWriter {
    stderr::start();
    LogWriter
}

impl LogArgs {
    /// Starts the log on standard error. A reader that does not read it does not stop the program:
    /// lines are dropped, and their number is logged later.
    ///
    /// # Errors
    /// [`UsageError`], for `--verbose` together with `--quiet`.
    pub fn start(self) -> Result<(), UsageError> {
        self.start_at(DEFAULT_FILTER)
    }

    /// Like [`start`](Self::start), with a default filter for when neither a flag nor `RUST_LOG`
    /// is set.
    ///
    /// # Errors
    /// [`UsageError`], for `--verbose` together with `--quiet`.
    pub fn start_at(self, default_filter: &str) -> Result<(), UsageError> {
        // A second call, as in tests of one process, changes nothing.
        let _ = CHOSEN.set(self.log_format);
        let _ = log_writer();
        panic::set_hook(Box::new(print_panic));
        let chosen = self.filter(std::env::var_os("RUST_LOG"), default_filter)?;
        let log = tracing_subscriber::fmt()
            .with_env_filter(chosen.filter)
            .with_writer(log_writer)
            // In JSON it would collide with the field `target` of some events.
            .with_target(false);
        let _ = match self.log_format {
            LogFormat::Text => log.with_ansi(stderr_is_colourful()).try_init(),
            LogFormat::Json => log
                .with_ansi(false)
                .json()
                .flatten_event(true)
                // The list of spans contains it.
                .with_current_span(false)
                .try_init(),
        };
        if let Some(mistake) = chosen.mistake {
            warn!(
                used = default_filter,
                "`RUST_LOG` is invalid and ignored: {mistake}"
            );
        }
        #[cfg(not(feature = "otel"))]
        if let Some(unused) = unused_traces(std::env::var_os) {
            warn!("{unused}");
        }
        Ok(())
    }

    fn filter(
        self,
        rust_log: Option<OsString>,
        default_filter: &str,
    ) -> Result<Chosen, UsageError> {
        let flag = match (self.verbose, self.quiet) {
            (0, false) => None,
            (0, true) => Some(format!("warn,{RETRIES}=off")),
            (1, false) => Some(our_crates_at("debug")),
            (_, false) => Some("debug".to_owned()),
            // clap detects this only if both flags are on the same side of the subcommand.
            (_, true) => {
                let both = "`--verbose` and `--quiet` cannot be used together";
                return Err(UsageError(both.to_owned()));
            }
        };
        if let Some(directives) = flag {
            return Ok(Chosen::from(&*directives));
        }
        match rust_log.as_deref().map(parse) {
            None | Some(Ok(None)) => Ok(Chosen::from(default_filter)),
            Some(Ok(Some(filter))) => Ok(Chosen {
                filter,
                mistake: None,
            }),
            Some(Err(mistake)) => Ok(Chosen {
                mistake: Some(mistake),
                ..Chosen::from(default_filter)
            }),
        }
    }
}

/// Returns the warning for an environment that asks for traces, which this build does not export.
#[cfg(not(feature = "otel"))]
fn unused_traces(variable: impl Fn(&'static str) -> Option<OsString>) -> Option<String> {
    let set = |name: &&'static str| variable(name).is_some_and(|value| !value.is_empty());
    let name = [
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    ]
    .into_iter()
    .find(set)?;
    Some(format!(
        "`{name}` is set and no traces are exported: this program was built without the cargo \
         feature `otel`"
    ))
}

/// The filter, and the error in `RUST_LOG` if it was ignored.
#[derive(Debug)]
struct Chosen {
    filter: EnvFilter,
    mistake: Option<String>,
}

impl From<&str> for Chosen {
    fn from(directives: &str) -> Self {
        Self {
            filter: EnvFilter::new(directives),
            mistake: None,
        }
    }
}

/// `None` for an empty variable, which counts as not set.
fn parse(rust_log: &OsStr) -> Result<Option<EnvFilter>, String> {
    let Some(directives) = rust_log.to_str() else {
        return Err("it is not UTF-8".to_owned());
    };
    if directives.trim().is_empty() {
        return Ok(None);
    }
    let parsed = EnvFilter::builder().parse(directives);
    parsed
        .map(Some)
        .map_err(|error| format!("`{directives}`: {error}"))
}

fn our_crates_at(level: &str) -> String {
    let ours = OUR_CRATES.map(|name| format!("{name}={level}"));
    format!("info,{}", ours.join(","))
}

/// The SDK logs each attempt of a call that it retries. `CallOutcomes` logs the cause instead, at
/// growing intervals.
const RETRIES: &str = "temporalio_client::retry";

const DEFAULT_FILTER: &str =
    "info,temporalio_sdk_core=warn,temporalio_client=warn,temporalio_client::retry=off";

/// The packages that `-v` sets to DEBUG.
const OUR_CRATES: [&str; 5] = ["keyutil", "keyutil_cli", "worker", "starter", "sandbox"];

static CHOSEN: OnceLock<LogFormat> = OnceLock::new();

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(verbose: u8, quiet: bool) -> LogArgs {
        LogArgs {
            verbose,
            quiet,
            log_format: LogFormat::Text,
        }
    }

    /// The directives in the order in which `EnvFilter` prints them.
    fn filter(arguments: LogArgs, rust_log: Option<&str>) -> String {
        let chosen = arguments.filter(rust_log.map(OsString::from), "info,h2=warn");
        let chosen = chosen.unwrap();
        assert_eq!(chosen.mistake, None);
        chosen.filter.to_string()
    }

    #[test]
    fn without_flags_the_variable_decides_unless_it_is_empty() {
        let default = filter(flags(0, false), None);
        assert_eq!(default, "h2=warn,info");
        assert_eq!(filter(flags(0, false), Some("")), default);
        assert_eq!(filter(flags(0, false), Some(" ")), default);
        assert_eq!(filter(flags(0, false), Some("trace")), "trace");
    }

    #[test]
    fn a_flag_wins_over_the_variable() {
        for (arguments, expected) in [
            (flags(0, true), "temporalio_client::retry=off,warn"),
            (flags(2, false), "debug"),
            (flags(9, false), "debug"),
        ] {
            assert_eq!(filter(arguments, Some("trace")), expected);
        }
        let ours = filter(flags(1, false), Some("off"));
        for directive in OUR_CRATES.map(|name| format!("{name}=debug")) {
            assert!(ours.contains(&directive), "{ours}");
        }
        assert!(ours.ends_with("info"), "{ours}");
    }

    #[test]
    fn an_invalid_variable_is_reported_and_the_default_is_used() {
        for wrong in ["keyutil=loud", "info,[", "a=b=c"] {
            let chosen = flags(0, false).filter(Some(wrong.into()), "info").unwrap();
            assert!(chosen.mistake.unwrap().contains(wrong));
            assert_eq!(chosen.filter.to_string(), "info");
        }
    }

    #[test]
    fn verbose_and_quiet_together_are_refused() {
        assert!(flags(1, true).filter(None, "info").is_err());
    }

    #[cfg(not(feature = "otel"))]
    #[test]
    fn traces_that_are_asked_for_and_not_built_in_are_a_warning() {
        let set = |wanted: &'static str| {
            move |name: &'static str| (name == wanted).then(|| OsString::from("http://collector"))
        };
        let endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT";
        let warning = unused_traces(set(endpoint)).unwrap();
        assert!(warning.contains(endpoint), "{warning}");
        assert_eq!(unused_traces(set("OTEL_SERVICE_NAME")), None);
    }
}
