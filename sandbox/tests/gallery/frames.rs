//! Just enough HTTP/2 (RFC 9113), without TLS, to answer calls as a proxy or a server does that is
//! not ready for them. It reads no headers.

use std::io;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::peers::{self, Peer};
use crate::support::frames::{
    self, ACK, DATA, END_STREAM, HEADERS, PING, SETTINGS, STATUS_200, frame, literal, read_frame,
};

/// A frontend that has not yet found the others: of its health it says `NOT_SERVING`, and refuses
/// everything else (`common/rpc/interceptor/health.go` of the server).
pub fn starting() -> Peer {
    peers::serve(|tcp| async {
        // The client may end the connection.
        let _ = answer(tcp, |call| match call.asks_for_health() {
            true => message(&[8, 2]),
            false => status("14", "Frontend is not healthy yet"),
        })
        .await;
    })
}

/// A proxy before a healthy server that takes no more than 8 KiB of headers.
pub fn with_a_limit() -> Peer {
    peers::serve(|tcp| async {
        let _ = answer(tcp, |call| match call {
            Call { headers, .. } if *headers > 8192 => Answer {
                headers: literal(":status", "431"),
                message: None,
            },
            call if call.asks_for_health() => message(&[8, 1]),
            _ => message(&[]),
        })
        .await;
    })
}

struct Call {
    /// Their size, compressed.
    headers: usize,
    body: Vec<u8>,
}

impl Call {
    fn asks_for_health(&self) -> bool {
        let service = b"temporal.api.workflowservice.v1.WorkflowService";
        self.body
            .windows(service.len())
            .any(|found| found == service)
    }
}

/// Headers, and a message if there is one.
struct Answer {
    headers: Vec<u8>,
    message: Option<Vec<u8>>,
}

fn message(bytes: &[u8]) -> Answer {
    Answer {
        headers: [
            vec![STATUS_200],
            literal("content-type", "application/grpc"),
        ]
        .concat(),
        message: Some(bytes.to_vec()),
    }
}

fn status(code: &str, words: &str) -> Answer {
    Answer {
        headers: [
            vec![STATUS_200],
            literal("content-type", "application/grpc"),
            literal("grpc-status", code),
            literal("grpc-message", words),
        ]
        .concat(),
        message: None,
    }
}

async fn answer(mut tcp: TcpStream, how: impl Fn(&Call) -> Answer) -> io::Result<()> {
    let mut preface = [0; 24];
    tcp.read_exact(&mut preface).await?;
    tcp.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    let mut call = Call {
        headers: 0,
        body: Vec::new(),
    };
    loop {
        let (kind, flags, stream, payload) = read_frame(&mut tcp).await?;
        match kind {
            SETTINGS if flags & ACK == 0 => tcp.write_all(&frame(SETTINGS, ACK, 0, &[])).await?,
            PING if flags & ACK == 0 => tcp.write_all(&frame(PING, ACK, 0, &payload)).await?,
            HEADERS => {
                call = Call {
                    headers: payload.len(),
                    body: Vec::new(),
                }
            }
            DATA => call.body.extend(&payload),
            _ => {}
        }
        if (kind == HEADERS || kind == DATA) && flags & END_STREAM != 0 {
            let Answer { headers, message } = how(&call);
            let frames = frames::answer(stream, &headers, message.as_deref());
            tcp.write_all(&frames).await?;
        }
    }
}
