//! The ports over which the services of the server tell each other who is a member.

use std::{io, net::Ipv4Addr};

use sandbox::{Stack, StackOptions};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::support::{self, LIMIT};

/// Any program that can connect is a member otherwise, and forged members stop the cluster.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_in_plain_text_is_no_member() {
    let with_tls = support::stack(StackOptions::default());
    let in_plain_text = support::stack(StackOptions {
        dynamic_config: [("system.enableRingpopTLS".to_owned(), json!(false))].into(),
        ..StackOptions::default()
    });
    let (with_tls, in_plain_text) = tokio::join!(with_tls, in_plain_text);
    // Shows that the peer below is one that a server without TLS accepts.
    assert_eq!(answer(&in_plain_text).await, Some(INIT_RESPONSE));
    assert_eq!(answer(&with_tls).await, None);
}

/// The type of the frame with which the frontend answers a new peer, or nothing if it closes the
/// connection.
async fn answer(stack: &Stack) -> Option<u8> {
    let port = stack.settings().ports.frontend_membership();
    let mut peer = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .await
        .unwrap();
    peer.write_all(&init_request()).await.unwrap();
    let mut head = [0; 3];
    match timeout(LIMIT, peer.read_exact(&mut head)).await.unwrap() {
        Ok(_) => Some(head[2]),
        Err(error) => {
            use io::ErrorKind::{ConnectionReset, UnexpectedEof};
            assert!(
                matches!(error.kind(), ConnectionReset | UnexpectedEof),
                "{error}"
            );
            None
        }
    }
}

/// The first frame of a TChannel connection: size, type, id, protocol version, headers
/// (<https://github.com/uber/tchannel/blob/master/docs/protocol.md>).
fn init_request() -> Vec<u8> {
    let mut payload = [2_u16.to_be_bytes(), 2_u16.to_be_bytes()].concat();
    for text in ["host_port", "0.0.0.0:0", "process_name", "test"] {
        payload.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
        payload.extend(text.as_bytes());
    }
    let size = u16::try_from(HEADER + payload.len()).unwrap();
    let mut frame = [
        &size.to_be_bytes()[..],
        &[INIT_REQUEST, 0],
        &[0, 0, 0, 1],
        &[0; 8],
    ]
    .concat();
    frame.extend(payload);
    frame
}

const HEADER: usize = 16;
const INIT_REQUEST: u8 = 1;
const INIT_RESPONSE: u8 = 2;
