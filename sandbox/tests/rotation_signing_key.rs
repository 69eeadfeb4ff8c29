//! The key that signs tokens rotates under a worker at work.

use std::{
    fs,
    future::Future,
    time::{Duration, SystemTime},
};

use crate::support::{self, InFlight, LIMIT};
use keyutil::token::SigningKey;
use keyutil_cli::{
    keys::keyring::{
        Keyring, KeyringError, Rotated, RotationPolicy, RotationTimes, read_signing_key,
    },
    pki::{Layout, Party},
};
use sandbox::{Stack, StackOptions, rotations::accepts_token_of, stack::REFRESH};

/// What worker and starter are told, so that an old key can be seen to be removed.
const TOKEN_LIFETIME: Duration = Duration::from_secs(4);

fn policy() -> RotationPolicy {
    let times = RotationTimes {
        refresh_interval: REFRESH,
        token_lifetime: TOKEN_LIFETIME,
        clock_skew: Duration::from_secs(1),
        // Endpoint and signers look once a second.
        propagation: Duration::from_secs(2),
    };
    RotationPolicy::new(times, None).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn in_turn_nothing_fails_and_the_old_key_is_refused_afterwards() {
    let stack = support::stack(StackOptions::default()).await;
    let ring = stack.keyring();
    let old = read_signing_key(&ring.current_path()).unwrap();
    let mut command = support::worker_command(&stack).await;
    command.env("KEYUTIL_TOKEN_LIFETIME", format!("{TOKEN_LIFETIME:?}"));
    let mut worker = support::polling(&mut command).await;

    // While both are valid.
    let rotated = under_load(&stack, rotate(&ring)).await;
    assert_eq!(rotated.before.as_deref(), Some(old.kid()));
    let line = worker.wait_for("credential replaced", LIMIT).await;
    let now = format!("now=\"kid {}\"", rotated.now);
    assert!(line.contains(&now), "{line}");
    accepts_token_of(&stack, &old).await.unwrap();

    // From here on only a token with the new kid can be accepted.
    under_load(&stack, async {
        while !ring
            .retire(&policy(), SystemTime::now)
            .unwrap()
            .contains(&old.kid().to_owned())
        {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        until_refused(&stack, &old).await;
    })
    .await;
    under_load(&stack, async {}).await;
    let new = read_signing_key(&ring.current_path()).unwrap();
    accepts_token_of(&stack, &new).await.unwrap();
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_an_emergency_the_dropped_key_is_refused_within_a_refresh() {
    let stack = support::stack(StackOptions::default()).await;
    let ring = stack.keyring();
    let stolen = read_signing_key(&ring.current_path()).unwrap();
    let worker = support::worker(&stack).await;
    support::assert_greeted(&support::starter(&stack, &[]).await);

    let rotated = ring.rotate_in_emergency(None, SystemTime::now).unwrap();

    assert_eq!(rotated.removed, [stolen.kid()]);
    until_refused(&stack, &stolen).await;
    // Whoever mints has followed.
    support::assert_greeted(&support::starter(&stack, &[]).await);
    drop(worker);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_key_changes_nothing_and_is_reported() {
    let stack = support::stack(StackOptions::default()).await;
    let path = stack.keyring().current_path();
    let good = fs::read(&path).unwrap();
    let certificate =
        fs::read(Layout::new(&stack.certs()).party(Party::Worker).certificate).unwrap();
    let mut worker = support::worker(&stack).await;

    let bad: [&[u8]; 4] = [b"garbage", &good[..good.len() / 2], b"", &certificate];
    for content in bad {
        fs::write(&path, content).unwrap();
        let report = worker
            .wait_for("the new credential is unusable", LIMIT)
            .await;
        assert!(report.contains("credential=\"signing key\""), "{report}");
        assert!(report.contains("kept the one in use"), "{report}");
        // The worker signs on; the starter would not start with such a key.
        let mut starter = support::starter_command(&stack).await;
        starter.env("KEYUTIL_SIGNING_KEY_PATH", write_beside(&stack, &good));
        support::assert_greeted(&support::run(&mut starter).await);
    }

    fs::write(&path, &good).unwrap();
    support::assert_greeted(&support::starter(&stack, &[]).await);
    assert_eq!(worker.complaints().len(), bad.len(), "{}", worker.log());
}

fn write_beside(stack: &Stack, key: &[u8]) -> std::path::PathBuf {
    let path = stack.guard().folder().join("starter.pem");
    fs::write(&path, key).unwrap();
    path
}

/// Does it while workflows are in flight, of which none may fail.
async fn under_load<T>(stack: &Stack, meanwhile: impl Future<Output = T>) -> T {
    let mut args = stack.connect_args(Party::Starter);
    args.token.claims.token_lifetime = Some(TOKEN_LIFETIME);
    let load = InFlight::start(&args).await;
    let done = meanwhile.await;
    load.stop().await;
    done
}

async fn rotate(ring: &Keyring) -> Rotated {
    loop {
        match ring.rotate(&policy(), SystemTime::now) {
            Err(KeyringError::TooEarly { left, .. }) => tokio::time::sleep(left).await,
            rotated => return rotated.unwrap(),
        }
    }
}

async fn until_refused(stack: &Stack, key: &SigningKey) {
    let refused = tokio::time::timeout(LIMIT, async {
        loop {
            match accepts_token_of(stack, key).await {
                Ok(()) => tokio::time::sleep(Duration::from_millis(100)).await,
                Err(error) => return error,
            }
        }
    });
    let error = refused.await.unwrap();
    assert!(
        matches!(error, keyutil::ConnectError::Refused { .. }),
        "{error}"
    );
}
