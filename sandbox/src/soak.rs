//! Load for some time, while every credential rotates again and again and the server ends
//! connections by age.
//!
//! | what | file |
//! |---|---|
//! | workflows, so many at a time | `load.rs` |
//! | what is shown of it while it goes on | `view.rs` |
//! | the result, for people and machines | `record.rs` |
//! | the picture | `chart.rs` |

pub mod chart;
pub mod load;
pub mod record;

use std::{
    cell::RefCell,
    convert::Infallible,
    fs,
    path::PathBuf,
    slice,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use clap::Args;
use humantime::parse_duration;
use indicatif::{ProgressBar, ProgressStyle};
use keyutil::{Connection, program::print_line};
use keyutil_cli::pki::Party;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::{
    load::{InFlight, Load},
    record::{Handshake, Latency, Sample, Summary, Worst, totals},
};
use crate::{
    binaries::Binaries,
    guard::Guard,
    process::WorkerProcess,
    provision::{self, Options, Progress, Terminal},
    rotations::{Credential, Rotation, Rotations},
    stack::{Stack, StackOptions, connection_age},
};

/// The options of a soak.
#[derive(Args, Clone, Debug)]
pub struct SoakOptions {
    /// For how long workflows are started
    #[arg(long, default_value = "1m", value_name = "DURATION", value_parser = parse_duration)]
    pub duration: Duration,

    /// How many workflows are in flight at a time
    #[arg(long, default_value = "10", value_parser = clap::value_parser!(u16).range(1..))]
    pub concurrency: u16,

    /// Pause between two rotations of the same credential
    #[arg(long, default_value = "2s", value_name = "DURATION", value_parser = parse_duration)]
    pub pause: Duration,

    /// Age at which the server ends a connection, with calls under way or not
    #[arg(long, default_value = "3s", value_name = "DURATION", value_parser = parse_duration)]
    pub connection_age: Duration,

    /// Life of the tokens that worker and starter mint
    #[arg(long, default_value = "6s", value_name = "DURATION", value_parser = parse_duration)]
    pub token_lifetime: Duration,

    /// Folder for `soak.json` and `soak.svg`
    #[arg(long, default_value = "target/soak", value_name = "DIR")]
    pub output: PathBuf,
}

/// Runs a soak and writes its result.
///
/// # Errors
/// [`keyutil::program::UsageError`]; and when a workflow failed, a call was refused, or a rotation was not
/// seen to take effect.
pub async fn run(provision: &Options, options: &SoakOptions) -> anyhow::Result<()> {
    check(options)?;
    fs::create_dir_all(&options.output)
        .with_context(|| format!("failed to make the folder `{}`", options.output.display()))?;
    let progress = Terminal::new();
    let server = provision::temporal_server(provision, &progress).await?;
    let guard = Guard::new("temporal-demo-")?;
    let binaries = Binaries::build(&guard, &progress).await?;
    progress.step("starting temporal-server");
    let stack_options = StackOptions {
        dynamic_config: connection_age(options.connection_age),
        ..StackOptions::default()
    };
    let stack = Stack::start(&server, guard, stack_options).await?;
    let worker = WorkerProcess::start(&stack, &binaries.worker, options.token_lifetime).await?;
    drop(progress);
    let (summary, samples) = soak(&stack, worker, options).await?;
    let path = options.output.join("soak.json");
    let text = serde_json::to_string_pretty(&summary)?;
    fs::write(&path, text).with_context(|| format!("failed to write `{}`", path.display()))?;
    let picture = options.output.join("soak.svg");
    if let Err(error) = chart::draw(&picture, summary.duration, &samples, &summary.events) {
        bail!("failed to draw `{}`: {error}", picture.display());
    }
    print_line(&summary)?;
    print_line(format!("result and picture: {}", options.output.display()))?;
    ensure!(
        summary.passed,
        "{} problems, see above and `{}`",
        summary.problems.len(),
        path.display()
    );
    Ok(())
}

async fn soak(
    stack: &Stack,
    worker: WorkerProcess,
    options: &SoakOptions,
) -> anyhow::Result<(Summary, Vec<Sample>)> {
    let mut args = stack.connect_args(Party::Starter);
    args.token.claims.token_lifetime = Some(options.token_lifetime);
    let concurrency = u32::from(options.concurrency);
    let work = InFlight::start(&args, concurrency, Duration::ZERO).await?;
    let (connection, begun) = (&work.connection, work.load.begun());
    let stop_rotations = CancellationToken::new();
    let view = View::new(options.duration, work.load.clone());
    let rotations = Rotations::new(
        stack,
        slice::from_ref(&worker),
        connection,
        options.token_lifetime,
        begun,
    );
    let again_and_again = async |credentials: &[Credential]| {
        while !stop_rotations.is_cancelled() {
            for credential in credentials {
                view.note(rotations.rotate(*credential).await);
            }
            let pause = tokio::time::sleep(options.pause);
            stop_rotations.run_until_cancelled(pause).await;
        }
    };
    let over = async {
        tokio::time::sleep(options.duration).await;
        // A rotation that has begun is finished under load.
        stop_rotations.cancel();
    };
    let rotating = async {
        tokio::join!(
            over,
            again_and_again(&[Credential::Token]),
            again_and_again(&[Credential::SigningKey]),
            // The client CA makes client certificates too, so these two go one after the other.
            again_and_again(&[Credential::ClientCertificate, Credential::ClientCa]),
            again_and_again(&[Credential::FrontendCa]),
        )
    };
    let handshakes = RefCell::default();
    tokio::select! {
        never = note_handshakes(&worker, connection, begun, &handshakes) => match never {},
        _ = rotating => {}
    }
    let duration = begun.elapsed();
    let (connection, load) = work.stop().await?;

    let worker_status = worker.status().await?;
    let starter_status = serde_json::to_value(connection.status())?;
    let complaints = worker.complaints();
    let stopped = worker.stop().await;
    let (events, mut problems) = view.finish();
    problems.extend(stopped.err().map(|error| keyutil::chain(error.as_ref())));
    let complaints = complaints.into_iter();
    problems.extend(complaints.map(|line| format!("the worker logged: {line}")));
    let samples = load.samples();
    let (rotations, slowest_effect) = totals(&events);
    let (workflows, failed) = load.counts();
    let mut summary = Summary {
        passed: false,
        problems,
        duration,
        concurrency,
        workflows,
        failed,
        latency_ms: Latency::of(&samples),
        worst: Worst::of(&samples, &events, &handshakes.take()),
        rotations,
        slowest_effect,
        events,
        worker: worker_status,
        starter: starter_status,
    };
    summary.judge(&samples);
    Ok((summary, samples))
}

/// Records each new connection of worker and starter, until the future is dropped.
async fn note_handshakes(
    worker: &WorkerProcess,
    starter: &Connection,
    begun: Instant,
    seen: &RefCell<Vec<Handshake>>,
) -> Infallible {
    let mut before = [None, None];
    loop {
        let worker = worker.status().await.ok();
        let worker = worker.and_then(|status| status.pointer("/connection/handshakes")?.as_u64());
        let starter = Some(starter.status().connection.handshakes);
        let sides = ["worker", "starter"].into_iter().zip([worker, starter]);
        for ((side, now), before) in sides.zip(&mut before) {
            if before.is_some() && now > *before {
                let at = begun.elapsed();
                seen.borrow_mut().push(Handshake { at, side });
            }
            *before = now.or(*before);
        }
        tokio::time::sleep(Handshake::RESOLUTION).await;
    }
}

/// Refuses a soak that cannot pass, before anything is started.
fn check(options: &SoakOptions) -> anyhow::Result<()> {
    let usage = |text: &str| keyutil::program::UsageError(text.to_owned());
    ensure!(
        options.duration >= Duration::from_secs(30),
        usage("--duration: 30 s is the least in which every credential rotates twice")
    );
    ensure!(
        options.token_lifetime >= Duration::from_secs(3),
        usage("--token-lifetime: at least 3 s, so that a token lives while it travels")
    );
    Ok(())
}

/// Shows a soak until it is dropped, and collects what has been rotated.
struct View {
    bar: ProgressBar,
    begun: Instant,
    ticking: JoinHandle<()>,
    rotations: RefCell<Vec<Rotation>>,
    problems: RefCell<Vec<String>>,
}

impl View {
    fn new(duration: Duration, load: Load) -> Self {
        let bar = ProgressBar::new(duration.as_secs());
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} s  {msg}") {
            bar.set_style(style);
        }
        let begun = Instant::now();
        Self {
            ticking: tokio::spawn(tick(bar.clone(), begun, load)),
            bar,
            begun,
            rotations: RefCell::default(),
            problems: RefCell::default(),
        }
    }

    fn note(&self, rotated: anyhow::Result<Rotation>) {
        match rotated {
            Ok(rotation) => {
                self.say(&format!(
                    "{}: {} -> {}, in use after {:.1} s",
                    rotation.credential.name(),
                    rotation.before,
                    rotation.now,
                    rotation.seen_after.as_secs_f64()
                ));
                self.rotations.borrow_mut().push(rotation);
            }
            Err(error) => {
                let problem = keyutil::chain(error.as_ref());
                self.say(&format!("PROBLEM: {problem}"));
                self.problems.borrow_mut().push(problem);
            }
        }
    }

    /// The rotations, in the order of their time, and what went wrong.
    fn finish(self) -> (Vec<Rotation>, Vec<String>) {
        let mut rotations = self.rotations.take();
        rotations.sort_by_key(|rotation| rotation.at);
        (rotations, self.problems.take())
    }

    fn say(&self, line: &str) {
        let line = format!("{:7.1} s  {line}", self.begun.elapsed().as_secs_f64());
        if self.bar.is_hidden() {
            eprintln!("{line}");
        } else {
            self.bar.println(line);
        }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.ticking.abort();
        self.bar.finish_and_clear();
    }
}

async fn tick(bar: ProgressBar, begun: Instant, load: Load) {
    let mut before = 0;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (done, failed) = load.counts();
        bar.set_position(begun.elapsed().as_secs());
        bar.set_message(format!(
            "{done} workflows, {failed} failed, {} per second",
            (done + failed).saturating_sub(before)
        ));
        before = done + failed;
    }
}
