//! `keyutil key …`

use std::{
    fmt,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use clap::{Args, Subcommand};
use humantime::{format_duration, format_rfc3339_seconds, parse_duration};
use keyutil::{
    base::{chain, redact},
    diagnosis::{Class, Diagnosed, Diagnosis, ResultExt, Step},
    program::{self, UsageError},
};
use keyutil_cli::keys::{
    fetch,
    keyring::{
        KeyState, Keyring, KeyringError, PolicyError, Ring, RingKey, Rotated, RotationPolicy,
        RotationTimes,
    },
    serve,
};
use tracing::info;

use super::wait_until;

#[derive(Subcommand)]
#[command(after_help = "\
Examples:
  keyutil key generate
  keyutil key list
  keyutil key rotate --wait")]
pub enum Key {
    /// Create two keys: one that signs, and one that is published and will sign next
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

    /// Replace existing keys; every token that they signed becomes invalid
    #[arg(long)]
    force: bool,
}

/// The folder of the key ring.
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
    /// Returns the key ring in the folder.
    ///
    /// # Errors
    /// [`UsageError`] for a folder that has the key that signs, and nothing else of a ring: a second
    /// ring would be created in it, whose keys no server knows.
    pub fn ring(self) -> anyhow::Result<Keyring> {
        let ring = Keyring::at(&self.dir);
        let folder = self.dir.canonicalize().unwrap_or(self.dir);
        let around = folder.parent().map(Keyring::at);
        let is_active = around.is_some_and(|around| {
            around.active_folder() == folder && around.current_path().exists()
        });
        if is_active && !ring.jwks_path().exists() {
            return Err(UsageError(format!(
                "--dir (KEYUTIL_SIGNING_DIR): `{}` has only the key that signs: name the folder above it",
                folder.display()
            ))
            .into());
        }
        Ok(ring)
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
    let ring = folder.ring()?;
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
        "key set            {}",
        ring.jwks_path().display()
    ))?;
    Ok(())
}

/// Make the next key sign, and publish a new next key
///
/// A key is next, then current, then previous:
///
/// - The next key signs once it has been published for propagation + refresh interval + clock skew.
///   Servers fetch the key set only at intervals; before that, some would refuse its tokens.
///
/// - A previous key stays published until every token that it signed has expired. A later `rotate`
///   or `retire` removes it.
///
/// The next run finishes an interrupted one. Concurrent runs wait for each other.
#[derive(Args)]
#[command(after_help = "\
Examples:
  keyutil key rotate
  keyutil key rotate --wait
  keyutil key rotate --refresh-interval 5m --propagation 3m
  keyutil key rotate --emergency
  keyutil key rotate --emergency --kid 1b0q2…")]
pub struct Rotate {
    #[command(flatten)]
    folder: Folder,

    /// Wait until the next key may sign, instead of exiting with code 75
    #[arg(long)]
    wait: bool,

    /// For a compromised key: the next key signs at once, and all keys that have signed are removed
    ///
    /// This has a cost:
    ///
    /// - Tokens of the dropped keys in token files and caches are refused as soon as a server
    ///   fetches the key set. Until then the compromised key still works.
    ///
    /// - If the next key was published less than a refresh interval ago, each server refuses its
    ///   tokens until it fetches the key set.
    #[arg(long, conflicts_with = "wait")]
    emergency: bool,

    /// The only key that `--emergency` removes; if it is a previous key, the current key continues to
    /// sign
    #[arg(long, requires = "emergency", value_name = "KID")]
    kid: Option<String>,

    /// URL of the key set at `keyutil jwks serve`; the endpoint is asked how many servers have
    /// fetched the next key [default: it is not asked]
    #[arg(long, env = "KEYUTIL_JWKS", value_name = "URL")]
    jwks: Option<String>,

