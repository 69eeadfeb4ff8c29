//! Servers that are secured in another way, or not at all: the same programs, told less.

use std::{ffi::OsString, path::Path};

use keyutil_cli::pki::Party;
use sandbox::{
    Stack, StackOptions,
    server::{Server, ServerSettings},
    stack::AUDIENCE,
};
use tokio::{
    net::{TcpListener, TcpStream},
    process::Command,
};

use crate::support;

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_server_needs_nothing_but_its_address() {
    let world = World::new(|settings| {
        settings.tls = None;
        settings.authorization = None;
    })
    .await;
    world.greets(&[("TEMPORAL_ADDRESS", world.address())]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_goes_over_plaintext_to_this_machine() {
    let world = World::new(|settings| settings.tls = None).await;
    let variables = [
        ("TEMPORAL_ADDRESS", world.address()),
        ("TEMPORAL_TLS", "false".into()),
        ("KEYUTIL_SIGNING_KEY_PATH", world.signing_key()),
        ("KEYUTIL_AUDIENCE", AUDIENCE.into()),
    ];
    world.greets(&variables).await;

    // Without the token it is refused: the server does ask for it.
    let output = support::run(&mut world.starter(&variables[..2]).await).await;
    assert_eq!(output.status.code(), Some(80), "{output:?}");
}

/// As Temporal Cloud with certificates.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_alone_does_where_no_token_is_asked_for() {
    let world = World::new(|settings| settings.authorization = None).await;
    let told: Vec<_> = world
        .stack
        .environment(Party::Worker)
        .into_iter()
        .filter(|(name, _)| name.starts_with("TEMPORAL_"))
        .collect();
    world.greets(&told).await;
}

/// As Temporal Cloud with API keys: TLS that is verified with the CAs of the machine, and no
/// client certificate.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_alone_does_where_no_certificate_is_asked_for() {
    let world = World::new(|settings| {
        if let Some(tls) = &mut settings.tls {
            tls.frontend.client_ca.clear();
        }
    })
    .await;
    let authorities = variable(&world.stack, "TEMPORAL_TLS_SERVER_CA_CERT_PATH");
    let told = |token: OsString| {
        [
            ("TEMPORAL_ADDRESS", world.address()),
            ("SSL_CERT_FILE", authorities.clone()),
            ("TEMPORAL_API_KEY", token),
        ]
    };
    world
        .registers(&told(world.token("default:admin").await))
        .await;
    let told = told(world.token("default:write").await);
    world.works(&told).await;

    // Without the variable the machine's own CAs do not know this server.
    let output = support::run(&mut world.starter(&[told[0].clone(), told[2].clone()]).await).await;
    assert_eq!(output.status.code(), Some(76), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_does_not_go_over_plaintext_to_another_machine() {
    let stack = support::stack(StackOptions::default()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    // Not a loopback address by its looks, and yet it leads here.
    let address = format!("0.0.0.0:{}", listener.local_addr().unwrap().port());

    let mut starter = support::starter_command(&stack).await;
    support::untold(&stack, &mut starter)
        .args(["--tls=false", "--address", &address])
        .env("KEYUTIL_SIGNING_KEY_PATH", stack.keyring().current_path());
    let output = support::run(&mut starter).await;

    let said = support::stderr(&output);
    assert_eq!(output.status.code(), Some(64), "{said}");
    assert!(
        said.contains("the token would travel in plaintext"),
        "{said}"
    );
    assert!(said.contains(&address), "{said}");
    // The listener accepts the connection of this test first, so the starter has made none.
    let ours = TcpStream::connect(&address).await.unwrap();
    let (_, first) = listener.accept().await.unwrap();
    assert_eq!(first.port(), ours.local_addr().unwrap().port());
}

/// A stack whose server was replaced by one with other settings.
struct World {
    stack: Stack,
    _server: Server,
}

type Variable = (&'static str, OsString);

impl World {
    async fn new(change: impl FnOnce(&mut ServerSettings)) -> Self {
        let mut stack = support::stack(StackOptions::default()).await;
        stack.kill_server().await.unwrap();
        let mut settings = stack.settings().clone();
        change(&mut settings);
        let binary = support::server_binary().await;
        let server = Server::start(&binary, &settings, stack.guard()).await;
        Self {
            _server: server.unwrap(),
            stack,
        }
    }

    fn address(&self) -> OsString {
        self.stack.address().into()
    }

    fn signing_key(&self) -> OsString {
        self.stack.keyring().current_path().into()
    }

    /// A program that is told these variables, and nothing else.
    fn command(&self, program: &Path, told: &[Variable]) -> Command {
        let mut command = self.stack.command(program, Party::Worker);
        support::untold(&self.stack, &mut command);
        command
            .env_remove("SSL_CERT_FILE")
            .envs(told.iter().cloned());
        command
    }

    async fn starter(&self, told: &[Variable]) -> Command {
        self.command(&support::binaries().await.starter, told)
    }

    async fn token(&self, permissions: &str) -> OsString {
        let mut command = self.command(
            &support::binaries().await.keyutil,
            &[
                ("KEYUTIL_SIGNING_KEY_PATH", self.signing_key()),
                ("KEYUTIL_AUDIENCE", AUDIENCE.into()),
            ],
        );
        command.args([
            "token",
            "mint",
            "--subject",
            "cloud",
            "--permissions",
            permissions,
        ]);
        let output = support::run(&mut command).await;
        support::assert_success(&output);
        support::stdout(&output).trim().into()
    }

    /// Asserts that the namespace can be registered.
    async fn registers(&self, told: &[Variable]) {
        let mut command = self.command(&support::binaries().await.keyutil, told);
        let output = support::run(command.args(["namespace", "register"])).await;
        support::assert_success(&output);
        assert_eq!(support::stdout(&output), "Namespace registered: default\n");
    }

    /// Asserts that a workflow can be started and run.
    async fn works(&self, told: &[Variable]) {
        let mut command = self.command(&support::binaries().await.worker, told);
        let worker = support::polling(&mut command).await;
        support::assert_greeted(&support::run(&mut self.starter(told).await).await);
        worker.stop().await;
    }

    async fn greets(&self, told: &[Variable]) {
        self.registers(told).await;
        self.works(told).await;
    }
}

fn variable(stack: &Stack, name: &str) -> OsString {
    let mut all = stack.environment(Party::Worker).into_iter();
    all.find_map(|(found, value)| (found == name).then_some(value))
        .unwrap()
}
