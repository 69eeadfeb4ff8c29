//! No way to the server, or to something that is none.

use std::time::Duration;

use futures::FutureExt;
use tokio::time::timeout;

use super::{
    case::{
        Attempt, Case,
        Cause::{Made, Told},
        Row,
        Starter::Same,
    },
    peers::{self, Peer},
    world::{World, now},
};

pub const ROWS: &[Row] = &[
    Row {
        message: "failed to resolve the host name …",
        exit_code: 69,
        cause: "the host name is wrong, or this machine or container cannot resolve it",
        advice: "check `TEMPORAL_ADDRESS`; run `getent hosts <name>`",
        cases: &[Case {
            name: "a host name that does not resolve",
            step: Some("name"),
            starter: Same,
            cause: Made(|_, attempt| unknown_host(attempt).boxed_local()),
        }],
    },
    Row {
        message: "no TCP connection to …",
        exit_code: 69,
        cause: "nothing listens there, or not yet",
        advice: "check `TEMPORAL_ADDRESS`; if the server is still starting, raise \
                 `--connect-timeout`",
        cases: &[Case {
            name: "a port without a listener",
            step: Some("tcp"),
            starter: Same,
            cause: Told(|_, attempt| led_to(attempt, peers::nobody())),
        }],
    },
    Row {
        message: "the TLS handshake did not finish within …",
        exit_code: 69,
        cause: "the wrong port, a proxy that does not answer, or a server that hangs",
        advice: "use the port of the frontend, 7233 by default",
        cases: &[Case {
            name: "a port that accepts connections and says nothing",
            step: Some("server_tls"),
            starter: Same,
            cause: Told(|_, attempt| led_to(attempt, peers::says_nothing())),
        }],
    },
    Row {
        message: "no answer within …",
        exit_code: 69,
        cause: "the same, without TLS",
        advice: "the same",
        cases: &[Case {
            name: "a port that accepts connections and says nothing, without TLS",
            step: Some("grpc"),
            starter: Same,
            cause: Told(|world, attempt| {
                led_to(without_tls(world, attempt), peers::says_nothing())
            }),
        }],
    },
    Row {
        message: "the connection was closed during the TLS handshake",
        exit_code: 69,
        cause: "a proxy without a server behind it, or another program",
        advice: "check `TEMPORAL_ADDRESS` and the log of the proxy",
        cases: &[Case {
            name: "a port that hangs up",
            step: Some("server_tls"),
            starter: Same,
            cause: Told(|_, attempt| led_to(attempt, peers::hangs_up())),
        }],
    },
    Row {
        message: "the server answered without TLS",
        exit_code: 76,
        cause: "TLS is enabled here but not on the server",
        advice: "remove the TLS options and the token; for a server on this machine, set \
                 `--tls=false`",
        cases: &[Case {
            name: "an HTTP server without TLS",
            step: Some("server_tls"),
            starter: Same,
            cause: Told(|_, attempt| {
                led_to(attempt, peers::answers(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
            }),
        }],
    },
    Row {
        message: "the server closed the connection, which does not use TLS, without an answer",
        exit_code: 76,
        cause: "TLS is enabled on the server but not here, for example because the environment \
                file was not sourced; or the port is that of the Web UI or of the HTTP API",
        advice: "set `--tls`, `--tls-ca-path`, `--tls-cert-path` and `--tls-key-path`; check the \
                 port",
        cases: &[
            Case {
                name: "an HTTP server, without TLS on both sides",
                step: Some("server_tls"),
                starter: Same,
                cause: Told(|world, attempt| {
                    let peer = peers::answers(b"HTTP/1.1 400 Bad Request\r\n\r\n");
                    led_to(without_tls(world, attempt), peer)
                }),
            },
            Case {
                name: "no TLS here, and a server with TLS",
                step: Some("server_tls"),
                starter: Same,
                cause: Told(|world, attempt| {
                    let address = world.stack.address();
                    without_tls(world, attempt).impatient().address(address)
                }),
            },
        ],
    },
    Row {
        message: "the server did not agree to HTTP/2",
        exit_code: 76,
        cause: "the port is that of the Web UI or of the HTTP API, or a proxy supports only \
                HTTP/1.1",
        advice: "use the port of the gRPC frontend; enable HTTP/2 in the proxy, or pass TLS \
                 through",
        cases: &[
            Case {
                name: "a TLS server that does not know ALPN",
                step: Some("server_tls"),
                starter: Same,
                cause: Told(|world, attempt| led_to(attempt, tls_with(world, &[]))),
            },
            Case {
                name: "a TLS server that speaks HTTP/1.1 alone",
                step: Some("server_tls"),
                starter: Same,
                cause: Told(|world, attempt| led_to(attempt, tls_with(world, &[b"http/1.1"]))),
            },
        ],
    },
];

async fn unknown_host(attempt: Attempt) -> Attempt {
    // Reserved for this by RFC 6761.
    let host = "temporal.invalid:7233";
    let answered = timeout(Duration::from_secs(1), tokio::net::lookup_host(host)).await;
    match answered {
        Ok(Err(_)) => attempt.impatient().address(host),
        Ok(Ok(_)) => attempt.skipped("the name service of this machine knows every name"),
        Err(_) => attempt.skipped("the name service of this machine does not answer"),
    }
}

fn led_to(attempt: Attempt, (address, peer): Peer) -> Attempt {
    attempt.impatient().address(address).holding(peer)
}

fn tls_with(world: &World, protocols: &[&[u8]]) -> Peer {
    peers::tls(&world.server_leaf(&["127.0.0.1"], now()), protocols)
}

/// As when the variables were not sourced.
pub fn without_tls(_: &World, attempt: Attempt) -> Attempt {
    attempt
        .without_client_certificate()
        .without_token()
        .without("TEMPORAL_TLS_SERVER_CA_CERT_PATH")
}
