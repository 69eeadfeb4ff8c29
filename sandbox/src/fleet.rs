//! Runs many workers while the server dies and every credential rotates.
//!
//! That one worker recovers shows little. Here the connections, handshakes and polls of many
//! workers reach a server that has just started, and the slowest worker counts.

use std::{
    cell::RefCell,
    convert::Infallible,
    fmt, fs,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, ensure};
use clap::Args;
use futures::{StreamExt, TryStreamExt, future::join_all, stream};
use humantime::parse_duration;
use keyutil::program::print_line;
use keyutil_cli::pki::Party;
use serde::Serialize;
use tokio::time::sleep;

use crate::{
    binaries::Binaries,
    guard::Guard,
    process::WorkerProcess,
    provision::{self, Options, Progress, Terminal},
    rotations::{Credential, Observed, Rotations, seconds},
    soak::{load::InFlight, record::Latency},
    stack::{Stack, StackOptions, connection_age},
};

/// The options of a fleet.
#[derive(Args, Clone, Debug)]
pub struct FleetOptions {
    /// How many workers run
    #[arg(long, default_value = "40", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub workers: u16,

    /// How many workflows are in flight at a time
    #[arg(long, default_value = "20", value_parser = clap::value_parser!(u16).range(1..))]
    pub concurrency: u16,

    /// Time between the death of the server and its next start
    #[arg(long, default_value = "3s", value_name = "DURATION", value_parser = parse_duration)]
    pub outage: Duration,

    /// Life of the tokens that workers and starter mint
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = parse_duration)]
    pub token_lifetime: Duration,

    /// Folder for `fleet.json`
    #[arg(long, default_value = "target/fleet", value_name = "DIR")]
    pub output: PathBuf,
}

/// Every worker must work again within this time after an event.
const WITHIN: Duration = Duration::from_secs(10);

/// The run stops waiting for a worker after this time.
const GIVE_UP: Duration = Duration::from_secs(90);

/// Age at which the server ends a connection.
const CONNECTION_AGE: Duration = Duration::from_secs(5);

/// How often each worker is asked whether it is ready.
const TICK: Duration = Duration::from_millis(250);

/// How many workers start at a time: each takes a good part of a processor for a moment.
const STARTING: usize = 4;

/// Runs a fleet and writes its result.
///
/// # Errors
/// When a workflow failed, or a worker did not work again within 10 s after an event.
pub async fn run(provision: &Options, options: &FleetOptions) -> anyhow::Result<()> {
    fs::create_dir_all(&options.output)
        .with_context(|| format!("failed to make the folder `{}`", options.output.display()))?;
    let progress = Terminal::new();
    let server = provision::temporal_server(provision, &progress).await?;
    let guard = Guard::new("temporal-fleet-")?;
    let binaries = Binaries::build(&guard, &progress).await?;
    progress.step("starting temporal-server");
    let stack_options = StackOptions {
        durable: true,
        // Workers see a new certificate of the server only on a new connection.
        dynamic_config: connection_age(CONNECTION_AGE),
        ..StackOptions::default()
    };
    let mut stack = Stack::start(&server, guard, stack_options).await?;
    progress.step("starting the workers");
    let starts = (0..options.workers)
        .map(|_| WorkerProcess::start(&stack, &binaries.worker, options.token_lifetime));
    let workers: Vec<_> = stream::iter(starts)
        .buffer_unordered(STARTING)
        .try_collect()
        .await?;
    drop(progress);

    let summary = events(&mut stack, &workers, options).await?;
    for worker in workers {
        worker.stop().await?;
    }
    let path = options.output.join("fleet.json");
    fs::write(&path, serde_json::to_string_pretty(&summary)?)
        .with_context(|| format!("failed to write `{}`", path.display()))?;
    print_line(&summary)?;
    print_line(format!("result: {}", path.display()))?;
    ensure!(
        summary.problems.is_empty(),
        "{} problems, see above and `{}`",
        summary.problems.len(),
        path.display()
    );
    Ok(())
}

async fn events(
    stack: &mut Stack,
    workers: &[WorkerProcess],
    options: &FleetOptions,
) -> anyhow::Result<Summary> {
    let mut args = stack.connect_args(Party::Starter);
    args.token.claims.token_lifetime = Some(options.token_lifetime);
    let work = InFlight::start(&args, options.concurrency.into(), Duration::ZERO).await?;
    let (connection, begun) = (&work.connection, work.load.begun());
    let outages = Outages {
        begun,
        seen: RefCell::default(),
    };
    let happening = async {
        let mut events = Vec::new();
        // A worker reports that it has started before its first poll is accepted.
        while !all_ready(workers).await {
            ensure!(begun.elapsed() < GIVE_UP, "not every worker became ready");
            sleep(TICK).await;
        }
        stack.kill_server().await?;
        sleep(options.outage).await;
        stack.start_server().await?;
        let (at, time) = (Instant::now(), SystemTime::now());
        while at.elapsed() < GIVE_UP {
            let statuses = join_all(workers.iter().map(WorkerProcess::status)).await;
            let accepted = |status: anyhow::Result<_>| {
                status.is_ok_and(|status| Observed::worker(status).accepted_since(time))
            };
            if statuses.into_iter().all(accepted) && all_ready(workers).await {
                break;
            }
            sleep(TICK).await;
        }
        events.push(Event {
            what: "server killed",
            at: at - begun,
            seen_after: at.elapsed(),
        });
        let rotations = Rotations::new(stack, workers, connection, options.token_lifetime, begun);
        for credential in Credential::ALL {
            let rotation = rotations.rotate(credential).await?;
            events.push(Event {
                what: credential.name(),
                at: rotation.at,
                seen_after: rotation.seen_after,
            });
        }
        // Effects of the last event may show only later.
        sleep(WITHIN).await;
        anyhow::Ok(events)
    };
    let events = tokio::select! {
        watching = outages.watch(workers) => match watching {},
        events = happening => events?,
    };
    let (_, load) = work.stop().await?;

    let samples = load.samples();
    let (workflows, failed) = load.counts();
    let mut summary = Summary {
        problems: Vec::new(),
        workers: workers.len(),
        duration: begun.elapsed(),
        concurrency: options.concurrency,
        workflows,
        failed,
        latency_ms: Latency::of(&samples),
        events,
        outages: outages.seen.take(),
    };
    let failures = samples
        .iter()
        .filter_map(|sample| sample.failure.as_deref());
    summary.judge(failures);
    Ok(summary)
}

