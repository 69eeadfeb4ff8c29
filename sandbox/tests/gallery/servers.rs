//! Servers that are secured in another way, or not at all, or are not there yet.

use futures::FutureExt;
use keyutil::ConnectArgs;
use sandbox::server::ServerSettings;

use super::{
    case::{
        Attempt, Case,
        Cause::{Made, Told},
        Row,
        Starter::{KnowsLess, NotRun, Same},
    },
    frames,
    token::with_permissions,
    world::World,
};

pub const ROWS: &[Row] = &[
    Row {
        message: "authorization is disabled on this server",
        exit_code: 0,
        cause: "the server has no authorizer",
        advice: "set `authorizer: default` and `claimMapper: default`, unless this is intended",
        cases: &[
            Case {
                name: "a server with TLS and without authorization",
                step: Some("permission"),
                starter: NotRun,
                cause: Made(|world, attempt| open_to_all(world, attempt).boxed_local()),
            },
            Case {
                name: "a server without TLS and without authorization",
                step: Some("permission"),
                starter: NotRun,
                cause: Made(|world, attempt| {
                    async {
                        let attempt = attempt.with("TEMPORAL_TLS", "false");
                        plain(world, attempt).await
                    }
                    .boxed_local()
                }),
            },
        ],
    },
    Row {
        message: "NOT_SERVING",
        exit_code: 69,
        cause: "the server is starting or stopping",
        advice: "wait; worker and starter wait for up to `--connect-timeout`",
        cases: &[Case {
            // The real one is so for a moment that cannot be caught.
            name: "a server that is still starting",
            step: Some("grpc"),
            starter: KnowsLess,
            cause: Told(|_, attempt| {
                let (address, peer) = frames::starting();
                without_tls(attempt.impatient().address(address).holding(peer))
            }),
        }],
    },
    Row {
        message: "the token has … bytes, more than a proxy in front of the server accepts",
        exit_code: 80,
        cause: "a proxy in front of the server limits headers; the server itself accepts 16 MiB",
        advice: "issue the token with fewer permissions, or raise the limit of the proxy",
        cases: &[Case {
            name: "a token that is larger than a proxy takes",
            step: Some("token"),
            starter: Same,
            cause: Told(|world, attempt| {
                let (address, peer) = frames::with_a_limit();
                let token = with_permissions(world, 300).signed();
                without_tls(attempt.impatient().address(address).holding(peer)).token_file(&token)
            }),
        }],
    },
    Row::elsewhere(
        "the server answered without TLS",
        76,
        &[Case {
            name: "a server without TLS, and TLS here",
            step: Some("server_tls"),
            starter: Same,
            cause: Made(|world, attempt| {
                async {
                    let attempt = plain(world, attempt).await;
                    let trust =
                        super::world::told(&world.stack, "TEMPORAL_TLS_SERVER_CA_CERT_PATH");
                    attempt
                        .without("TEMPORAL_TLS")
                        .with("TEMPORAL_TLS_SERVER_CA_CERT_PATH", trust)
                }
                .boxed_local()
            }),
        }],
    ),
    Row::elsewhere(
        "the TLS handshake did not finish within …",
        69,
        &[Case {
            name: "a server that stands still",
            step: Some("server_tls"),
            starter: Same,
            cause: Made(|world, attempt| standing_still(world, attempt).boxed_local()),
        }],
    ),
];

/// On this machine, with a token.
fn without_tls(attempt: Attempt) -> Attempt {
    attempt
        .with("TEMPORAL_TLS", "false")
        .without_client_certificate()
        .without("TEMPORAL_TLS_SERVER_CA_CERT_PATH")
}

async fn open_to_all(world: &World, attempt: Attempt) -> Attempt {
    let (address, server) = world
        .another_server(&attempt, |settings| settings.authorization = None)
        .await;
    world.register(|args| args.address = address.clone()).await;
    attempt.address(address).holding(server)
}

async fn plain(world: &World, attempt: Attempt) -> Attempt {
    let change = |settings: &mut ServerSettings| {
        settings.tls = None;
        settings.authorization = None;
    };
    let (address, server) = world.another_server(&attempt, change).await;
    let untold = |args: &mut ConnectArgs| {
        *args = ConnectArgs {
            address: address.clone(),
            ..ConnectArgs::default()
        };
    };
    world.register(untold).await;
    attempt
        .without_client_certificate()
        .without("TEMPORAL_TLS_SERVER_CA_CERT_PATH")
        .address(&address)
        .holding(server)
}

async fn standing_still(world: &World, attempt: Attempt) -> Attempt {
    let (address, server) = world.another_server(&attempt, |_| ()).await;
    server.0.pause().unwrap();
    attempt.impatient().address(address).holding(server)
}
