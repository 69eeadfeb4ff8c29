//! The checks that need no connection: the source of each setting, and the files.

use std::{
    ffi::OsStr,
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use clap::{ArgMatches, Args, Command, FromArgMatches, parser::ValueSource};
use serde::Serialize;

use super::Report;
use keyutil::{
    base::{
        redact::{self, is_content, without_user},
        time::when,
    },
    credentials::{Credential, Identity, TrustBundle},
    diagnosis::Step,
    probe::{Connector, Security, TrustSource},
    settings::{ConnectArgs, SettingsErrors, non_empty},
    x509::certificate::{self, CertificateSummary},
};

/// A setting with its value and source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// The flag, such as `--address`.
    pub flag: String,
    /// The value; secrets are not shown.
    pub value: String,
    /// `flag`, the name of a variable, or `default`.
    pub from: String,
}

/// Arguments and the source of each.
#[derive(Clone, Debug)]
pub struct Sourced<A> {
    /// The arguments.
    pub args: A,
    /// The arguments that have a value.
    pub origins: Vec<Origin>,
}

impl<A: Args> Args for Sourced<A> {
    fn augment_args(command: Command) -> Command {
        A::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        A::augment_args_for_update(command)
    }
}

impl<A: Args> FromArgMatches for Sourced<A> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self {
            origins: origins::<A>(matches),
            args: A::from_arg_matches(matches)?,
        })
    }

    fn from_arg_matches_mut(matches: &mut ArgMatches) -> Result<Self, clap::Error> {
        // Reading the arguments removes them from `matches`.
        let origins = origins::<A>(matches);
        let args = A::from_arg_matches_mut(matches)?;
        Ok(Self { args, origins })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.origins = origins::<A>(matches);
        self.args.update_from_arg_matches(matches)
    }
}

fn origins<A: Args>(matches: &ArgMatches) -> Vec<Origin> {
    let command = A::augment_args(Command::new("arguments"));
    let origin = |argument: &clap::Arg| {
        let id = argument.get_id().as_str();
        let source = matches.value_source(id)?;
        let raw = matches.get_raw(id)?.next()?;
        if raw.is_empty() {
            return None;
        }
        let from = match source {
            ValueSource::CommandLine => "flag".to_owned(),
            ValueSource::EnvVariable => argument.get_env().map(text)?,
            _ => "default".to_owned(),
        };
        Some(Origin {
            flag: format!("--{}", argument.get_long()?),
            // A key or token may have been passed in place of the path of its file.
            value: if argument.is_hide_env_values_set() || is_content(Path::new(raw)) {
                "not shown".to_owned()
            } else {
                shown(&text(raw))
            },
            from,
        })
    };
    command.get_arguments().filter_map(origin).collect()
}

/// Removes user and password from addresses and URLs.
fn shown(value: &str) -> String {
    if value.contains("://") {
        redact::source(value)
    } else {
        without_user(value)
    }
}

fn text(text: &OsStr) -> String {
    text.to_string_lossy().escape_debug().to_string()
}

pub(super) fn check_configuration(
    report: &mut Report,
    origins: &[Origin],
    problems: &SettingsErrors,
) {
    for problem in problems.all() {
        if problem.step == Step::Configuration {
            report.fail(problem.clone());
        }
    }
    let non_empty = origins.iter().filter(|origin| origin.from != "default");
    let seen = format!(
        "{} settings given, {} at their defaults",
        non_empty.clone().count(),
        origins.len() - non_empty.count()
    );
    let shown = |origin: &Origin| format!("{:<18} {} ({})", origin.flag, origin.value, origin.from);
    if !report.has_failed_at(Step::Configuration) {
        report.ok(Step::Configuration, seen);
    }
    report.detail(origins.iter().map(shown));
}

