//! The demo: each step runs against the real server and prints its result.

use std::{
    path::Path,
    slice,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use keyutil::program::print_line;
use keyutil_cli::pki::Party;

use crate::{
    binaries::Binaries,
    guard::Guard,
    process::{LIMIT, WorkerProcess},
    provision::{self, Options, Progress, Terminal},
    refusals::{self, Wrong},
    rotations::{Credential, Rotation, Rotations},
    soak::load::InFlight,
    stack::{Stack, StackOptions, connection_age},
};

/// Short: the demo waits for a renewed token and for the removal of the old key.
const TOKEN_LIFETIME: Duration = Duration::from_secs(6);

/// How many workflows are in flight while credentials rotate.
const CONCURRENCY: u32 = 10;

/// Runs the demo and prints each step.
///
/// # Errors
/// When a step fails or a wrong credential is accepted.
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
    let options = StackOptions {
        // New connections show the new certificate of the server soon.
        dynamic_config: connection_age(Duration::from_secs(2)),
        ..StackOptions::default()
    };
    let stack = Stack::start(&server, guard, options).await?;
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

    let worker = WorkerProcess::start(&stack, &binaries.worker, TOKEN_LIFETIME).await?;
    print_line("worker started: client certificate `worker`, tokens minted for its namespace")?;
    run_starter(&stack, &binaries.starter).await?;

    print_line("")?;
    refusals::control(&stack).await?;
    print_line("accepted  right certificate, right token")?;
    let mut surprises = 0;
    for wrong in Wrong::ALL {
        match refusals::attempt(&stack, wrong).await {
            Ok(refused) => {
                print_line(format!("refused   {}", wrong.description()))?;
                print_line(format!("          {}", refused.answer))?;
                print_line(format!("          because {}", refused.because))?;
            }
            Err(error) => {
                surprises += 1;
                print_line(format!(
                    "WRONG     {}: {}",
                    wrong.description(),
                    keyutil::chain(error.as_ref())
                ))?;
            }
        }
    }
    if surprises > 0 {
        bail!(
            "{surprises} of {} wrong credentials were not refused for the expected reason",
            Wrong::ALL.len()
        );
    }
    print_line("")?;
    rotate_all(&stack, &worker).await?;
    worker.stop().await?;
    print_line("worker shut down gracefully after SIGTERM")?;
    print_line("")?;
    print_line(format!(
        "all checks passed in {:.1} s",
        begun.elapsed().as_secs_f64()
    ))?;
    if keep {
        print_line(format!("kept: {}", stack.guard().folder().display()))?;
    }
    Ok(())
}

/// All five at once, while workflows run: the CAs have waits in between.
async fn rotate_all(stack: &Stack, worker: &WorkerProcess) -> anyhow::Result<()> {
    let mut args = stack.connect_args(Party::Starter);
    args.token.claims.token_lifetime = Some(TOKEN_LIFETIME);
    let work = InFlight::start(&args, CONCURRENCY, Duration::ZERO).await?;
    let begun = work.load.begun();
    print_line(format!(
        "workflows run, {CONCURRENCY} at a time, while every credential is replaced"
    ))?;
    let rotations = Rotations::new(
        stack,
        slice::from_ref(worker),
        &work.connection,
        TOKEN_LIFETIME,
        begun,
    );
    let one = async |credential| print_rotation(&rotations.rotate(credential).await?);
    // The client CA makes client certificates too, so these two go one after the other.
    let clients = async {
        one(Credential::ClientCertificate).await?;
        one(Credential::ClientCa).await
    };
    let rotated = tokio::try_join!(
        one(Credential::Token),
        one(Credential::SigningKey),
        clients,
        one(Credential::FrontendCa),
    );
    let (_, load) = work.stop().await?;
    rotated?;
    let (done, failed) = load.counts();
    print_line(format!(
        "{done} workflows ran meanwhile in {:.1} s, {failed} failed",
        begun.elapsed().as_secs_f64()
    ))?;
    if failed > 0 {
        let samples = load.samples();
        let why = samples.into_iter().find_map(|sample| sample.failure);
        bail!("{failed} workflows failed: {}", why.unwrap_or_default());
    }
    Ok(())
}

fn print_rotation(rotation: &Rotation) -> anyhow::Result<()> {
    print_line(format!(
        "rotated   {}, in use after {:.1} s",
        rotation.credential.name(),
        rotation.seen_after.as_secs_f64()
    ))?;
    print_line(format!("          {} -> {}", rotation.before, rotation.now))?;
    print_line(format!("          {}", rotation.seen))?;
    Ok(())
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
