//! Just enough HTTP/2 (RFC 9113), without TLS, to answer calls as a proxy or a server does that is
//! not ready for them. It reads no headers.

use std::io;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::peers::{self, Peer};

/// A frontend that has not yet found the others: of its health it says `NOT_SERVING`, and refuses
/// everything else (`common/rpc/interceptor/health.go` of the server).
pub fn starting() -> Peer {
    peers::serve(|tcp| async {
        // A client that goes away is none of our business.
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
                ..Answer::default()
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

#[derive(Default)]
struct Answer {
    headers: Vec<u8>,
    data: Vec<u8>,
    trailers: Vec<u8>,
}

fn message(bytes: &[u8]) -> Answer {
    let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    Answer {
        headers: [
            vec![STATUS_200],
            literal("content-type", "application/grpc"),
        ]
        .concat(),
        data: [&[0], &length[..], bytes].concat(),
        trailers: literal("grpc-status", "0"),
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
        ..Answer::default()
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
            tcp.write_all(&frames(stream, &how(&call))).await?;
        }
    }
}

fn frames(stream: u32, answer: &Answer) -> Vec<u8> {
    if answer.data.is_empty() {
        return frame(HEADERS, END_HEADERS | END_STREAM, stream, &answer.headers);
    }
    [
        frame(HEADERS, END_HEADERS, stream, &answer.headers),
        frame(DATA, 0, stream, &answer.data),
        frame(HEADERS, END_HEADERS | END_STREAM, stream, &answer.trailers),
    ]
    .concat()
}

async fn read_frame(tcp: &mut TcpStream) -> io::Result<(u8, u8, u32, Vec<u8>)> {
    let length = tcp.read_u16().await? as usize * 256 + tcp.read_u8().await? as usize;
    let (kind, flags, stream) = (
        tcp.read_u8().await?,
        tcp.read_u8().await?,
        tcp.read_u32().await?,
    );
    let mut payload = vec![0; length];
    tcp.read_exact(&mut payload).await?;
    Ok((kind, flags, stream, payload))
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header field without indexing or compression (RFC 7541 section 6.2.2).
fn literal(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

/// `:status: 200`, from the static table.
const STATUS_200: u8 = 0x88;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