    /// How many servers must have fetched the next key from the endpoint at `--jwks` before it
    /// signs; each address counts as one; 0: does not ask
    #[arg(
        long,
        env = "KEYUTIL_EXPECT_FETCHERS",
        default_value_t = 1,
        value_name = "NUMBER"
    )]
    expect_fetchers: usize,

    #[command(flatten)]
    times: Times,

    #[command(flatten)]
    shorten: Shorten,
}

/// Remove keys from the key set that no valid token needs
///
/// A key is removed once propagation + token lifetime + clock skew + refresh interval have passed
/// since it stopped signing. `rotate` removes such keys too.
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

    #[command(flatten)]
    shorten: Shorten,
}

/// The flag that shortens recorded waits.
#[derive(Args)]
#[command(next_help_heading = "Timing")]
pub struct Shorten {
    /// Replace longer durations that earlier runs recorded in `ring.json` by those of this run; a
    /// key that has signed still stays published for the recorded time
    #[arg(long)]
    shorten_waits: bool,
}

/// The durations that the waits consist of.
#[derive(Args)]
#[command(next_help_heading = "Timing")]
pub struct Times {
    /// How often servers fetch the key set: `jwtKeyProvider.refreshInterval` of the server
    #[arg(long, env = "KEYUTIL_JWKS_REFRESH_INTERVAL", default_value = "1m", value_name = "DURATION", value_parser = parse_duration)]
    refresh_interval: Duration,

    /// Longest lifetime of any token that these keys sign
    #[arg(long, env = "KEYUTIL_TOKEN_LIFETIME", default_value = "5m", value_name = "DURATION", value_parser = parse_duration)]
    token_lifetime: Duration,

    /// Largest difference between the clocks of signers and servers
    #[arg(long, env = "KEYUTIL_CLOCK_SKEW", default_value = "30s", value_name = "DURATION", value_parser = parse_duration)]
    clock_skew: Duration,

    /// How long a replaced file takes to reach all of its readers; three minutes for mounted
    /// Kubernetes secrets
    #[arg(long, env = "KEYUTIL_PROPAGATION", default_value = "10s", value_name = "DURATION", value_parser = parse_duration)]
    propagation: Duration,

    /// How long a key stays published after it stopped signing; must not be less than the default
    /// [default: the sum of the four durations above]
    #[arg(long, env = "KEYUTIL_RETIRE_AFTER", value_name = "DURATION", value_parser = parse_duration)]
    retire_after: Option<Duration>,
}

