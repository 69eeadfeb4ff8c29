//! The SDK's calls over our channel.
//!
//! `ConnectionOptions::service_override` hands over every call of the SDK as service, method,
//! headers and protobuf bytes. They go through [`tonic::client::Grpc`] with a codec that leaves
//! the bytes alone.

use std::{error::Error, sync::Arc, time::SystemTime};

use bytes::{Buf, BufMut, Bytes};
use http::{HeaderMap, uri::PathAndQuery};
use temporalio_client::callback_based::{
    CallbackBasedGrpcService, GrpcRequest, GrpcSuccessResponse,
};
use tonic::{
    Request, Status, TimeoutExpired,
    client::Grpc,
    codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::MetadataMap,
};

use super::{
    AuthorizedChannel,
    auth_interceptor::TokenExpiry,
    call_outcomes::{CallOutcomes, is_refusal},
};
use crate::{
    base::{causes, chain, time::in_words},
    credentials::FileWatcher,
    diagnosis::Diagnosis,
};

/// The SDK's own limit for an answer (`temporalio-client`, `get_decode_max_size`).
const LARGEST_ANSWER: usize = 128 * 1024 * 1024;

/// What a failed call means, if it means more than its status says: the words for the status, and
/// the diagnosis. Nothing for what has to do with this call alone.
pub type Explain = dyn Fn(&Status) -> Option<(String, Diagnosis)> + Send + Sync;

/// What the SDK's calls go through.
pub struct Bridge {
    /// The channel.
    pub channel: AuthorizedChannel,
    /// Whether messages are compressed.
    pub compression: Option<CompressionEncoding>,
    /// Where the channel leads, for errors.
    pub target: String,
    /// Says why a call was refused, not sent, or had no connection.
    pub explain: Box<Explain>,
    /// Whether no connection has failed since the last that the server has answered on.
    pub connected: Box<dyn Fn() -> bool + Send + Sync>,
    /// Counts what becomes of the calls.
    pub calls: Arc<CallOutcomes>,
    /// Looks at the credential files. Held here, so that it goes on for as long as any clone of
    /// the client can make calls.
    pub watch: FileWatcher,
}

impl Bridge {
    /// Makes the SDK call through this.
    pub fn into_service(self) -> CallbackBasedGrpcService {
        let bridge = Arc::new(self);
        CallbackBasedGrpcService {
            callback: Arc::new(move |request| Box::pin(bridge.clone().carry(request))),
        }
    }

    async fn carry(self: Arc<Self>, request: GrpcRequest) -> Result<GrpcSuccessResponse, Status> {
        let path: PathAndQuery = format!("/{}/{}", request.service, request.rpc)
            .parse()
            .map_err(|_| Status::internal("the SDK named a method that makes no path"))?;
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(LARGEST_ANSWER);
        if let Some(encoding) = self.compression {
            grpc = grpc.send_compressed(encoding).accept_compressed(encoding);
        }

        let headers = without(request.headers, &REQUEST_HEADERS_TO_DROP);
        let mut message = Request::new(request.proto);
        *message.metadata_mut() = MetadataMap::from_headers(headers);
        let expiry = TokenExpiry::default();
        message.extensions_mut().insert(expiry.clone());
        let call = self.calls.begin(&request.rpc);
        let answer = grpc.unary(message, path, BytesCodec);
        let answer = match self.calls.watch(call, &self.connected, answer).await {
            Ok(answer) => {
                self.calls.succeeded(call);
                answer
            }
            Err(status) => {
                let (status, diagnosis) = match expiry.passed(SystemTime::now()) {
                    Some(at) if is_refusal(&status) => (came_too_late(&status, at), None),
                    _ => self.explained(status),
                };
                self.calls.failed(call, &status, diagnosis);
                return Err(status);
            }
        };

        let (metadata, proto, _) = answer.into_parts();
        Ok(GrpcSuccessResponse {
            headers: without(metadata.into_headers(), &RESPONSE_HEADERS_TO_DROP),
            proto: proto.into(),
        })
    }

    /// Says of a failure what the SDK needs to know to retry it, and what a person needs to know.
    ///
    /// A call that is queued on a connection which the server ends by age fails as `Cancelled`.
    /// The SDK retries that only when it finds a transport error among the sources, and the
    /// sources are lost on the way through the callback.
    fn explained(&self, mut status: Status) -> (Status, Option<Diagnosis>) {
        // An answer that was compressed is not any more.
        let headers = std::mem::take(status.metadata_mut()).into_headers();
        *status.metadata_mut() =
            MetadataMap::from_headers(without(headers, &RESPONSE_HEADERS_TO_DROP));

        let (words, diagnosis) = (self.explain)(&status).unzip();
        let Some(source) = status.source() else {
            let Some(words) = words else {
                return (status, None);
            };
            let details = Bytes::copy_from_slice(status.details());
            let metadata = status.metadata().clone();
            let status = Status::with_details_and_metadata(status.code(), words, details, metadata);
            return (status, diagnosis);
        };
        if causes(source).any(|cause| cause.is::<TimeoutExpired>()) {
            let late = Status::deadline_exceeded("the call took longer than its grpc-timeout");
            return (late, None);
        }
        if causes(source).any(|cause| cause.is::<tonic::transport::Error>()) {
            let words = words.unwrap_or_else(|| {
                format!(
                    "the connection to `{}` failed: {}",
                    self.target,
                    chain(source)
                )
            });
            return (Status::unavailable(words), diagnosis);
        }
        (status, diagnosis)
    }
}

/// A call that had its token and then stood in a queue, before a server that hung or in a machine
/// that slept, is refused for a token that was good when it was sent. The SDK does not repeat what
/// was refused; it repeats this, and the next attempt bears a newer token.
fn came_too_late(refused: &Status, expired_at: SystemTime) -> Status {
    Status::unavailable(format!(
        "the token of this call expired at {}, before the server looked at it: {}",
        in_words(expired_at),
        refused.message()
    ))
}

fn without(mut headers: HeaderMap, names: &[&str]) -> HeaderMap {
    for name in names {
        headers.remove(*name);
    }
    headers
}

/// Of a request: what the channel writes itself.
const REQUEST_HEADERS_TO_DROP: [&str; 6] = [
    "content-type",
    "content-length",
    "te",
    "user-agent",
    "grpc-encoding",
    "grpc-accept-encoding",
];

/// Of an answer: what was true of the bytes on the wire and is not of those handed on. The SDK
/// refuses an answer that names an encoding, and takes one that names a status for an empty one.
const RESPONSE_HEADERS_TO_DROP: [&str; 6] = [
    "content-type",
    "content-length",
    "grpc-encoding",
    "grpc-accept-encoding",
    "grpc-status",
    "grpc-message",
];

/// A codec of bytes, which are protobuf already.
#[derive(Clone, Copy, Debug, Default)]
pub struct BytesCodec;

impl Codec for BytesCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl std::fmt::Debug for Bridge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bridge")
            .field("target", &self.target)
            .field("compression", &self.compression)
            .finish_non_exhaustive()
    }
}

impl Encoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

impl Decoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