pub(super) fn check_files(
    report: &mut Report,
    args: &ConnectArgs,
    connector: Option<&Connector>,
    problems: &SettingsErrors,
) {
    for problem in problems.all() {
        if problem.step == Step::Files {
            report.fail(problem.clone());
        }
    }
    let now = SystemTime::now();
    if let Some(Security::Tls {
        identity,
        trust,
        revoked,
        ..
    }) = connector.map(Connector::security)
    {
        if let Some(revoked) = revoked {
            let lists = revoked.current();
            report.ok(
                Step::Files,
                format!("revocation lists: {}", lists.identify()),
            );
            for warning in lists.warnings(now) {
                report.warn(
                    Step::Files,
                    warning,
                    "check the process that fetches the list",
                );
            }
        }
        if let Some(identity) = identity {
            look_at_identity(report, &identity.current(), now);
        }
        match trust {
            TrustSource::File(trust) => look_at_trust(report, &trust.current(), now),
            TrustSource::System(_) => {
                report.ok(
                    Step::Files,
                    "the server is verified with the CAs of the operating system",
                );
            }
        }
    }
    for (what, path) in [
        ("private key", non_empty(&args.tls_key_path)),
        ("signing key", non_empty(&args.token.signing_key)),
        ("token file", non_empty(&args.token.token_file)),
    ] {
        if let Some(path) = path {
            look_at_mode(report, what, path);
        }
    }
    if !report
        .findings()
        .iter()
        .any(|finding| finding.step == Step::Files)
    {
        report.skip(Step::Files, "no files configured");
    }
}

fn look_at_identity(report: &mut Report, identity: &Identity, now: SystemTime) {
    let leaf = identity.leaf();
    report.ok(
        Step::Files,
        format!(
            "client certificate `{}`, serial {}, issued by `{}`, valid until {}; its \
             key matches",
            leaf.subject,
            leaf.serial,
            leaf.issuer,
            when(leaf.not_after, now)
        ),
    );
    if !leaf.permits_client() {
        report.warn(
            Step::Files,
            format!(
                "the client certificate with serial {} lacks the extended key usage `clientAuth`: \
                 the server will refuse it",
                leaf.serial
            ),
            "request a certificate for TLS clients",
        );
    }
    let certified = identity.certified();
    let broken = certified
        .cert
        .windows(2)
        .position(|pair| !certificate::names_as_issuer(&pair[0], &pair[1]));
    if let Some(index) = broken {
        report.warn(
            Step::Files,
            format!(
                "certificate {} of the certificate file is not the issuer of certificate {}: the \
                 server may not be able to verify the chain",
                index + 2,
                index + 1
            ),
            "put the client certificate first, and each issuer directly after the certificate that it issued",
        );
    }
    warn_of_expiry(report, Step::Files, "the client certificate", leaf, now);
}

fn look_at_trust(report: &mut Report, trust: &TrustBundle, now: SystemTime) {
    report.ok(Step::Files, format!("the server is verified with {trust}"));
    for warning in trust.warnings(now) {
        let hint = "replace it by the certificate of the CA that issued the server's certificate, or remove it";
        report.warn(Step::Files, warning, hint);
    }
    for authority in trust.authorities() {
        let what = format!("the CA certificate `{}`", authority.subject);
        warn_of_expiry(report, Step::Files, &what, authority, now);
    }
}

/// Warns of a certificate with less than a tenth of its lifetime left: it should have been renewed.
pub(super) fn warn_of_expiry(
    report: &mut Report,
    step: Step,
    what: &str,
    certificate: &CertificateSummary,
    now: SystemTime,
) {
    let CertificateSummary {
        serial,
        not_before,
        not_after,
        ..
    } = certificate;
    let life = not_after.duration_since(*not_before).unwrap_or_default();
    let left = not_after.duration_since(now).unwrap_or_default();
    if left < life / 10 {
        let until = when(*not_after, now);
        let seen = if left == Duration::ZERO {
            format!("{what} with serial {serial} expired at {until}")
        } else {
            format!(
                "{what} with serial {serial} is valid until {until}: less than a tenth of its lifetime is left"
            )
        };
        report.warn(step, seen, "check the process that renews it");
    }
}

#[cfg(unix)]
fn look_at_mode(report: &mut Report, what: &str, path: &Path) {
    use std::os::unix::fs::MetadataExt;
    // A file that cannot be read is reported where it is loaded.
    let Ok(metadata) = fs::metadata(path) else {
        return;
    };
    let mode = metadata.mode() & 0o777;
    let shown = path.display();
    if mode & 0o007 != 0 {
        report.warn(
            Step::Files,
            format!("every user of this machine can read the {what} `{shown}` (mode {mode:04o})"),
            format!(
                "run `chmod 600 {shown}`; for a mounted Kubernetes secret set `defaultMode: 0440` and \
                 `fsGroup`"
            ),
        );
    } else {
        report.ok(
            Step::Files,
            format!("the {what} `{shown}` is not readable by other users (mode {mode:04o})"),
        );
    }
}

#[cfg(not(unix))]
fn look_at_mode(_: &mut Report, _: &str, _: &Path) {}
