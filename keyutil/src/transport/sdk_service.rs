//! The SDK's calls over our channel.
//!
//! `ConnectionOptions::service_override` hands over every call of the SDK as service, method,
//! headers and protobuf bytes. [`sdk_service`] puts them through a tower stack.

use std::{
    error::Error,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::SystemTime,
};

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
use tower::{Service, ServiceBuilder, layer::layer_fn, service_fn};

use super::{
    AuthorizedChannel, RotatingChannel,
    auth_interceptor::TokenExpiry,
    call_outcomes::{CallOutcomes, is_refusal},
    error::LocalCause,
};
use crate::{
    base::{causes, chain, time::rfc3339},
    diagnosis::Diagnosis,
};

/// The SDK's own limit for an answer (`temporalio-client`, `get_decode_max_size`).
const LARGEST_ANSWER: usize = 128 * 1024 * 1024;

/// Routes the SDK's calls over `channel`, each through these layers, the first outermost:
///
/// 1. its outcome is counted, and a failure that lasts is logged;
/// 2. a failure is explained: `explain` gets the status and the namespace of the call, and gives the
///    message for the status and the diagnosis, or nothing for what concerns this call alone;
/// 3. the bytes are sent with a token, and what was refused for a token that expired on the way may
///    be retried.
pub fn sdk_service(
    channel: AuthorizedChannel,
    rotating: RotatingChannel,
    compression: Option<CompressionEncoding>,
    outcomes: Arc<CallOutcomes>,
    explain: impl Fn(&Status, Option<&str>) -> Option<(String, Diagnosis)>
    + Clone
    + Send
    + Sync
    + 'static,
) -> CallbackBasedGrpcService {
    let target = rotating.connector().target();
    let stack = ServiceBuilder::new()
        .layer(layer_fn(|inner| CountOutcomes {
            inner,
            outcomes: outcomes.clone(),
            channel: rotating.clone(),
        }))
        .map_err(move |failed| explained(failed, &target, &explain))
        .service(service_fn(move |request| {
            send(channel.clone(), compression, request)
        }));
    CallbackBasedGrpcService {
        callback: Arc::new(move |request| stack.clone().call(request)),
    }
}

/// Counts what becomes of the calls, and records what keeps them from succeeding.
#[derive(Clone)]
struct CountOutcomes<S> {
    inner: S,
    outcomes: Arc<CallOutcomes>,
    channel: RotatingChannel,
}

impl<S> Service<GrpcRequest> for CountOutcomes<S>
where
    S: Service<GrpcRequest, Response = GrpcSuccessResponse, Error = Explained>,
    S::Future: Send + 'static,
{
    type Response = GrpcSuccessResponse;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<GrpcSuccessResponse, Status>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(ready!(self.inner.poll_ready(context)).map_err(|failed| failed.status))
    }

    fn call(&mut self, request: GrpcRequest) -> Self::Future {
        let (outcomes, channel) = (self.outcomes.clone(), self.channel.clone());
        let call = outcomes.begin(&request.rpc);
        let answer = self.inner.call(request);
        Box::pin(async move {
            let connected = || channel.connector().log().ongoing_failure().is_none();
            match outcomes.watch(call, connected, answer).await {
                Ok(answer) => {
                    outcomes.succeeded(call);
                    Ok(answer)
                }
                Err(Explained { status, diagnosis }) => {
                    outcomes.failed(call, &status, diagnosis);
                    Err(status)
                }
            }
        })
    }
}

/// A call that failed, and what that means for more calls than this one.
struct Explained {
    status: Status,
    diagnosis: Option<Diagnosis>,
}

/// A failed call, and the namespace that it was made in.
struct Failed {
    status: Status,
    namespace: Option<String>,
}

