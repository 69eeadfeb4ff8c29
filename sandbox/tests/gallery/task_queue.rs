//! Nobody polls the task queue.

use std::time::Instant;

use futures::FutureExt;

use super::{
    case::{
        Attempt, Case,
        Cause::{Made, Told},
        Row,
        Starter::NotRun,
    },
    world::World,
};
use crate::support::{self, LIMIT};

pub const ROWS: &[Row] = &[
    Row {
        message: "nobody polls the task queue …",
        exit_code: 82,
        cause: "no worker polls the task queue in this namespace",
        advice: "start one; compare `--task-queue` and `--namespace` on both sides. \
                 `keyutil doctor --as starter` names the queues that are polled",
        cases: &[
            Case {
                name: "no worker",
                step: Some("task_queue"),
                starter: NotRun,
                cause: Told(|_, attempt| {
                    attempt.asking(["--as", "starter", "--task-queue", "nobodys"])
                }),
            },
            Case {
                name: "a worker on another task queue",
                step: Some("task_queue"),
                starter: NotRun,
                cause: Made(|world, attempt| elsewhere(world, attempt).boxed_local()),
            },
        ],
    },
    Row::elsewhere(
        "nobody polls the task queue …",
        0,
        &[Case {
            name: "no worker, for whoever does not say what he is",
            step: Some("task_queue"),
            starter: NotRun,
            cause: Told(|_, attempt| attempt.asking(["--task-queue", "nobodys"])),
        }],
    ),
];

async fn elsewhere(world: &World, attempt: Attempt) -> Attempt {
    let mut command = support::worker_command(&world.stack).await;
    command.args(["--task-queue", "another"]);
    let worker = support::polling(&mut command).await;
    until_known(world, &attempt).await;
    attempt
        .holding(worker)
        .asking(["--as", "starter", "--task-queue", "hello"])
}

/// Waits until the worker has told the server of itself: at once, or a minute later, when the SDK
/// tells for the first time before it knows of the worker.
async fn until_known(world: &World, attempt: &Attempt) {
    let keyutil = &support::binaries().await.keyutil;
    let begun = Instant::now();
    loop {
        let mut command = world.command(keyutil, attempt);
        let output = support::run(command.args(["doctor", "--task-queue", "nobodys"])).await;
        if support::stdout(&output).contains("`another`") {
            return;
        }
        assert!(begun.elapsed() < 2 * LIMIT, "{output:?}");
    }
}
