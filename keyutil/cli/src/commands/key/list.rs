//! `keyutil key list`

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use clap::Args;
use humantime::format_duration;
use keyutil::{diagnosis::ResultExt, program};
use keyutil_cli::keys::keyring::{Ring, RingKey, RotationPolicy, State};

use super::{Folder, Times};

/// Show the keys: which one signs, since when, and when each one's next step is due
#[derive(Args)]
#[command(after_help = "\
Examples:
  keyutil key list
  keyutil key list --dir /etc/temporal/signing --token-lifetime 1h")]
pub struct List {
    #[command(flatten)]
    folder: Folder,

    #[command(flatten)]
    times: Times,
}

pub fn list(arguments: List) -> anyhow::Result<()> {
    let policy = arguments.times.policy()?;
    let now = SystemTime::now();
    let ring = arguments.folder.ring().look(now).diagnosed()?;
    program::print_line(format_args!(
        "{:43}  {:11}  {:>14}  {:>14}  {:>14}  next step",
        "kid", "state", "published", "signs since", "stopped"
    ))?;
    for key in ring.keys() {
        program::print_line(row(key, &policy, now))?;
    }
    if ring.interrupted {
        program::print_line(
            "a rotation was interrupted: the next `keyutil key rotate` finishes it",
        )?;
    }
    for problem in problems(&ring) {
        program::print_line(problem)?;
    }
    Ok(())
}

fn row(key: &RingKey, policy: &RotationPolicy, now: SystemTime) -> String {
    let ago = |time: Option<SystemTime>| match time {
        Some(time) => format!(
            "{} ago",
            Rough(now.duration_since(time).unwrap_or_default())
        ),
        None => "-".to_owned(),
    };
    let step = match key.state {
        State::Current => "stops when the next one signs".to_owned(),
        State::Compromised => "to be dropped: run `keyutil key rotate`".to_owned(),
        State::Next => due("may sign", key.published + policy.publish_before(), now),
        State::Previous => due("is removed", key.removable(policy), now),
    };
    format!(
        "{:43}  {:11}  {:>14}  {:>14}  {:>14}  {step}",
        key.kid,
        key.state.name(),
        ago(Some(key.published)),
        ago(key.activated),
        ago(key.retired),
    )
}

fn problems(ring: &Ring) -> Vec<&'static str> {
    let mut problems = Vec::new();
    if ring.current.is_none() {
        problems.push("nothing signs: `current.pem` is missing");
    }
    if ring.next.is_none() {
        problems.push("there is no next key: `keyutil key rotate` publishes one");
    }
    problems
}

fn due(what: &str, at: SystemTime, now: SystemTime) -> String {
    match at.duration_since(now) {
        Ok(left) if left >= Duration::from_secs(1) => format!("{what} in {}", Rough(left)),
        _ => format!("{what} with the next run"),
    }
}

/// A duration in its two largest units: the seconds of a month do not matter.
struct Rough(Duration);

impl fmt::Display for Rough {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format_duration(Duration::from_secs(self.0.as_secs())).to_string();
        let units: Vec<_> = text.split(' ').take(2).collect();
        f.write_str(&units.join(" "))
    }
}
