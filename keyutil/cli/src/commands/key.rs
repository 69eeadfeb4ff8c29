//! `keyutil key …`

use std::{
    fmt,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use clap::{Args, Subcommand};
use humantime::{format_duration, parse_duration};
use keyutil::{
    diagnosis::ResultExt,
    program::{self, UsageError},
};
use keyutil_cli::keys::keyring::{
    KeyState, Keyring, KeyringError, PolicyError, Ring, RingKey, Rotated, RotationPolicy,
    RotationTimes,
};

use super::wait_until;

#[derive(Subcommand)]
#[command(after_help = "\
Examples:
  keyutil key generate
  keyutil key list
  keyutil key rotate --wait")]
pub enum Key {
    /// Make a new pair of keys: one that signs, and one that is published and waits to be next
    Generate(Generate),
    Rotate(Rotate),
    Retire(Retire),
    List(List),
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  keyutil key generate
  keyutil key generate --dir /etc/temporal/signing")]
pub struct Generate {
    #[command(flatten)]
    folder: Folder,

    /// Replace the keys that are there: every token they signed becomes worthless
    #[arg(long)]
    force: bool,
}

/// Where the ring is.
#[derive(Args)]
pub struct Folder {
    /// Folder of the signing keys
    #[arg(
        long,
        env = "KEYUTIL_SIGNING_DIR",
        default_value = "certs/signing",
        value_name = "DIR"
    )]
    pub dir: PathBuf,
}

impl Folder {
    /// The ring there.
    pub fn ring(self) -> Keyring {
        Keyring::at(self.dir)
    }
}

pub async fn run(command: Key) -> anyhow::Result<()> {
    match command {
        Key::Generate(arguments) => generate(arguments),
        Key::Rotate(arguments) => rotate(arguments).await,
        Key::Retire(arguments) => retire(arguments),
        Key::List(arguments) => list(arguments),
    }
}

fn generate(Generate { folder, force }: Generate) -> anyhow::Result<()> {
    let ring = folder.ring();
    let made = ring.generate(force, SystemTime::now).diagnosed()?;
    program::print_line(format_args!(
        "signs now    {}  {}",
        made.current.kid(),
        ring.current_path().display()
    ))?;
    program::print_line(format_args!(
        "signs next   {}  {}",
        made.next.kid(),
        ring.next_path().display()
    ))?;
    program::print_line(format_args!(
        "to publish   both  {}",
        ring.jwks_path().display()
    ))?;
    Ok(())
}

/// Let the next key sign, and publish a new next one
///
/// next → current → previous. The server fetches the key set at intervals and never because of an
/// unknown key, so the next key signs only after it has been published for propagation + refresh
/// interval + clock skew: before that some server would refuse its tokens. A key that has stopped
/// signing stays published until all tokens that it signed have expired, and is removed by a later
/// `rotate` or `retire`.
///
/// A run that was interrupted is finished by the next one. Two at once wait for each other.
#[derive(Args)]
#[command(after_help = "\
Examples:
  keyutil key rotate
  keyutil key rotate --wait
  keyutil key rotate --refresh-interval 5m --propagation 3m
  keyutil key rotate --emergency")]
pub struct Rotate {
    #[command(flatten)]
    folder: Folder,

    #[command(flatten)]
    times: Times,

    /// Wait until the next key may sign, instead of failing with exit code 75
    #[arg(long)]
    wait: bool,

    /// The key that signs is in the wrong hands: let the next one sign at once, and drop the other
    ///
    /// What it costs: tokens of the dropped key that are still held somewhere, in token files and
    /// caches, are refused as soon as a server has fetched the key set, and until then the stolen
    /// key still works. If the next key was published less than a refresh interval ago, its tokens
    /// are refused by each server until that server has fetched it.
    #[arg(long, conflicts_with = "wait")]
    emergency: bool,
}

/// Take keys out of the key set that no live token needs any more
///
/// A key is removed when propagation + token lifetime + clock skew + refresh interval have passed
/// since it stopped signing. `rotate` does this, too.
#[derive(Args)]
#[command(after_help = "\
Examples:
  keyutil key retire
  keyutil key retire --dir /etc/temporal/signing")]
pub struct Retire {
    #[command(flatten)]
    folder: Folder,

    #[command(flatten)]
    times: Times,
}

/// What the waits are made of.
#[derive(Args)]
#[command(next_help_heading = "What the waits are made of")]
pub struct Times {
    /// How often servers fetch the key set: their `jwtKeyProvider.refreshInterval`
    #[arg(long, env = "KEYUTIL_JWKS_REFRESH_INTERVAL", default_value = "1m", value_name = "DURATION", value_parser = parse_duration)]
    refresh_interval: Duration,

    /// The longest life of any token that these keys sign
    #[arg(long, env = "KEYUTIL_TOKEN_LIFETIME", default_value = "5m", value_name = "DURATION", value_parser = parse_duration)]
    token_lifetime: Duration,

    /// How far the clocks of signers and servers may be apart
    #[arg(long, env = "KEYUTIL_CLOCK_SKEW", default_value = "30s", value_name = "DURATION", value_parser = parse_duration)]
    clock_skew: Duration,

