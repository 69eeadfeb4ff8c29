//! Nothing is left of a sandbox, however and whenever it ends.
//!
//! Its folders are made in a temporary folder of the test's own, which must be empty in the end; its
//! processes are all that descend from it, and all that share a process group with one of them.

use std::{
    os::unix::process::ExitStatusExt,
    time::{Duration, Instant},
};

use crate::support::{LIMIT, process::Sandbox};
use sandbox::guard::Signal;

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_that_is_let_alone_leaves_nothing() {
    let mut demo = Sandbox::demo().await;
    let status = demo.program.ended(LIMIT).await;
    assert!(status.success(), "{status}\n{}", demo.program.log());
    assert_eq!(demo.program.lines_with("refused   ").len(), 8);
    demo.program.wait_for("all checks passed", LIMIT).await;
    demo.leaves_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_that_is_interrupted_leaves_nothing() {
    a_demo_that_is_ended_leaves_nothing(Signal::INT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_that_is_terminated_leaves_nothing() {
    a_demo_that_is_ended_leaves_nothing(Signal::TERM).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_that_is_killed_leaves_nothing() {
    a_demo_that_is_ended_leaves_nothing(Signal::KILL).await;
}

async fn a_demo_that_is_ended_leaves_nothing(signal: Signal) {
    for (moment, processes) in MOMENTS {
        let mut demo = Sandbox::demo().await;
        if let Some(words) = moment {
            demo.program.wait_for(words, LIMIT).await;
        }
        demo.note_processes().await;
        assert!(demo.noted() >= processes, "{moment:?}: {}", demo.noted());
        let asked = Instant::now();
        demo.program.signal(signal);
        let status = match moment {
            Some(_) => demo.program.ended(LIMIT).await,
            // A signal that the caller of the tests ignores is ignored by the demo, too, until it
            // has a handler.
            None => demo.program.ended_by(signal, LIMIT).await,
        };

        // Right after the start there is no handler for the signal yet.
        let by_the_signal = status.signal() == Some(signal.as_raw());
        match (moment, signal) {
            (_, Signal::KILL) => assert!(by_the_signal, "{status}"),
            (None, _) => assert!(by_the_signal || status.code() == Some(130), "{status}"),
            (Some(_), _) => assert_eq!(status.code(), Some(130), "{}", demo.program.log()),
        }
        demo.leaves_nothing().await;
        assert!(asked.elapsed() < AT_MOST, "{moment:?}");
    }
}

/// At once, and what a demo says when it has come that far; and how many processes it has then, at
/// least: itself, the guard's two shells, the server, the worker.
const MOMENTS: [(Option<&str>, usize); 4] = [
    (None, 1),
    (Some("starting temporal-server"), 3),
    (Some("worker started"), 5),
    (Some("refused   "), 5),
];

/// From the signal to the end of all.
const AT_MOST: Duration = Duration::from_secs(10);
