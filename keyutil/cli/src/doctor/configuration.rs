//! Where each setting came from.

use std::{ffi::OsStr, path::Path};

use clap::{ArgMatches, Args, Command, FromArgMatches, parser::ValueSource};
use serde::Serialize;

use super::Report;
use keyutil::{
    base::redact::{self, is_content, without_user},
    diagnosis::Step,
    settings::SettingsErrors,
};

/// A setting, what it is, and where that came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// The flag, such as `--address`.
    pub flag: String,
    /// What it is; nothing of a secret.
    pub value: String,
    /// The flag itself, the name of a variable, or `default`.
    pub from: String,
}

/// Arguments, and where each came from.
#[derive(Clone, Debug)]
pub struct Sourced<A> {
    /// The arguments.
    pub args: A,
    /// Each that has a value.
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
        // They are taken out of it when they are read.
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
            // Some paste a key or a token where its file should be named.
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

/// Without a password, in addresses and URLs.
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

pub(super) fn look(report: &mut Report, origins: &[Origin], problems: &SettingsErrors) {
    let wrong = problems
        .all()
        .iter()
        .filter(|problem| problem.step == Step::Configuration);
    for problem in wrong {
        report.fail(problem.clone());
    }
    let non_empty = origins.iter().filter(|origin| origin.from != "default");
    let seen = format!(
        "{} settings given, {} left as they are by default",
        non_empty.clone().count(),
        origins.len() - non_empty.count()
    );
    let shown = |origin: &Origin| format!("{:<18} {} ({})", origin.flag, origin.value, origin.from);
    report.ok(Step::Configuration, seen);
    report.detail(origins.iter().map(shown).collect());
}
