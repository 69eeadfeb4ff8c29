//! The demo: everything for real, step by step, in view.

use std::{
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use keyutil::{pki::Party, program::print_line};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Child,
};

use crate::{
    binaries::Binaries,
    guard::Guard,
    provision::{self, Options, Progress, Terminal},
    refusals::{self, Wrong},
    signal::{self, Signal},
    stack::{Stack, StackOptions},
};

/// For each thing that a program is waited for. Longer than the worker's own grace, and than the
/// connect timeout.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs it, and says on standard output what happens.
///
/// # Errors
/// When anything did not go as it must.
pub async fn run(options: &Options, keep: bool) -> anyhow::Result<()> {
    let progress = Terminal::new();
    let server = provision::temporal_server(options, &progress).await?;
    let guard = Guard::new("temporal-demo-")?;
    if keep {
        guard.keep();
    }
    let binaries = Binaries::build(&guard, &progress).await?;
    progress.step("starting temporal-server");
    let begun = Instant::now();
    let stack = Stack::start(&server, guard, StackOptions::default()).await?;
    drop(progress);
    print_line(format!(
        "temporal-server {} at {}",
        provision::VERSION,
        stack.address()
    ))?;
    print_line("  mTLS required, authorizer and claim mapper `default`, audience checked")?;
    print_line(format!(
        "  namespace `{}` registered with an admin token",
        stack.namespace()
    ))?;

    let worker = start_worker(&stack, &binaries.worker).await?;
    print_line("worker started: client certificate `worker`, tokens minted for its namespace")?;
    run_starter(&stack, &binaries.starter).await?;

    print_line("")?;
    refusals::control(&stack).await?;
    print_line("accepted  right certificate, right token")?;
    let mut surprises = 0;
    for wrong in Wrong::ALL {
        match refusals::attempt(&stack, wrong).await {
            Ok(refused) => {
                print_line(format!("refused   {}", wrong.in_words()))?;
                print_line(format!("          {}", refused.answer))?;
                print_line(format!("          because {}", refused.because))?;
            }
            Err(error) => {
                surprises += 1;
                print_line(format!(
                    "WRONG     {}: {}",
                    wrong.in_words(),
                    keyutil::chain(error.as_ref())
                ))?;
            }
        }
    }
    if surprises > 0 {
        bail!(
            "{surprises} of {} wrong credentials were not refused as they must be",
            Wrong::ALL.len()
        );
    }
    stop_worker(worker).await?;
    print_line("")?;
    print_line(format!(
        "all as it must be, in {:.1} s",
        begun.elapsed().as_secs_f64()
    ))?;
    if keep {
        print_line(format!("kept: {}", stack.guard().folder().display()))?;
    }
    Ok(())
}

async fn start_worker(stack: &Stack, program: &Path) -> anyhow::Result<Child> {
    let mut command = stack.command(program, Party::Worker);
    let mut worker = command
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("failed to start `{}`", program.display()))?;
    let stderr = worker
        .stderr
        .take()
        .context("the worker has no standard error")?;
    let mut lines = BufReader::new(stderr).lines();
    let mut seen = Vec::new();
    while let Some(line) = lines.next_line().await? {
        if line.contains("worker started") {
            // Read on, or a full pipe would stop the worker.
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return Ok(worker);
        }
        seen.push(line);
    }
    bail!(
        "the worker ended before it started to poll:\n{}",
        seen.join("\n")
    )
}

async fn run_starter(stack: &Stack, program: &Path) -> anyhow::Result<()> {
    let mut command = stack.command(program, Party::Starter);
    let output = tokio::time::timeout(LIMIT, command.output())
        .await
        .context("the starter did not end in time")?
        .with_context(|| format!("failed to run `{}`", program.display()))?;
    print_line(String::from_utf8_lossy(&output.stdout).trim_end())?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!("the starter failed ({}):\n{complaint}", output.status);
    }
    Ok(())
}

async fn stop_worker(mut worker: Child) -> anyhow::Result<()> {
    if let Some(id) = worker.id() {
        signal::send(id, Signal::TERM).context("failed to ask the worker to stop")?;
    }
    let ended = tokio::time::timeout(LIMIT, worker.wait()).await;
    let status = ended.context("the worker did not stop")??;
    if !status.success() {
        bail!("the worker did not stop in order: {status}");
    }
    print_line("worker stopped in order, after SIGTERM")?;
    Ok(())
}