    /// From a file replaced to everybody having read it; for mounted Kubernetes secrets allow three
    /// minutes
    #[arg(long, env = "KEYUTIL_PROPAGATION", default_value = "10s", value_name = "DURATION", value_parser = parse_duration)]
    propagation: Duration,

    /// How long a key stays published after it has stopped signing [default: the sum of all four,
    /// and no less is accepted]
    #[arg(long, env = "KEYUTIL_RETIRE_AFTER", value_name = "DURATION", value_parser = parse_duration)]
    retire_after: Option<Duration>,
}

impl Times {
    /// The waits.
    pub fn policy(&self) -> Result<RotationPolicy, UsageError> {
        let times = RotationTimes {
            refresh_interval: self.refresh_interval,
            token_lifetime: self.token_lifetime,
            clock_skew: self.clock_skew,
            propagation: self.propagation,
        };
        RotationPolicy::new(times, self.retire_after).map_err(usage)
    }
}

/// Durations that contradict each other are wrong arguments.
pub fn usage(error: PolicyError) -> UsageError {
    UsageError(error.to_string())
}

async fn rotate(arguments: Rotate) -> anyhow::Result<()> {
    let policy = arguments.times.policy()?;
    let ring = arguments.folder.ring();
    if arguments.emergency {
        let rotated = ring.rotate_in_emergency(SystemTime::now).diagnosed()?;
        print(&rotated)?;
        return print_cost(&rotated, arguments.times.refresh_interval);
    }
    let rotated = match ring.rotate(&policy, SystemTime::now) {
        Err(KeyringError::TooEarly { kid, left, .. }) if arguments.wait => {
            let what = format!("the next key `{kid}` may sign");
            wait_and_rotate(&ring, &policy, &what, left)
                .await
                .diagnosed()?
        }
        done => done.diagnosed()?,
    };
    print(&rotated)?;
    let kept = policy.retire_after();
    let before = rotated.before.filter(|kid| !rotated.removed.contains(kid));
    if let Some(before) = before {
        program::print_line(format_args!(
            "stays published for {}: {before}",
            format_duration(kept)
        ))?;
    }
    Ok(())
}

async fn wait_and_rotate(
    ring: &Keyring,
    policy: &RotationPolicy,
    what: &str,
    mut left: Duration,
) -> Result<Rotated, KeyringError> {
    loop {
        wait_until(what, left).await;
        match ring.rotate(policy, SystemTime::now) {
            // Another process has rotated meanwhile, or the clock was set back.
            Err(KeyringError::TooEarly { left: more, .. }) => left = more,
            done => return done,
        }
    }
}

fn print(rotated: &Rotated) -> anyhow::Result<()> {
    if rotated.finished {
        program::print_line("finished a run that had been interrupted")?;
    }
    let before = rotated.before.as_deref().unwrap_or("none");
    program::print_line(format_args!("signed before  {before}"))?;
    program::print_line(format_args!("signs now      {}", rotated.now))?;
    program::print_line(format_args!("signs next     {}", rotated.next))?;
    for kid in &rotated.removed {
        program::print_line(format_args!("removed        {kid}"))?;
    }
    Ok(())
}

fn print_cost(rotated: &Rotated, refresh_interval: Duration) -> anyhow::Result<()> {
    let refresh = format_duration(refresh_interval);
    program::print_line("")?;
    program::print_line(format_args!(
        "within {refresh}, when each server has fetched the key set, tokens of the dropped key are \
         refused; until then they are accepted, those of a thief too"
    ))?;
    program::print_line(
        "programs that read their token from a file need a new one now; those that mint have it",
    )?;
    let published = SystemTime::now().duration_since(rotated.published);
    if published.unwrap_or_default() < refresh_interval {
        program::print_line(format_args!(
            "the key that signs now was published less than {refresh} ago: servers refuse its \
             tokens until they have fetched the key set"
        ))?;
    }
    program::print_line(
        "if the whole folder is in the wrong hands, the next key is, too: `keyutil key generate \
         --force`",
    )?;
    Ok(())
}

fn retire(arguments: Retire) -> anyhow::Result<()> {
    let policy = arguments.times.policy()?;
    let ring = arguments.folder.ring();
    let removed = ring.retire(&policy, SystemTime::now).diagnosed()?;
    for kid in &removed {
        program::print_line(format_args!("removed        {kid}"))?;
    }
    if removed.is_empty() {
        let now = SystemTime::now();
        let due = ring.look(now).diagnosed()?.removal_due(&policy);
        program::print_line(match due {
            Some(due) => format!(
                "nothing to remove yet: the next key is due in {}",
                format_duration(whole(due.duration_since(now).unwrap_or_default()))
            ),
            None => "nothing to remove: no key has stopped signing".to_owned(),
        })?;
    }
    Ok(())
}

fn whole(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs())
}

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

fn list(arguments: List) -> anyhow::Result<()> {
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
        KeyState::Current => "stops when the next one signs".to_owned(),
        KeyState::Compromised => "to be dropped: run `keyutil key rotate`".to_owned(),
        KeyState::Next => due("may sign", key.published + policy.publish_before(), now),
        KeyState::Previous => due("is removed", key.removable(policy), now),
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
