//! Each reason, alone and together with others, and the moments just before.

use std::time::UNIX_EPOCH;

use super::*;
use crate::{
    diagnosis::{Class, Diagnosis, Step},
    status::{
        CallsStatus, ConnectionStatus, CredentialStatus, CredentialsStatus, Failure, MintingStatus,
        Outcomes, RefusalStatus, RemovedCa, StalledRead,
    },
};

const START: u64 = 1_000_000;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(START + seconds)
}

fn failure(since: u64) -> Option<Failure> {
    Some(Failure {
        reason: "nobody listens".into(),
        since: at(since),
    })
}

/// Connected at second 0, with a poll at second 10.
fn well() -> Status {
    Status {
        target: "temporal:7233".into(),
        namespace: "default".into(),
        phase: Phase::Working { since: at(0) },
        credentials: CredentialsStatus::default(),
        connection: ConnectionStatus::default(),
        calls: CallsStatus {
            polls: Outcomes {
                last_success: Some(at(10)),
                ..Outcomes::default()
            },
            ..CallsStatus::default()
        },
    }
}

fn token(in_use: Option<&str>, valid_until: u64) -> Option<CredentialStatus> {
    Some(CredentialStatus {
        in_use: in_use.map(str::to_owned),
        id: None,
        from: vec!["TOKEN".into()],
        since: None,
        valid_from: None,
        valid_until: Some(at(valid_until)),
        reloads: 0,
        failed_reloads: 0,
        last_failure: None,
        stalled: None,
        warnings: Vec::new(),
    })
}

fn stalled(since: u64) -> Option<StalledRead> {
    Some(StalledRead {
        path: "TOKEN".into(),
        since: at(since),
    })
}

fn minting(last_failure: Option<Failure>) -> Option<MintingStatus> {
    Some(MintingStatus {
        last_failure,
        ..MintingStatus::default()
    })
}

type Change = fn(&mut Status);

