//! Frames of HTTP/2 (RFC 9113) for a peer that reads no headers and has few answers.
//!
//! The tests of the sandbox include this file.

use std::io;

use tokio::io::AsyncReadExt;

/// Type, flags, stream and payload.
pub async fn read_frame(
    from: &mut (impl AsyncReadExt + Unpin),
) -> io::Result<(u8, u8, u32, Vec<u8>)> {
    let length = from.read_u16().await? as usize * 256 + from.read_u8().await? as usize;
    let (kind, flags, stream) = (
        from.read_u8().await?,
        from.read_u8().await?,
        from.read_u32().await?,
    );
    let mut payload = vec![0; length];
    from.read_exact(&mut payload).await?;
    Ok((kind, flags, stream, payload))
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header field without indexing or compression (RFC 7541 section 6.2.2).
pub fn literal(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

/// The frames that answer a call: headers, then one message and trailers if there is a message.
pub fn answer(stream: u32, headers: &[u8], message: Option<&[u8]>) -> Vec<u8> {
    let Some(message) = message else {
        return frame(HEADERS, END_HEADERS | END_STREAM, stream, headers);
    };
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let trailers = literal("grpc-status", "0");
    [
        frame(HEADERS, END_HEADERS, stream, headers),
        frame(DATA, 0, stream, &[&[0], &length[..], message].concat()),
        frame(HEADERS, END_HEADERS | END_STREAM, stream, &trailers),
    ]
    .concat()
}

/// `:status: 200`, from the static table.
pub const STATUS_200: u8 = 0x88;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
