//! Clocks that differ. `faketime` gives our programs another one than the server's.

use super::{
    case::{
        Attempt, Case,
        Cause::Told,
        Row,
        Starter::{KnowsLess, Same},
    },
    client_certificate::{issued, present},
    world::{World, seconds},
};

pub const ROWS: &[Row] = &[
    Row {
        message: "the clock of the server is … behind the local clock",
        exit_code: 80,
        cause: "the clock of this machine is ahead, or the server's is behind: tokens are not \
                valid there yet",
        advice: "correct the clock that is wrong. Worker and starter cannot distinguish it from a \
                 key that the server does not know; `keyutil doctor` measures it, with the \
                 signing key",
        cases: &[Case {
            name: "the clock of this machine is ten minutes ahead of the server's",
            step: Some("clock"),
            starter: KnowsLess,
            cause: Told(|world, attempt| at(world, attempt, 600)),
        }],
    },
    Row {
        message: "the clock of the server is … ahead of the local clock",
        exit_code: 80,
        cause: "the clock of this machine is behind, or the server's is ahead: tokens have \
                expired there",
        advice: "the same",
        cases: &[Case {
            name: "the clock of this machine is two minutes behind the server's",
            step: Some("clock"),
            starter: KnowsLess,
            cause: Told(|world, attempt| {
                at(world, attempt, -120).with("KEYUTIL_TOKEN_LIFETIME", "30s")
            }),
        }],
    },
    Row::elsewhere(
        "failed to verify the certificate of … is not valid before",
        76,
        &[Case {
            name: "the clock of this machine is so far behind that no certificate is valid yet",
            step: Some("server_tls"),
            starter: Same,
            cause: Told(|world, attempt| {
                let leaf = issued(world, seconds(-36000, 3600));
                at(world, present(attempt, &leaf), -7200)
            }),
        }],
    ),
];

/// Our programs go by a clock that differs by so many seconds.
pub fn at(world: &World, attempt: Attempt, seconds: i64) -> Attempt {
    let Some(library) = &world.faketime else {
        return attempt.skipped("`faketime` is not installed");
    };
    attempt
        .with("LD_PRELOAD", library)
        .with("FAKETIME", format!("{seconds:+}s"))
        .with("FAKETIME_DONT_FAKE_MONOTONIC", "1")
}