/// Name, change, second, and the expected reasons.
const TABLE: &[(&str, Change, u64, &[&str])] = &[
    ("well", |_| (), 20, &[]),
    ("an idle poll", |_| (), 110, &[]),
    (
        "no poll for long",
        |_| (),
        111,
        &["for 1m 41s: the last one was at 1970-01-12T13:46:50.000Z"],
    ),
    (
        "a poll in progress after an outage",
        |status| status.calls.poll_accepted = Some(at(105)),
        200,
        &[],
    ),
    (
        "no poll yet",
        |status| status.calls.polls.last_success = None,
        100,
        &[],
    ),
    (
        "never a poll",
        |status| status.calls.polls.last_success = None,
        101,
        &["there was none"],
    ),
    (
        "connecting",
        |status| status.phase = Phase::Connecting { last_attempt: None },
        1000,
        &["connecting to `temporal:7233`"],
    ),
    (
        "connecting in vain",
        |status| {
            status.phase = Phase::Connecting {
                last_attempt: Some("nobody listens".into()),
            }
        },
        0,
        &["connecting to `temporal:7233`: nobody listens"],
    ),
    (
        "stopping",
        |status| status.phase = Phase::Stopping,
        1000,
        &["stopping"],
    ),
    (
        "a reconnect",
        |status| status.connection.last_failure = failure(15),
        20,
        &[],
    ),
    (
        "no connection",
        |status| status.connection.last_failure = failure(15),
        21,
        &["the connection has been failing since 1970-01-12T13:46:55.000Z, 6s: nobody listens"],
    ),
    (
        "a clock that was set back",
        |status| status.connection.last_failure = failure(500),
        20,
        &[],
    ),
    (
        "a CA that was removed",
        |status| status.connection.removed_ca = Some(removed_ca(300)),
        50,
        &[
            "the server is verified with a CA that is no longer in `ca.crt`, and will be refused in \
           4m 10s: `CN=ca`; the connection with the new content of the file failed: nobody \
           listens",
        ],
    ),
    (
        "the same, distrusted",
        |status| status.connection.removed_ca = Some(removed_ca(40)),
        50,
        &[
            "the server was last verified with a CA that is no longer in `ca.crt`, and has been \
           refused since 1970-01-12T13:47:20Z: `CN=ca`",
        ],
    ),
    (
        "a token from a file",
        |status| status.credentials.token = token(Some("kid"), 21),
        20,
        &[],
    ),
    (
        "the same, expired",
        |status| status.credentials.token = token(Some("kid"), 20),
        20,
        &["the token expired at 1970-01-12T13:47:00.000Z, and TOKEN is never renewed"],
    ),
    (
        "the same from a file",
        |status| {
            status.credentials.token = token(Some("kid"), 20);
            let token = status.credentials.token.as_mut().unwrap();
            token.since = Some(at(0));
        },
        20,
        &["the token expired at 1970-01-12T13:47:00.000Z, and `TOKEN` contains no newer one"],
    ),
    (
        "the same from a file that is broken",
        |status| {
            status.credentials.token = token(Some("kid"), 20);
            let token = status.credentials.token.as_mut().unwrap();
            (token.since, token.last_failure) = (Some(at(0)), failure(10));
        },
        20,
        &["Z, and the newer content is unusable: nobody listens"],
    ),
    (
        "the same from a file that hangs",
        |status| {
            status.credentials.token = token(Some("kid"), 20);
            let token = status.credentials.token.as_mut().unwrap();
            (token.since, token.stalled) = (Some(at(0)), stalled(15));
        },
        20,
        &["Z, and `TOKEN` could not be read since 1970-01-12T13:46:55Z: its file system"],
    ),
    (
        "a file that hangs for less than the limit",
        |status| {
            status.credentials.server_ca = token(Some("CN=ca"), 100);
            status.credentials.server_ca.as_mut().unwrap().stalled = stalled(10);
        },
        39,
        &[],
    ),
    (
        "the same a second later",
        |status| {
            status.credentials.server_ca = token(Some("CN=ca"), 100);
            status.credentials.server_ca.as_mut().unwrap().stalled = stalled(10);
        },
        40,
        &["`TOKEN` could not be read for 30s: its file system does not answer"],
    ),
    (
        "a minted token that expired while nothing was called",
        |status| {
            status.credentials.token = token(Some("kid"), 15);
            status.credentials.minting = minting(None);
        },
        20,
        &[],
    ),
    (
        "minting fails, and the token in use is good",
        |status| {
            status.credentials.token = token(Some("kid"), 30);
            status.credentials.minting = minting(failure(16));
        },
        20,
        &[],
    ),
    (
        "minting fails, and there is no token",
        |status| {
            status.credentials.token = token(None, 30);
            status.credentials.minting = minting(failure(16));
        },
        20,
        &["minting tokens has been failing since 1970-01-12T13:46:56.000Z: nobody listens"],
    ),
    (
        "a refusal, at once",
        |status| status.calls.refusals = refused(20),
        20,
        &["calls have been refused since 1970-01-12T13:47:00.000Z, 0s: not you"],
    ),
    (
        "refusals that are over",
        |status| {
            status.calls.refusals = RefusalStatus {
                refusing_since: None,
                ..refused(15)
            }
        },
        20,
        &[],
    ),
    (
        "everything together",
        |status| {
            status.phase = Phase::Stopping;
            status.connection.last_failure = failure(10);
            status.credentials.token = token(Some("kid"), 15);
            status.calls.refusals = refused(15);
        },
        20,
        &[
            "stopping",
            "the connection",
            "the token expired",
            "calls have been refused",
        ],
    ),
];

fn removed_ca(refused_at: u64) -> RemovedCa {
    RemovedCa {
        ca: "`CN=ca`".into(),
        file: "ca.crt".into(),
        removed_at: at(0),
        refused_at: at(refused_at),
        reason: Some("nobody listens".into()),
    }
}

fn refused(since: u64) -> RefusalStatus {
    RefusalStatus {
        count: 1,
        last: Some(Diagnosis {
            step: Step::Token,
            class: Class::Token,
            cause: "not you".into(),
            hint: None,
        }),
        last_at: Some(at(since)),
        refusing_since: Some(at(since)),
    }
}

#[test]
fn every_reason_is_given_and_none_too_early() {
    for (name, change, second, expected) in TABLE {
        let mut status = well();
        change(&mut status);
        let reasons = readiness(&status, at(*second)).err().unwrap_or_default();
        assert_eq!(reasons.len(), expected.len(), "{name}: {reasons:?}");
        for (reason, words) in reasons.iter().zip(*expected) {
            assert!(reason.contains(words), "{name}: {reason}");
        }
    }
}