async fn all_ready(workers: &[WorkerProcess]) -> bool {
    let unready = join_all(workers.iter().map(WorkerProcess::unready)).await;
    unready.iter().all(Option::is_none)
}

/// An event, and how long the slowest worker took to work again.
#[derive(Clone, Debug, Serialize)]
struct Event {
    what: &'static str,
    /// When the server was started again, or the new credential was put in place.
    #[serde(serialize_with = "seconds")]
    at: Duration,
    /// How long it took until every worker was ready and had an answer from the server, with the
    /// new credential if there is one.
    #[serde(serialize_with = "seconds")]
    seen_after: Duration,
}

/// A time in which a worker was not ready.
#[derive(Clone, Debug, Serialize)]
struct Outage {
    worker: usize,
    #[serde(serialize_with = "seconds")]
    from: Duration,
    /// When it was last seen not to be ready.
    #[serde(serialize_with = "seconds")]
    until: Duration,
    #[serde(skip)]
    over: bool,
    reasons: String,
}

/// Asks all workers again and again whether they are ready.
struct Outages {
    begun: Instant,
    seen: RefCell<Vec<Outage>>,
}

impl Outages {
    async fn watch(&self, workers: &[WorkerProcess]) -> Infallible {
        loop {
            let unready = join_all(workers.iter().map(WorkerProcess::unready)).await;
            let now = self.begun.elapsed();
            for (worker, reasons) in unready.into_iter().enumerate() {
                let mut seen = self.seen.borrow_mut();
                let open = seen
                    .iter_mut()
                    .find(|outage| outage.worker == worker && !outage.over);
                match (open, reasons) {
                    (Some(outage), Some(_)) => outage.until = now,
                    (Some(outage), None) => outage.over = true,
                    (None, Some(reasons)) => seen.push(Outage {
                        worker,
                        from: now,
                        until: now,
                        over: false,
                        reasons,
                    }),
                    (None, None) => {}
                }
            }
            sleep(TICK).await;
        }
    }
}

#[derive(Clone, Debug, Serialize)]
struct Summary {
    /// What was wrong. Empty if nothing was.
    problems: Vec<String>,
    workers: usize,
    #[serde(serialize_with = "seconds")]
    duration: Duration,
    concurrency: u16,
    workflows: usize,
    failed: usize,
    latency_ms: Latency,
    events: Vec<Event>,
    outages: Vec<Outage>,
}

impl Summary {
    fn judge<'a>(&mut self, failures: impl Iterator<Item = &'a str>) {
        for failure in failures {
            self.problems.push(format!("a workflow failed: {failure}"));
        }
        for event in &self.events {
            if event.seen_after > WITHIN {
                self.problems.push(format!(
                    "{}: the slowest worker took {:.1} s, and the limit is {} s",
                    event.what,
                    event.seen_after.as_secs_f64(),
                    WITHIN.as_secs()
                ));
            }
            let late = |outage: &&Outage| {
                let end = event.at + WITHIN;
                outage.from < end && end < outage.until
            };
            for outage in self.outages.iter().filter(late) {
                self.problems.push(format!(
                    "{}: worker {} was not ready {} s later: {}",
                    event.what,
                    outage.worker,
                    WITHIN.as_secs(),
                    outage.reasons.trim_end()
                ));
            }
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(f, "PROBLEM: {problem}")?;
        }
        writeln!(
            f,
            "{} workers: {} workflows in {:.0} s, {} at a time, {} failed, slowest {} ms",
            self.workers,
            self.workflows,
            self.duration.as_secs_f64(),
            self.concurrency,
            self.failed,
            self.latency_ms.worst
        )?;
        for event in &self.events {
            writeln!(
                f,
                "{}: all workers worked again after {:.1} s",
                event.what,
                event.seen_after.as_secs_f64()
            )?;
        }
        let longest = self.outages.iter().map(|outage| outage.until - outage.from);
        write!(
            f,
            "workers were not ready {} times, for up to {:.1} s",
            self.outages.len(),
            longest.max().unwrap_or_default().as_secs_f64()
        )
    }
}
