//! Whoever renews the token, or keeps the key that signs it, is gone for a while.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::support::{self, InFlight, LIMIT, Observed};
use keyutil_cli::{
    files::{self, Mode},
    pki::Party,
};
use reqwest::StatusCode;
use sandbox::{Stack, StackOptions, guard::Signal};
use secrecy::ExposeSecret;
use tokio::time::sleep;

/// For work to go on after there is a new token. The SDK waits twelve seconds at most
/// before it polls again; the rest is for a busy machine.
const RECOVERY: Duration = Duration::from_secs(30);

/// Of the last token for a while.
const LAST_LIFETIME: Duration = Duration::from_secs(8);

#[tokio::test(flavor = "multi_thread")]
async fn a_token_file_that_is_not_renewed_for_12_s_costs_no_workflow() {
    let stack = support::stack(StackOptions::default()).await;
    let file = renewed(&stack, Duration::from_secs(300));
    let mut worker = support::worker_with_token_file(&stack, &file).await;
    let load = InFlight::start(&stack.connect_args(Party::Starter)).await;

    renewed(&stack, LAST_LIFETIME);
    until_it_says_why(&mut worker, &file).await;
    sleep(Duration::from_secs(12)).await;
    assert_eq!(load.failures(), [""; 0]);
    renewed(&stack, Duration::from_secs(300));
    let back = Instant::now();
    worker.becomes_ready().await;
    load.more(10).await;
    eprintln!("works again {:?} after there was a token", back.elapsed());
    assert!(back.elapsed() < RECOVERY, "{:?}", back.elapsed());

    load.stop().await;
    no_expired_token_was_sent(&stack, &worker).await;
    end(worker).await;
}

/// The SDK ends a worker whose polls are refused for a minute. A call without a token is not sent,
/// and counts as one that did not get through.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_file_that_is_not_renewed_for_75_s_does_not_end_the_worker() {
    let stack = support::stack(StackOptions::default()).await;
    let file = renewed(&stack, Duration::from_secs(300));
    let mut worker = support::worker_with_token_file(&stack, &file).await;
    let load = InFlight::start(&stack.connect_args(Party::Starter)).await;
    load.stop().await;

    renewed(&stack, LAST_LIFETIME);
    until_it_says_why(&mut worker, &file).await;
    sleep(Duration::from_secs(75)).await;
    let (status, reasons) = worker.ready().await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{reasons}");
    renewed(&stack, Duration::from_secs(300));
    let back = Instant::now();
    worker.becomes_ready().await;
    support::assert_greeted(&support::starter(&stack, &[]).await);
    eprintln!("works again {:?} after there was a token", back.elapsed());
    assert!(back.elapsed() < RECOVERY, "{:?}", back.elapsed());

    no_expired_token_was_sent(&stack, &worker).await;
    end(worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_minted_on_while_the_folder_of_the_signing_key_is_gone() {
    let stack = support::stack(StackOptions::default()).await;
    let folder = stack.guard().folder().join("keys");
    fs::create_dir(&folder).unwrap();
    let key = folder.join("signing.pem");
    fs::copy(stack.keyring().current_path(), &key).unwrap();
    let mut command = support::worker_command(&stack).await;
    command
        .env("KEYUTIL_SIGNING_KEY_PATH", &key)
        .env("KEYUTIL_TOKEN_LIFETIME", "3s");
    let worker = Observed::start(&mut command).await;
    worker.becomes_ready().await;
    let load = InFlight::start(&stack.connect_args(Party::Starter)).await;

    fs::rename(&folder, folder.with_extension("aside")).unwrap();
    let minted = |status: &serde_json::Value| status["credentials"]["minting"]["minted"].as_u64();
    let before = worker
        .until("the loss is told", |status| {
            status["credentials"]["signing_key"]["last_failure"].is_object()
        })
        .await;
    worker
        .until("five tokens more", |status| {
            minted(status) >= minted(&before).map(|before| before + 5)
        })
        .await;
    assert_eq!(worker.ready().await.0, StatusCode::OK);
    load.more(50).await;
    fs::rename(folder.with_extension("aside"), &folder).unwrap();
    worker
        .until("the loss is over", |status| {
            status["credentials"]["signing_key"]["last_failure"].is_null()
        })
        .await;

    load.stop().await;
    no_expired_token_was_sent(&stack, &worker).await;
    end(worker).await;
}

/// Writes a new token into the worker's file.
fn renewed(stack: &Stack, lifetime: Duration) -> PathBuf {
    let file = stack.guard().folder().join("token");
    let token = support::token(stack, lifetime);
    files::replace(&file, token.expose_secret().as_bytes(), Mode::Private).unwrap();
    file
}

async fn until_it_says_why(worker: &mut Observed, file: &Path) {
    let reasons = worker.becomes_unready("the token expired at").await;
    let file = file.display().to_string();
    assert!(reasons.contains(&file), "{reasons}");
    // Said at the next look at the file.
    let words = "the credential in use has expired";
    let told = worker.program.wait_for(words, LIMIT).await;
    assert!(told.contains(&file), "{told}");
}

/// `faults_clock.rs` shows that the server would have said so.
async fn no_expired_token_was_sent(stack: &Stack, worker: &Observed) {
    let status = worker.status().await;
    assert_eq!(status["calls"]["refusals"]["count"], 0, "{status:#}");
    let log = stack.server().unwrap().log_tail(usize::MAX).unwrap();
    let expired: Vec<_> = log
        .iter()
        .filter(|line| line.contains("Token is expired"))
        .collect();
    assert!(expired.is_empty(), "{expired:#?}");
}

async fn end(mut worker: Observed) {
    worker.program.signal(Signal::TERM);
    let ended = worker.program.ended(LIMIT).await;
    assert!(ended.success(), "{}", worker.program.log());
}
