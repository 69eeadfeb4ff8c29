//! No worker polls the task queue.

use std::time::{Duration, Instant};

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
use sandbox::stack::TASK_QUEUE;

use crate::support::{self, Program};

pub const ROWS: &[Row] = &[
    Row {
        message: "no worker polls the task queue …",
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
                    attempt.asking(["--as", "starter", "--task-queue", "unpolled"])
                }),
            },
            Case {
                name: "a worker on another task queue",
                step: Some("task_queue"),
                starter: NotRun,
                cause: Made(|world, attempt| elsewhere(world, attempt).boxed_local()),
            },
            Case {
                name: "a worker that has just ended",
                step: Some("task_queue"),
                starter: NotRun,
                cause: Made(|world, attempt| ended(world, attempt).boxed_local()),
            },
        ],
    },
    Row::elsewhere(
        "no worker polls the task queue …",
        0,
        &[Case {
            name: "no worker, without `--as`",
            step: Some("task_queue"),
            starter: NotRun,
            cause: Told(|_, attempt| attempt.asking(["--task-queue", "unpolled"])),
        }],
    ),
];

async fn elsewhere(world: &World, attempt: Attempt) -> Attempt {
    let (attempt, address) = alone(world, attempt).await;
    let worker = loop {
        let worker = worker_on(world, &address, "another").await;
        if is_known(world, &attempt, "`another`").await {
            break worker;
        }
        worker.stop().await;
    };
    attempt
        .holding(worker)
        .asking(["--as", "starter", "--task-queue", TASK_QUEUE])
}

async fn ended(world: &World, attempt: Attempt) -> Attempt {
    let (attempt, address) = alone(world, attempt).await;
    worker_on(world, &address, "ended").await.stop().await;
    attempt.asking(["--as", "starter", "--task-queue", "ended"])
}

/// A server of its own, so that no case sees the workers of another.
async fn alone(world: &World, attempt: Attempt) -> (Attempt, String) {
    let (address, server) = world.another_server(&attempt, |_| ()).await;
    world.register(|args| args.address = address.clone()).await;
    (attempt.address(&address).holding(server), address)
}

async fn worker_on(world: &World, address: &str, task_queue: &str) -> Program {
    let mut command = support::worker_command(&world.stack).await;
    command
        .env("TEMPORAL_ADDRESS", address)
        .args(["--task-queue", task_queue]);
    support::polling(&mut command).await
}

/// Whether the worker tells the server of itself soon. It does so at once, or a minute later: its
/// first attempt may come before it has anything to tell (temporalio-sdk-core 0.10, `heartbeat.rs`).
async fn is_known(world: &World, attempt: &Attempt, task_queue: &str) -> bool {
    let keyutil = &support::binaries().await.keyutil;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        let mut command = world.command(keyutil, attempt);
        let output = support::run(command.args(["doctor", "--task-queue", "unpolled"])).await;
        if support::stdout(&output).contains(task_queue) {
            return true;
        }
    }
    false
}
