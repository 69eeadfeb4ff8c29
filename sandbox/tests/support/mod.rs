//! What the end-to-end tests have in common: a stack, and the programs that run against it.

pub mod clock;
#[path = "../../../keyutil/cli/tests/common/frames.rs"]
pub mod frames;
#[path = "../../../keyutil/cli/tests/common/intermediate.rs"]
pub mod intermediate;
pub mod jwks;
mod load;
mod observed;
pub mod process;
mod program;
pub mod rotation;

use std::{
    path::{Path, PathBuf},
    process::Output,
    time::{Duration, SystemTime},
};

use clap::Parser;
use keyutil::token::{ClaimsTemplate, Permission};
use keyutil_cli::{keys::keyring::read_signing_key, pki::Party};
use sandbox::{
    Stack, StackOptions,
    binaries::{Binaries, Built},
    guard::Guard,
    provision::{self, Options, Silent},
    stack::AUDIENCE,
};
use secrecy::SecretString;
use tokio::{process::Command, sync::OnceCell, time::timeout};

pub use load::InFlight;
pub use observed::{Observed, text};
pub use program::Program;

/// For each thing that is waited for: far more than it takes, even on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(60);

/// For spans of time that must not end during a test.
pub const HOUR: Duration = Duration::from_secs(3600);

/// The environment says where the server's binary comes from, as it does for the sandbox itself.
#[derive(Parser)]
struct Environment {
    #[command(flatten)]
    provision: Options,
}

/// The server's binary.
pub async fn server_binary() -> PathBuf {
    let environment = Environment::parse_from(["test"]);
    let binary = provision::temporal_server(&environment.provision, &Silent).await;
    binary.unwrap_or_else(|error| panic!("{}", keyutil::chain(&error)))
}

/// A server of the test's own, with everything that it needs.
pub async fn stack(options: StackOptions) -> Stack {
    let guard = Guard::new("temporal-test-").unwrap();
    let stack = Stack::start(&server_binary().await, guard, options).await;
    stack.unwrap_or_else(|error| panic!("{}", keyutil::chain(&error)))
}

/// Worker, starter and keyutil.
pub async fn binaries() -> &'static Binaries {
    &built().await.1
}

/// An example of a package of the workspace.
pub async fn example(name: &str) -> PathBuf {
    built().await.0.executable(name).unwrap()
}

/// Builds all programs and examples, once for all tests: a later build would make them wait for
/// cargo's lock. `cargo test --workspace` has built them already.
async fn built() -> &'static (Built, Binaries) {
    static BUILT: OnceCell<(Built, Binaries)> = OnceCell::const_new();
    let build = || async {
        let guard = Guard::new("temporal-test-").unwrap();
        let built = Built::by_cargo(&guard, &["--bins", "--examples"]).await;
        let built = built.unwrap();
        let binaries = Binaries::of(&built).unwrap();
        (built, binaries)
    };
    BUILT.get_or_init(build).await
}

/// The starter as it is, run to its end.
pub async fn starter(stack: &Stack, args: &[&str]) -> Output {
    run(starter_command(stack).await.args(args)).await
}

/// The starter, to be changed before it is run.
pub async fn starter_command(stack: &Stack) -> Command {
    stack.command(&binaries().await.starter, Party::Starter)
}

/// The worker as it is, once it polls.
pub async fn worker(stack: &Stack) -> Program {
    polling(&mut worker_command(stack).await).await
}

/// The worker, to be changed before it is run.
pub async fn worker_command(stack: &Stack) -> Command {
    stack.command(&binaries().await.worker, Party::Worker)
}

/// A worker without a key, which reads its tokens from this file, once it is ready.
pub async fn worker_with_token_file(stack: &Stack, file: &Path) -> Observed {
    let mut command = worker_command(stack).await;
    command
        .env_remove("KEYUTIL_SIGNING_KEY_PATH")
        .env_remove("KEYUTIL_AUDIENCE")
        .env("KEYUTIL_TOKEN_FILE", file);
    let worker = Observed::start(&mut command).await;
    worker.becomes_ready().await;
    worker
}

/// Starts a worker, and waits until it polls.
pub async fn polling(command: &mut Command) -> Program {
    let mut worker = Program::start(command);
    worker.wait_for("worker started", LIMIT).await;
    worker
}

/// Takes from `command` all that the stack would have told it about the connection.
pub fn untold<'c>(stack: &Stack, command: &'c mut Command) -> &'c mut Command {
    for (name, _) in stack.environment(Party::Worker) {
        command.env_remove(name);
    }
    command
}

/// Runs a program to its end.
pub async fn run(command: &mut Command) -> Output {
    run_within(LIMIT, command).await
}

/// The same, for one that takes long.
pub async fn run_within(limit: Duration, command: &mut Command) -> Output {
    let output = timeout(limit, command.kill_on_drop(true).output()).await;
    output
        .unwrap_or_else(|_| panic!("not done within {limit:?}: {command:?}"))
        .unwrap()
}

/// Asserts that a starter ended well, and that this, and nothing else, is what it printed.
pub fn assert_greeted(output: &Output) {
    assert_success(output);
    let printed = stdout(output);
    let (id, result) = printed.split_once('\n').unwrap_or_default();
    assert!(id.starts_with("Workflow id: "), "{printed}");
    assert_eq!(result, "Workflow result: Hello Temporal!\n");
}

/// Asserts that a starter ended well, and that `count` of `count` workflows did.
pub fn assert_all_greeted(output: &Output, count: u32) {
    assert_success(output);
    let summary =
        format!("Workflow result: Hello Temporal! ({count} times)\nfailed: 0\nlatency: median ");
    let printed = stdout(output);
    let (ids, results) = printed.split_once('\n').unwrap_or_default();
    assert!(ids.starts_with("Workflow id: "), "{printed}");
    assert!(results.starts_with(&summary), "{printed}");
    assert_eq!(results.lines().count(), 3, "{printed}");
}

/// Asserts that a program ended well.
pub fn assert_success(output: &Output) {
    assert!(
        output.status.success(),
        "{}\n{}",
        output.status,
        stderr(output)
    );
}

/// What a program printed.
pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What a program logged.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A token that worker and starter can use, for as long as this.
pub fn token(stack: &Stack, lifetime: Duration) -> SecretString {
    token_of(stack, Permission::write(stack.namespace()), lifetime)
}

/// The same with another permission.
pub fn token_of(stack: &Stack, permission: Permission, lifetime: Duration) -> SecretString {
    let claims = ClaimsTemplate {
        kid: None,
        subject: "somebody".to_owned(),
        permissions_claim: Default::default(),
        audience: Some(AUDIENCE.to_owned()),
        permissions: vec![permission],
        lifetime,
    };
    let key = read_signing_key(&stack.keyring().current_path()).unwrap();
    key.mint(&claims.at(SystemTime::now())).unwrap()
}