/// Says of a failure what the SDK needs to know to retry it, and what a person needs to know.
///
/// A call that is queued on a connection which the server ends by age fails as `Cancelled`. The SDK
/// retries that only when it finds a transport error among the sources, and the sources are lost on
/// the way through the callback.
fn explained(
    Failed { status, namespace }: Failed,
    target: &str,
    explain: &impl Fn(&Status, Option<&str>) -> Option<(String, Diagnosis)>,
) -> Explained {
    if LocalCause::of(&status) == Some(LocalCause::TokenExpiredOnTheWay) {
        return Explained {
            status,
            diagnosis: None,
        };
    }
    let (message, diagnosis) = explain(&status, namespace.as_deref()).unzip();
    let Some(source) = status.source() else {
        let Some(message) = message else {
            return Explained {
                status,
                diagnosis: None,
            };
        };
        let details = Bytes::copy_from_slice(status.details());
        let metadata = status.metadata().clone();
        let status = Status::with_details_and_metadata(status.code(), message, details, metadata);
        return Explained { status, diagnosis };
    };
    if causes(source).any(|cause| cause.is::<TimeoutExpired>()) {
        return Explained {
            status: Status::deadline_exceeded("the call took longer than its grpc-timeout"),
            diagnosis: None,
        };
    }
    if causes(source).any(|cause| cause.is::<tonic::transport::Error>()) {
        let message = message
            .unwrap_or_else(|| format!("the connection to `{target}` failed: {}", chain(source)));
        return Explained {
            status: Status::unavailable(message),
            diagnosis,
        };
    }
    Explained { status, diagnosis }
}

/// Sends the bytes of one call, with a codec that leaves them alone.
async fn send(
    channel: AuthorizedChannel,
    compression: Option<CompressionEncoding>,
    request: GrpcRequest,
) -> Result<GrpcSuccessResponse, Failed> {
    let namespace = request.headers.get(NAMESPACE);
    let namespace = namespace
        .and_then(|namespace| namespace.to_str().ok())
        .filter(|namespace| !namespace.is_empty())
        .map(str::to_owned);
    let path: Result<PathAndQuery, _> = format!("/{}/{}", request.service, request.rpc).parse();
    let Ok(path) = path else {
        let status = Status::internal("the SDK named a method that makes no path");
        return Err(Failed { status, namespace });
    };
    let mut grpc = Grpc::new(channel).max_decoding_message_size(LARGEST_ANSWER);
    if let Some(encoding) = compression {
        grpc = grpc.send_compressed(encoding).accept_compressed(encoding);
    }
    let headers = without(request.headers, &REQUEST_HEADERS_TO_DROP);
    let mut message = Request::new(request.proto);
    *message.metadata_mut() = MetadataMap::from_headers(headers);
    let expiry = TokenExpiry::default();
    message.extensions_mut().insert(expiry.clone());
    match grpc.unary(message, path, BytesCodec).await {
        Ok(answer) => {
            let (metadata, proto, _) = answer.into_parts();
            Ok(GrpcSuccessResponse {
                headers: without(metadata.into_headers(), &RESPONSE_HEADERS_TO_DROP),
                proto: proto.into(),
            })
        }
        Err(mut status) => {
            // The body is decompressed already, so the headers of the wire format go.
            let headers = std::mem::take(status.metadata_mut()).into_headers();
            let headers = without(headers, &RESPONSE_HEADERS_TO_DROP);
            *status.metadata_mut() = MetadataMap::from_headers(headers);
            if let Some(at) = expiry.passed(SystemTime::now())
                && is_refusal(&status)
            {
                status = expired_on_the_way(&status, at);
            }
            Err(Failed { status, namespace })
        }
    }
}

/// The header in which the SDK repeats the namespace of a call.
const NAMESPACE: &str = "temporal-namespace";

/// A call that had its token and then stood in a queue, before a server that hung or in a machine
/// that slept, is refused for a token that was good when it was sent. The SDK does not retry what
/// was refused; it retries this, and the next attempt bears a newer token.
fn expired_on_the_way(refused: &Status, expired_at: SystemTime) -> Status {
    LocalCause::TokenExpiredOnTheWay.mark(Status::unavailable(format!(
        "the token of this call expired at {}, before the server looked at it: {}",
        rfc3339(expired_at),
        refused.message()
    )))
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
