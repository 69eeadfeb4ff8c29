//! Servers that are secured in another way, or not at all, or are not there yet.

use futures::FutureExt;
use keyutil::ConnectArgs;
use sandbox::server::ServerSettings;

use super::{
    case::{
        Attempt, Case,
        Cause::Made,
        Row,
        Starter::{NotRun, Same},
    },
    world::World,
};

pub const ROWS: &[Row] = &[
    Row {
        message: "this server asks nobody for permission",
        exit_code: 0,
        cause: "the server has no authorizer",
        advice: "`authorizer: default` and `claimMapper: default`, if that is not meant",
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
        "a TCP connection, and no end of the TLS handshake …",
        69,
        &[Case {
            name: "a server that stands still",
            step: Some("server_tls"),
            starter: Same,
            cause: Made(|world, attempt| standing_still(world, attempt).boxed_local()),
        }],
    ),
];

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