impl Times {
    /// Returns the waits that result from the durations.
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

impl Shorten {
    /// Returns the waits of this run, and warns of each duration that differs from the recorded
    /// one.
    fn policy(&self, times: &Times, ring: &Keyring) -> Result<RotationPolicy, UsageError> {
        let policy = times.policy()?;
        let policy = if self.shorten_waits {
            policy.shortening()
        } else {
            policy
        };
        warn_of_differences(ring, &policy);
        Ok(policy)
    }
}

fn warn_of_differences(ring: &Keyring, policy: &RotationPolicy) {
    for difference in ring.differences(policy) {
        program::print_warning(difference);
    }
}

/// Returns the usage error for contradictory durations.
pub fn usage(error: PolicyError) -> UsageError {
    UsageError(error.to_string())
}

async fn rotate(arguments: Rotate) -> anyhow::Result<()> {
    let asked = if arguments.emergency {
        None
    } else {
        arguments.asked()
    };
    let ring = arguments.folder.ring()?;
    let policy = arguments.shorten.policy(&arguments.times, &ring)?;
    if arguments.emergency {
        let rotated = ring
            .rotate_in_emergency(arguments.kid.as_deref(), SystemTime::now)
            .diagnosed()?;
        print(&rotated)?;
        let now = SystemTime::now();
        let ring = ring.look(now).diagnosed()?;
        print_accepted(&rotated, &ring, &ring.policy(&policy), now)?;
        return print_cost(&rotated, arguments.times.refresh_interval);
    }
    let mut logged = false;
    let rotated = loop {
        if let Some((url, expected)) = &asked
            && let Some(unfetched) = unfetched(&ring, &policy, url, *expected).await?
        {
            if !arguments.wait || unfetched.class != Class::TooEarly {
                return Err(Diagnosed::from(unfetched).into());
            }
            if !logged {
                info!("{}", unfetched.cause);
                logged = true;
            }
            tokio::time::sleep(ASK_AGAIN).await;
            continue;
        }
        match ring.rotate(&policy, SystemTime::now) {
            // Another process has rotated in the meantime, or the clock was set back.
            Err(KeyringError::TooEarly { kid, left, .. }) if arguments.wait => {
                wait_until(&format!("the next key `{kid}` may sign"), left).await;
            }
            done => break done.diagnosed()?,
        }
    };
    print(&rotated)?;
    let ring = ring.look(SystemTime::now()).diagnosed()?;
    let before = |key: &&RingKey| Some(&key.kid) == rotated.before.as_ref();
    if let Some(before) = ring.previous.iter().find(before) {
        program::print_line(format_args!(
            "stays published for {}: {}",
            format_duration(before.wait(&ring.policy(&policy))),
            before.kid
        ))?;
    }
    Ok(())
}

impl Rotate {
    /// Returns the endpoint to ask, and how many addresses must have fetched the next key from it.
    fn asked(&self) -> Option<(String, usize)> {
        let jwks = self.jwks.as_deref().filter(|jwks| !jwks.is_empty())?;
        if self.expect_fetchers == 0 {
            return None;
        }
        if !jwks.contains("://") {
            program::print_warning(
                "`--jwks` (KEYUTIL_JWKS) names a file, which does not show whether servers have fetched the \
                 next key",
            );
            return None;
        }
        Some((jwks.to_owned(), self.expect_fetchers))
    }
}

/// The pause before the endpoint is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// If the next key could sign now, asks the endpoint whether it was fetched. Returns the reason why
/// the key must wait, if it must.
async fn unfetched(
    ring: &Keyring,
    policy: &RotationPolicy,
    url: &str,
    expected: usize,
) -> anyhow::Result<Option<Diagnosis>> {
    let now = SystemTime::now();
    // The rotation that follows reports what is wrong with the ring, and finishes an interrupted
    // rotation.
    let Some(ring) = ring.look(now).ok().filter(|ring| !ring.interrupted) else {
        return Ok(None);
    };
    let allowed = ring.rotation_allowed(policy).filter(|at| *at <= now);
    let Some(next) = ring.next.as_ref().filter(|_| allowed.is_some()) else {
        return Ok(None);
    };
    let metrics = serve::metrics_url(url).unwrap_or_else(|| url.to_owned());
    let told = fetch::fetch(&metrics, fetch::TIMEOUT).await.diagnosed();
    let told =
        told.context("failed to ask the JWKS endpoint whether servers have fetched the next key")?;
    let (kid, shown) = (&next.kid, redact::source(url));
    let (class, cause, hint) = match serve::fetchers(&told.document, kid) {
        Some(fetched) if fetched >= expected => return Ok(None),
        Some(fetched) => (
            Class::TooEarly,
            format!(
                "too early: {fetched} of {expected} expected servers have fetched the next key `{kid}` from `{shown}`"
            ),
            "`--wait` waits for them; check `keySourceURIs` and `refreshInterval` of the servers; \
             `--expect-fetchers` sets the expected number, and with 0 the rotation does not wait",
        ),
        None => (
            Class::Usage,
            format!(
                "`{shown}` does not report which keys were fetched: it is not served by `keyutil jwks serve`"
            ),
            "once every server has fetched the key set, rotate with `--expect-fetchers 0`",
        ),
    };
    Ok(Some(Diagnosis {
        step: Step::Jwks,
        class,
        cause,
        hint: Some(hint.to_owned()),
    }))
}

fn print(rotated: &Rotated) -> anyhow::Result<()> {
    if rotated.finished {
        program::print_line("finished an interrupted rotation")?;
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

/// Prints every key that a server may accept, and until when.
fn print_accepted(
    rotated: &Rotated,
    ring: &Ring,
    policy: &RotationPolicy,
    now: SystemTime,
) -> anyhow::Result<()> {
    let fetched = format_rfc3339_seconds(now + policy.publish_before());
    program::print_line("")?;
    for kid in &rotated.removed {
        program::print_line(format_args!(
            "accepted       {kid}  until each server has fetched the key set, {fetched} at the latest"
        ))?;
    }
    for key in ring.keys() {
        let until = match key.state {
            KeyState::Previous => {
                let removable = format_rfc3339_seconds(key.removable(policy));
                format!("until the first run after {removable} removes it")
            }
            _ => "until it is rotated out".to_owned(),
        };
        program::print_line(format_args!("accepted       {}  {until}", key.kid))?;
    }
    Ok(())
}

/// Prints what an emergency rotation costs.
fn print_cost(rotated: &Rotated, refresh_interval: Duration) -> anyhow::Result<()> {
    let refresh = format_duration(refresh_interval);
    program::print_line("")?;
    program::print_line(
        "token files need a new token now; programs that mint their tokens have one",
    )?;
    let published = SystemTime::now().duration_since(rotated.published);
    if published.unwrap_or_default() < refresh_interval {
        program::print_line(format_args!(
            "the current key was published less than {refresh} ago: each server refuses its tokens \
             until it has fetched the key set"
        ))?;
    }
    program::print_line(
        "if the whole folder is compromised, so is the next key: replace all keys with `keyutil key \
         generate --force`",
    )?;
    Ok(())
}

fn retire(arguments: Retire) -> anyhow::Result<()> {
    let ring = arguments.folder.ring()?;
    let policy = arguments.shorten.policy(&arguments.times, &ring)?;
    let removed = ring.retire(&policy, SystemTime::now).diagnosed()?;
    for kid in &removed {
        program::print_line(format_args!("removed        {kid}"))?;
    }
    if removed.is_empty() {
        let now = SystemTime::now();
        let due = ring.look(now).diagnosed()?.removal_due(&policy);
        program::print_line(match due {
            Some(due) => format!(
                "nothing to remove yet: the next removal is due in {}",
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

/// List the keys: which one signs, since when, and when the next step of each is due
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
    let keyring = arguments.folder.ring()?;
    // The list is useful even if nothing can be written.
    if let Err(error) = keyring.migrate() {
        program::print_warning(chain(&error));
    }
    let ring = keyring.look(now).diagnosed()?;
    warn_of_differences(&keyring, &policy);
    let policy = ring.policy(&policy);
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
        KeyState::Current => "stops signing at the next rotation".to_owned(),
        KeyState::Compromised => "`keyutil key rotate` drops it".to_owned(),
        KeyState::Next => due("may sign", key.published + key.wait(policy), now),
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
        problems.push("no key signs: `active/current.pem` is missing");
    }
    if ring.next.is_none() {
        problems.push("there is no next key: `keyutil key rotate` publishes one");
    }
    problems
}

fn due(what: &str, at: SystemTime, now: SystemTime) -> String {
    match at.duration_since(now) {
        Ok(left) if left >= Duration::from_secs(1) => format!("{what} in {}", Rough(left)),
        _ => format!("{what} at the next run"),
    }
}

/// Displays the two largest units of a duration: the seconds of a month do not matter.
struct Rough(Duration);

impl fmt::Display for Rough {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format_duration(Duration::from_secs(self.0.as_secs())).to_string();
        let units: Vec<_> = text.split(' ').take(2).collect();
        f.write_str(&units.join(" "))
    }
}
