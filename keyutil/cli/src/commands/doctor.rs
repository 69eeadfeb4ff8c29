//! `keyutil doctor`

use std::{
    io::{self, Write},
    time::Duration,
};

use anstream::{AutoStream, ColorChoice};
use clap::{Args, ValueEnum, builder::styling::AnsiColor};
use keyutil::{
    ConnectArgs,
    base::redact::without_user,
    connect::check::Program,
    diagnosis::{Class, Step},
    program::{self, Failed},
};
use keyutil_cli::doctor::{self, Examination, Finding, Origin, Outcome, Report, Sourced};
use serde::Serialize;

/// Check each step of a call, from the configuration to the task queue
///
/// The report says what is wrong and what to do about it. The connection flags are those of worker
/// and starter.
///
/// The steps are: configuration, files, name, TCP, server TLS, client TLS, gRPC, token, JWKS,
/// clock, permission, task queue. The check continues after a failure as far as possible; the exit
/// code is that of the first failure. Each step is limited to 5s, or to `--connect-timeout` where
/// that is shorter. Nothing is changed, neither here nor on the server.
#[derive(Args)]
#[command(after_help = program::examples_and_exit_codes(EXAMPLES))]
pub struct Doctor {
    /// Output format
    #[arg(long, default_value = "text", value_name = "FORMAT")]
    output: Output,

    #[command(flatten)]
    connect: Sourced<ConnectArgs>,

    #[command(flatten)]
    look: Sourced<LookArgs>,
}

/// What to check besides the connection.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Checks")]
struct LookArgs {
    /// Check that the token permits what this program needs
    ///
    /// With `admin`, a signing key and no `--permissions`, the token is minted with
    /// `<namespace>:admin`, as for `keyutil namespace register`.
    #[arg(long = "as", value_name = "PROGRAM")]
    program: Option<ProgramArg>,

    /// Check which workers poll this task queue
    #[arg(short, long, env = "TEMPORAL_TASK_QUEUE", value_name = "NAME")]
    task_queue: Option<String>,

    /// Key set that the server reads (`keySourceURIs`): a file, or an `http://` or `https://` URL
    /// [default: the file beside the signing key, if it exists]
    #[arg(long, env = "KEYUTIL_JWKS", value_name = "FILE|URL")]
    jwks: Option<String>,

    /// `jwtKeyProvider.refreshInterval` of the server
    #[arg(long, env = "KEYUTIL_JWKS_REFRESH_INTERVAL", default_value = "1m", value_name = "DURATION", value_parser = humantime::parse_duration)]
    refresh_interval: Duration,

    /// `audience` in the configuration of the server, if known
    #[arg(long, value_name = "NAME")]
    server_audience: Option<String>,
}

const EXAMPLES: &str = "\
Examples:
  keyutil doctor
  keyutil doctor --as worker --task-queue orders
  keyutil doctor --as starter --jwks https://keys.example.com/jwks.json
  keyutil doctor --output json";

/// The programs whose needs are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ProgramArg {
    /// Starts workflows; fails if no worker polls the task queue
    Starter,
    /// Polls for tasks
    Worker,
    /// Registers namespaces
    Admin,
}

impl From<ProgramArg> for Program {
    fn from(program: ProgramArg) -> Self {
        match program {
            ProgramArg::Starter => Self::Starter,
            ProgramArg::Worker => Self::Worker,
            ProgramArg::Admin => Self::Admin,
        }
    }
}

/// The output formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// One line for each step, and hints below it
    Text,
    /// One JSON object
    Json,
}

pub async fn run(arguments: Doctor) -> anyhow::Result<()> {
    let Sourced { mut args, origins } = arguments.connect;
    let Sourced {
        args: look,
        origins: more,
    } = arguments.look;
    let origins = [origins, more].concat();
    if look.program == Some(ProgramArg::Admin) {
        args.mint_for_admin();
    }
    let report = doctor::examine(&Examination {
        connect: &args,
        origins: &origins,
        program: look.program.map(Into::into),
        task_queue: given(&look.task_queue),
        jwks: given(&look.jwks),
        jwks_refresh: look.refresh_interval,
        audience: given(&look.server_audience),
    })
    .await;
    let printed = match arguments.output {
        Output::Json => json(&args, &origins, &report)
            .map_err(anyhow::Error::new)
            .and_then(|object| Ok(program::print_line(object)?)),
        Output::Text => print(&report),
    };
    match report.failure() {
        None => printed,
        // A closed standard output does not change the exit code.
        Some(failure) => Err(Failed {
            exit_code: report.exit_code(),
            what: format!("{}: {}", failure.step, failure.cause),
        }
        .into()),
    }
}

fn given(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

#[derive(Serialize)]
struct Json<'a> {
    address: String,
    namespace: &'a str,
    /// The step of the first failure.
    failed_step: Option<Step>,
    exit_code: u8,
    settings: &'a [Origin],
    findings: Vec<JsonFinding<'a>>,
}

#[derive(Serialize)]
struct JsonFinding<'a> {
    step: Step,
    mark: &'static str,
    seen: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    details: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<Class>,
}

impl<'a> From<&'a Finding> for JsonFinding<'a> {
    fn from(finding: &'a Finding) -> Self {
        Self {
            step: finding.step,
            mark: finding.mark(),
            seen: finding.seen(),
            details: &finding.details,
            hint: finding.hint(),
            class: finding.failure().map(|failure| failure.class),
        }
    }
}

fn json(args: &ConnectArgs, origins: &[Origin], report: &Report) -> serde_json::Result<String> {
    serde_json::to_string(&Json {
        address: without_user(&args.address),
        namespace: &args.namespace,
        failed_step: report.failure().map(|failure| failure.step),
        exit_code: report.exit_code(),
        settings: origins,
        findings: report.findings().iter().map(Into::into).collect(),
    })
}

fn print(report: &Report) -> anyhow::Result<()> {
    let mut text = Vec::new();
    for finding in report.findings() {
        write_finding(&mut text, finding)?;
    }
    let text = String::from_utf8_lossy(&text);
    program::print_line(text.trim_end())?;
    Ok(())
}

fn write_finding(out: &mut impl Write, finding: &Finding) -> io::Result<()> {
    let (colour, mark) = match finding.outcome {
        Outcome::Ok(_) => (AnsiColor::Green, "ok"),
        Outcome::Warning { .. } => (AnsiColor::Yellow, "warning"),
        Outcome::Failed(_) => (AnsiColor::Red, "FAILED"),
        Outcome::Skipped(_) => (AnsiColor::BrightBlack, "skipped"),
    };
    let colourful = AutoStream::choice(&io::stdout()) != ColorChoice::Never;
    let (on, off) = if colourful {
        let style = colour.on_default().bold();
        (style.render().to_string(), style.render_reset().to_string())
    } else {
        Default::default()
    };
    let (step, seen) = (finding.step, finding.seen());
    writeln!(out, "{on}{mark:<8}{off} {step:<14} {seen}")?;
    for detail in &finding.details {
        writeln!(out, "{:24}{detail}", "")?;
    }
    if let Some(hint) = finding.hint() {
        writeln!(out, "{:24}hint: {hint}", "")?;
    }
    Ok(())
}
