//! Tokens are replaced while work is running, wherever they come from.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use crate::support::{self, InFlight, LIMIT, Program};
use keyutil::token::{ClaimsTemplate, Permission, SigningKey, signing_key};
use keyutil_cli::{
    files::{self, Mode},
    keys::keyring::read_signing_key,
    pki::Party,
};
use sandbox::{Stack, StackOptions, stack::AUDIENCE};
use secrecy::{ExposeSecret, SecretString};
use tokio::process::Command;

#[tokio::test(flavor = "multi_thread")]
async fn minted_tokens_are_renewed_before_they_expire() {
    let stack = support::stack(StackOptions::default()).await;
    let mut command = support::worker_command(&stack).await;
    command.env("KEYUTIL_TOKEN_LIFETIME", "3s");
    command.env("RUST_LOG", "info,keyutil=debug");
    let mut worker = support::polling(&mut command).await;
    let mut args = stack.connect_args(Party::Starter);
    args.token.claims.token_lifetime = Some(Duration::from_secs(3));
    let load = InFlight::start(&args).await;

    // Due after two seconds each.
    for _ in 0..4 {
        worker.wait_for("token minted", LIMIT).await;
    }
    load.stop().await;
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
    while first_written.elapsed() < lifetime + Duration::from_secs(2) || reports < 3 {
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

    // Nothing else went wrong.
    assert_eq!(worker.complaints().len(), reports, "{}", worker.log());
    assert!(
        !worker.log().contains("eyJ"),
        "a token is shown:\n{}",
        worker.log()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_our_side_can_tell_of_a_bad_token_keeps_it_from_being_used() {
    let stack = support::stack(StackOptions::default()).await;
    let file = stack.guard().folder().join("token");
    let good = support::token(&stack, Duration::from_secs(300));
    write(&file, good.expose_secret());
    let mut worker = following(&stack, &file).await;
    let load = InFlight::start(&stack.connect_args(Party::Starter)).await;

    let expired = minted(&stack, &signing_key(&stack), SystemTime::now() - HOUR);
    let half = &good.expose_secret()[..good.expose_secret().len() / 2];
    let bad = [expired.expose_secret(), half, "", "garbage", "two words"];
    for (content, words) in bad.iter().zip([
        "expired at",
        "not a JWT",
        "is empty",
        "not a JWT",
        "white space",
    ]) {
        write(&file, content);
        let report = worker.wait_for("the new credential is unusable", LIMIT);
        let report = report.await;
        assert!(report.contains("kept the one in use"), "{report}");
        assert!(report.contains(words), "no {words} in {report}");
        load.more(20).await;
    }
    assert_eq!(worker.complaints().len(), bad.len(), "{}", worker.log());

    write(&file, support::token(&stack, HOUR).expose_secret());
    worker.wait_for("credential replaced", LIMIT).await;
    load.stop().await;
    assert_eq!(worker.complaints().len(), bad.len(), "{}", worker.log());
}

/// Whether a signature is good, or a clock ahead, the server alone can tell: it does so at once, and
/// goes on doing so until a good one is there. No workflow fails within that time.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_only_the_server_can_tell_to_be_bad_is_reported_and_made_good_by_the_next() {
    let stack = support::stack(StackOptions::default()).await;
    let file = stack.guard().folder().join("token");
    write(&file, support::token(&stack, HOUR).expose_secret());
    let worker = following(&stack, &file).await;
    let url = health(&worker);
    let load = InFlight::start(&stack.connect_args(Party::Starter)).await;

    let unpublished = signing_key::generate_pem().unwrap();
    let unpublished = SigningKey::from_pem(unpublished.expose_secret().as_bytes()).unwrap();
    let now = SystemTime::now();
    for (bad, words) in [
        (minted(&stack, &unpublished, now), unpublished.kid()),
        (
            minted(&stack, &signing_key(&stack), now + HOUR),
            "not valid",
        ),
    ] {
        write(&file, bad.expose_secret());
        let reasons = until_ready(&url, false).await;
        assert!(
            reasons.contains("calls have been refused since"),
            "{reasons}"
        );
        assert!(reasons.contains(words), "no {words} in {reasons}");

        write(&file, support::token(&stack, HOUR).expose_secret());
        until_ready(&url, true).await;
        load.more(20).await;
    }
    load.stop().await;
}

/// A worker that reads its token from this file.
async fn following(stack: &Stack, file: &Path) -> Program {
    let mut command = support::worker_command(stack).await;
    without_key(&mut command).env("KEYUTIL_TOKEN_FILE", file);
    command.args(["--health-listen", "127.0.0.1:0"]);
    support::polling(&mut command).await
}

fn health(worker: &Program) -> String {
    let lines = worker.lines_with("health endpoint listening");
    let (_, address) = lines[0].split_once("address=").unwrap();
    format!("http://{}/readyz", address.trim())
}

/// Waits until the worker is ready, or until it is not, and gives back what it says.
async fn until_ready(url: &str, expected: bool) -> String {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let begun = Instant::now();
    loop {
        let answer = client.get(url).send().await.unwrap();
        let ready = answer.status().is_success();
        let told = answer.text().await.unwrap();
        if ready == expected {
            return told;
        }
        assert!(begun.elapsed() < LIMIT, "{told}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn signing_key(stack: &Stack) -> SigningKey {
    read_signing_key(&stack.keyring().current_path()).unwrap()
}

/// For five minutes from `time`.
fn minted(stack: &Stack, key: &SigningKey, time: SystemTime) -> SecretString {
    let claims = ClaimsTemplate {
        kid: None,
        subject: "somebody".to_owned(),
        permissions_claim: Default::default(),
        audience: Some(AUDIENCE.to_owned()),
        permissions: vec![Permission::write(stack.namespace())],
        lifetime: Duration::from_secs(300),
    };
    key.mint(&claims.at(time)).unwrap()
}

const HOUR: Duration = Duration::from_secs(3600);

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

    let load = InFlight::start(&stack.connect_args(Party::Starter)).await;
    let pem = fs::read(keyring.next_path()).unwrap();
    files::replace(&keyring.current_path(), &pem, Mode::Private).unwrap();
    let line = worker.wait_for("credential replaced", LIMIT).await;
    load.stop().await;

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
