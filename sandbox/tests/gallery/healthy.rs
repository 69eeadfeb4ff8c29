//! Nothing fails: each step passes, within a short time.

use std::time::{Duration, Instant};

use super::{case::Attempt, redact::redact, world::World};
use crate::support;

/// For the whole command, also on a busy machine.
const AT_MOST: Duration = Duration::from_secs(2);

/// A stack with a worker, seen by the starter.
pub async fn is_well() {
    let world = World::new().await;
    let _worker = support::worker(&world.stack).await;
    let attempt = Attempt::new(world.stack.guard().folder().join("healthy"));
    let keyutil = &support::binaries().await.keyutil;
    let mut command = world.command(keyutil, &attempt);
    command
        .args(["doctor", "--as", "starter"])
        .args(["--server-audience", sandbox::stack::AUDIENCE])
        .args(["--jwks", world.stack.jwks_uri()]);
    let begun = Instant::now();
    let output = support::run(&mut command).await;
    let took = begun.elapsed();

    support::assert_success(&output);
    let log = support::stderr(&output);
    assert!(!log.contains(" WARN ") && !log.contains(" ERROR "), "{log}");
    let told = support::stdout(&output);
    let lines = told.lines().filter(|line| !line.starts_with(' '));
    let marks: Vec<_> = lines
        .map(|line| line.split_once("  ").map_or(line, |(mark, _)| mark).trim())
        .collect();
    assert!(marks.iter().all(|mark| *mark == "ok"), "{told}");
    for step in keyutil::diagnosis::Step::ALL {
        assert!(
            told.contains(&format!("ok       {step:<14} ")),
            "{step}: {told}"
        );
    }
    assert!(!told.contains("eyJ"), "{told}");
    eprintln!("`keyutil doctor` took {took:?}");
    assert!(took < AT_MOST, "{took:?}");

    let folder = world.stack.certs().display().to_string();
    // In the identity of a worker, `pid@host`.
    let host = gethostname::gethostname().to_string_lossy().into_owned();
    let known = [(folder, "certs"), (host, "[HOST]")];
    let shown: Vec<_> = redact(&told, &known)
        .lines()
        .filter(|line| !line.trim_start().starts_with("claims "))
        .map(str::to_owned)
        .collect();
    super::show::compare("healthy", &(shown.join("\n") + "\n"));
}

/// The same stack without a token: in text, where the others are read as JSON.
pub async fn is_ill() {
    let world = World::new().await;
    let attempt = Attempt::new(world.stack.guard().folder().join("ill")).without_token();
    let keyutil = &support::binaries().await.keyutil;
    let output = support::run(world.command(keyutil, &attempt).arg("doctor")).await;
    let (told, log) = (support::stdout(&output), support::stderr(&output));
    assert_eq!(output.status.code(), Some(80), "{told}\n{log}");
    let failed = "\nFAILED   token          no token was sent, and this server requires one\n";
    let (_, below) = told.split_once(failed).unwrap();
    assert!(below.trim_start().starts_with("hint: "), "{told}");
    assert!(
        below.contains("\nskipped  permission     unknown: "),
        "{told}"
    );
    let words = "keyutil: token: no token was sent, and this server requires one\n";
    assert!(log.ends_with(words), "{log}");
}
