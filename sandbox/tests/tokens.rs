//! Tokens are replaced while work is running, wherever they come from.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use keyutil::{
    files::{self, Mode},
    jwt::keyring::read_signing_key,
};
use sandbox::{Stack, StackOptions};
use secrecy::ExposeSecret;
use support::LIMIT;
use tokio::process::Command;

mod support;

#[tokio::test(flavor = "multi_thread")]
async fn minted_tokens_are_renewed_before_they_expire() {
    let stack = support::stack(StackOptions::default()).await;
    let mut command = support::worker_command(&stack).await;
    command.env("KEYUTIL_TOKEN_LIFETIME", "3s");
    command.env("RUST_LOG", "info,keyutil=debug");
    let worker = support::polling(&mut command).await;

    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(10) {
        let mut starter = support::starter_command(&stack).await;
        starter.env("KEYUTIL_TOKEN_LIFETIME", "3s");
        starter.args(["--count", "50", "--concurrency", "5"]);
        support::assert_all_greeted(&support::run(&mut starter).await, 50);
    }

    // Due after two seconds each.
    assert!(
        worker.lines_with("token minted").len() >= 4,
        "{}",
        worker.log()
    );
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_file_is_followed_and_garbage_in_it_is_reported_and_not_used() {
    let stack = support::stack(StackOptions::default()).await;
    // Garbage is reported when it was seen twice, which takes two to three seconds.
    let lifetime = Duration::from_secs(20);
    let file = stack.guard().folder().join("token");
    write(&file, support::token(&stack, lifetime).expose_secret());
    let first_written = Instant::now();
    let mut command = support::worker_command(&stack).await;
    without_key(&mut command).env("KEYUTIL_TOKEN_FILE", &file);
    let mut worker = support::polling(&mut command).await;

    let mut reports = 0;
    let mut garbage = ["", "garbage", "garbage in\ntwo lines"].into_iter().cycle();
    while first_written.elapsed() < lifetime + Duration::from_secs(2) {
        support::assert_all_greeted(&starter(&stack).await, 10);

        write(&file, garbage.next().unwrap());
        let report = worker
            .wait_for("the new credential is unusable", LIMIT)
            .await;
        assert!(report.contains("kept the one in use"), "{report}");
        assert!(report.contains(&file.display().to_string()), "{report}");
        reports += 1;
        support::assert_all_greeted(&starter(&stack).await, 10);

        write(&file, support::token(&stack, lifetime).expose_secret());
        worker.wait_for("credential replaced", LIMIT).await;
    }
    support::assert_all_greeted(&starter(&stack).await, 10);

    assert!(reports >= 3, "{reports}");
    // Nothing else went wrong.
    assert_eq!(worker.complaints().len(), reports, "{}", worker.log());
    assert!(
        !worker.log().contains("eyJ"),
        "a token is shown:\n{}",
        worker.log()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fixed_token_does_as_long_as_it_lives() {
    let stack = support::stack(StackOptions::default()).await;
    let token = support::token(&stack, Duration::from_secs(300));
    let mut command = support::worker_command(&stack).await;
    without_key(&mut command).env("TEMPORAL_API_KEY", token.expose_secret());
    let worker = support::polling(&mut command).await;

    let mut starter = support::starter_command(&stack).await;
    without_key(&mut starter).env("TEMPORAL_API_KEY", token.expose_secret());
    support::assert_greeted(&support::run(&mut starter).await);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_signing_key_signs_from_then_on() {
    let stack = support::stack(StackOptions::default()).await;
    let keyring = stack.keyring();
    let next = read_signing_key(&keyring.next_path()).unwrap();
    let mut worker = support::worker(&stack).await;

    let mut command = support::starter_command(&stack).await;
    let load = support::run(command.args(["--count", "300", "--concurrency", "10"]));
    let replacement = async {
        let pem = fs::read(keyring.next_path()).unwrap();
        files::replace(&keyring.current_path(), &pem, Mode::Private).unwrap();
        worker.wait_for("credential replaced", LIMIT).await
    };
    let (output, line) = tokio::join!(load, replacement);

    support::assert_all_greeted(&output, 300);
    let (_, now) = line.split_once("now=").unwrap();
    assert!(now.contains(next.kid()), "{line}");
    support::assert_greeted(&support::starter(&stack, &[]).await);
    worker.stop().await;
}

fn write(file: &Path, content: &str) {
    files::replace(file, content.as_bytes(), Mode::Private).unwrap();
}

fn without_key(command: &mut Command) -> &mut Command {
    command.env_remove("KEYUTIL_SIGNING_KEY_PATH");
    command.env_remove("KEYUTIL_AUDIENCE")
}

async fn starter(stack: &Stack) -> std::process::Output {
    support::starter(stack, &["--count", "10"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_is_logged_however_much_is_logged() {
    let stack = support::stack(StackOptions::default()).await;
    let token = support::token(&stack, Duration::from_secs(300));
    let mut command = support::worker_command(&stack).await;
    command.env("RUST_LOG", "trace");
    let worker = support::polling(&mut command).await;
    let mut command = support::starter_command(&stack).await;
    without_key(&mut command)
        .env("TEMPORAL_API_KEY", token.expose_secret())
        .env("RUST_LOG", "trace");
    let output = support::run(&mut command).await;

    support::assert_greeted(&output);
    for log in [worker.log(), support::stderr(&output)] {
        assert!(log.contains("TLS handshake"), "nothing was logged");
        // How every JWT and every PEM begins.
        for secret in ["eyJ", "-----BEGIN"] {
            let shown: Vec<_> = log.lines().filter(|line| line.contains(secret)).collect();
            assert!(shown.is_empty(), "{shown:?}");
        }
    }
}
