//! The SDK's calls over the rotating channel.
//!
//! `ConnectionOptions::service_override` passes every call of the SDK as service, method, headers
//! and protobuf bytes. [`sdk_service`] sends them through a tower stack.

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
use prost::Message;
use temporalio_client::callback_based::{
    CallbackBasedGrpcService, GrpcRequest, GrpcSuccessResponse,
};
use temporalio_common::protos::temporal::api::workflowservice::v1::{
    SignalWithStartWorkflowExecutionRequest, StartWorkflowExecutionRequest,
};
use tonic::{
    Code, Request, Status, TimeoutExpired,
    client::Grpc,
    codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::MetadataMap,
};
use tower::{Service, ServiceBuilder, layer::layer_fn, service_fn};

use super::{
    AuthorizedChannel, RotatingChannel,
    auth_interceptor::TokenExpiry,
    call_outcomes::{CallOutcomes, Cause, POLLS, is_refusal},
    error::LocalCause,
};
use crate::base::{causes, chain, time::rfc3339};

/// The SDK's own limit for an answer (`temporalio-client`, `get_decode_max_size`).
const LARGEST_ANSWER: usize = 128 * 1024 * 1024;

/// Sends the SDK's calls over `channel`, through these layers, the outermost first:
///
/// 1. The outcome is counted, and a lasting failure is logged.
/// 2. A failure is explained. `explain` gets the status and the namespace of the call. It returns
///    the message for the status and the cause, or `None` for a failure that concerns only this
///    call.
/// 3. The bytes are sent with a token. A refusal of a token that expired in transit becomes a
///    status that the SDK retries.
pub fn sdk_service(
    channel: AuthorizedChannel,
    rotating: RotatingChannel,
    compression: Option<CompressionEncoding>,
    outcomes: Arc<CallOutcomes>,
    explain: impl Fn(&Status, Option<&str>) -> Option<(String, Cause)> + Clone + Send + Sync + 'static,
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

/// Counts the outcomes of calls, and logs the failures that last.
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
                Err(Explained {
                    status,
                    answered,
                    cause,
                }) => {
                    outcomes.failed(call, answered, cause);
                    Err(status)
                }
            }
        })
    }
}

/// A failed call as the SDK sees it, the code with which it failed, and the cause if it affects other
/// calls too.
struct Explained {
    status: Status,
    answered: Code,
    cause: Option<Cause>,
}

impl From<Status> for Explained {
    fn from(status: Status) -> Self {
        Self {
            answered: status.code(),
            status,
            cause: None,
        }
    }
}

/// A failed call and its namespace.
struct Failed {
    status: Status,
    namespace: Option<String>,
    repetition: Repetition,
}

/// When the SDK is made to repeat a failed call that it would not repeat by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repetition {
    /// Never.
    Never,
    /// After the call reached its deadline: the server recognizes the repeated call as the same
    /// one.
    AfterDeadline,
    /// After a temporary refusal: it is a call of a worker.
    AfterRefusal,
}

impl Repetition {
    fn of(rpc: &str, proto: Bytes) -> Self {
        // `DescribeNamespace` is the first call of the SDK's worker.
        if POLLS.contains(&rpc) || rpc.starts_with("Respond") || rpc == "DescribeNamespace" {
            Self::AfterRefusal
        } else if is_repeatable(rpc, proto) {
            Self::AfterDeadline
        } else {
            Self::Never
        }
    }
}

/// Makes the status that the SDK needs for its retry decision, with a message for people.
///
/// A call that is queued on a connection which the server closes by age fails as `Cancelled`. The
/// SDK retries that only if the sources of the error contain a transport error, and the callback
/// drops the sources. It does not retry a call that reached its deadline; a start with a request id
/// can be repeated, and becomes `Unavailable`.
///
/// The SDK retries a refused poll for a minute, and then ends its worker. It drops the result of a
/// task if the server refuses it. Both statuses become `Unavailable` if the refusal is temporary:
/// the SDK then repeats polls without limit, and results for a minute.
fn explained(
    Failed {
        status,
        namespace,
        repetition,
    }: Failed,
    target: &str,
    explain: &impl Fn(&Status, Option<&str>) -> Option<(String, Cause)>,
) -> Explained {
    if LocalCause::of(&status) == Some(LocalCause::TokenExpiredOnTheWay) {
        return status.into();
    }
    if repetition == Repetition::AfterDeadline && is_late(&status) {
        let message = format!("`{target}` did not answer the call before its deadline");
        return Status::unavailable(message).into();
    }
    let (message, cause) = explain(&status, namespace.as_deref()).unzip();
    let answered = status.code();
    let Some(source) = status.source() else {
        let (Some(message), Some(cause)) = (message, cause) else {
            return status.into();
        };
        let waits = repetition == Repetition::AfterRefusal && is_refusal(&status) && cause.may_pass;
        let code = if waits { Code::Unavailable } else { answered };
        let details = Bytes::copy_from_slice(status.details());
        let metadata = status.metadata().clone();
        return Explained {
            status: Status::with_details_and_metadata(code, message, details, metadata),
            answered,
            cause: Some(cause),
        };
    };
    if is_late(&status) {
        return Status::deadline_exceeded("the call took longer than its grpc-timeout").into();
    }
    if causes(source).any(|cause| cause.is::<tonic::transport::Error>()) {
        let message = message
            .unwrap_or_else(|| format!("the connection to `{target}` failed: {}", chain(source)));
        return Explained {
            cause,
            ..Status::unavailable(message).into()
        };
    }
    Explained {
        status,
        answered,
        cause,
    }
}

/// Whether a call reached its deadline, here or at the server.
fn is_late(status: &Status) -> bool {
    let expired = |source| causes(source).any(|cause| cause.is::<TimeoutExpired>());
    status.code() == Code::DeadlineExceeded || status.source().is_some_and(expired)
}

/// Whether this is the start of a workflow with a request id, by which the server recognizes its
/// repetition.
fn is_repeatable(rpc: &str, proto: Bytes) -> bool {
    let request_id = match rpc {
        "StartWorkflowExecution" => {
            StartWorkflowExecutionRequest::decode(proto).map(|start| start.request_id)
        }
        "SignalWithStartWorkflowExecution" => {
            SignalWithStartWorkflowExecutionRequest::decode(proto).map(|start| start.request_id)
        }
        _ => return false,
    };
    request_id.is_ok_and(|request_id| !request_id.is_empty())
}

/// Sends the bytes of one call unchanged.
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
        let status = Status::internal("the SDK named a method that does not form a path");
        return Err(Failed {
            status,
            namespace,
            repetition: Repetition::Never,
        });
    };
    let mut grpc = Grpc::new(channel).max_decoding_message_size(LARGEST_ANSWER);
    if let Some(encoding) = compression {
        grpc = grpc.send_compressed(encoding).accept_compressed(encoding);
    }
    let headers = without(request.headers, &REQUEST_HEADERS_TO_DROP);
    let mut message = Request::new(request.proto.clone());
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
            // The body is already decompressed, so the headers of the wire format no longer apply.
            let headers = std::mem::take(status.metadata_mut()).into_headers();
            let headers = without(headers, &RESPONSE_HEADERS_TO_DROP);
            *status.metadata_mut() = MetadataMap::from_headers(headers);
            if let Some(at) = expiry.passed(SystemTime::now())
                && is_refusal(&status)
            {
                status = expired_on_the_way(&status, at);
            }
            Err(Failed {
                repetition: Repetition::of(&request.rpc, request.proto),
                status,
                namespace,
            })
        }
    }
}

/// The header with which the SDK names the namespace of a call.
const NAMESPACE: &str = "temporal-namespace";

/// A token can expire after its call was sent, while the server hangs or the machine sleeps. The
/// server then refuses a call whose token was valid when it was sent. The SDK does not retry a
/// refusal. It retries this status, and the next attempt has a newer token.
fn expired_on_the_way(refused: &Status, expired_at: SystemTime) -> Status {
    LocalCause::TokenExpiredOnTheWay.mark(Status::unavailable(format!(
        "the token of this call expired at {}, before the server checked it: {}",
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

/// Request headers that the channel writes itself.
const REQUEST_HEADERS_TO_DROP: [&str; 6] = [
    "content-type",
    "content-length",
    "te",
    "user-agent",
    "grpc-encoding",
    "grpc-accept-encoding",
];

/// Response headers that describe the bytes on the wire and not the decoded message. The SDK
/// rejects an answer that names an encoding, and treats an answer with a status header as empty.
const RESPONSE_HEADERS_TO_DROP: [&str; 6] = [
    "content-type",
    "content-length",
    "grpc-encoding",
    "grpc-accept-encoding",
    "grpc-status",
    "grpc-message",
];

/// A codec for bytes that are already protobuf.
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

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use tokio::net::TcpListener;
    use tonic::service::interceptor::InterceptedService;

    use super::*;
    use crate::{
        diagnosis::{Class, Diagnosis, Step},
        transport::{AuthInterceptor, Connector, Security},
    };

    /// Calls over a connection that carries nothing after it was made, as one through a firewall
    /// that has forgotten it: no answer, and no RST.
    async fn call_over_dead_connection(
        rpc: &str,
        request_id: &str,
        deadline: &str,
    ) -> (Code, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let security = Security::Plaintext {
            loopback_only: true,
        };
        let port = listener.local_addr().unwrap().port();
        let rotating = RotatingChannel::new(Connector::new("127.0.0.1", port, security)).unwrap();
        let channel = InterceptedService::new(rotating.clone(), AuthInterceptor::new(None));
        let service = sdk_service(channel, rotating, None, Arc::default(), |_, _| None);
        let start = StartWorkflowExecutionRequest {
            request_id: request_id.to_owned(),
            ..StartWorkflowExecutionRequest::default()
        };
        let call = (service.callback)(GrpcRequest {
            service: "temporal.api.workflowservice.v1.WorkflowService".to_owned(),
            rpc: rpc.to_owned(),
            headers: [("grpc-timeout".parse().unwrap(), deadline.parse().unwrap())]
                .into_iter()
                .collect(),
            proto: start.encode_to_vec().into(),
        });
        // The kernel accepts the connection, and nothing reads from it.
        let status = call.await.err().unwrap();
        drop(listener);
        (status.code(), status.message().to_owned())
    }

    #[test]
    fn a_refusal_that_may_pass_is_repeated_where_a_worker_makes_the_call() {
        for (rpc, may_pass, expected) in [
            ("PollActivityTaskQueue", true, Code::Unavailable),
            ("PollActivityTaskQueue", false, Code::PermissionDenied),
            ("RespondWorkflowTaskCompleted", true, Code::Unavailable),
            ("DescribeNamespace", true, Code::Unavailable),
            ("StartWorkflowExecution", true, Code::PermissionDenied),
        ] {
            let failed = Failed {
                status: Status::permission_denied("Request unauthorized."),
                namespace: None,
                repetition: Repetition::of(rpc, Bytes::new()),
            };
            let cause = Cause {
                diagnosis: Diagnosis {
                    step: Step::Jwks,
                    class: Class::Token,
                    cause: "no such kid".to_owned(),
                    hint: None,
                },
                may_pass,
            };
            let explain = |_: &Status, _: Option<&str>| Some(("why".to_owned(), cause.clone()));
            let told = explained(failed, "server:7233", &explain);
            assert_eq!(told.status.code(), expected, "{rpc} {may_pass}");
            assert_eq!(told.answered, Code::PermissionDenied, "{rpc} {may_pass}");
        }
    }

    #[tokio::test]
    async fn a_dead_connection_is_found_before_the_deadline_of_its_calls() {
        let begun = Instant::now();
        let (code, message) = call_over_dead_connection("GetSystemInfo", "", "30S").await;
        assert_eq!(code, Code::Unavailable, "{message}");
        assert!(begun.elapsed() < Duration::from_secs(26), "{message}");
    }

    #[tokio::test]
    async fn only_a_start_with_a_request_id_is_repeated_after_its_deadline() {
        for (rpc, request_id, expected) in [
            ("StartWorkflowExecution", "id", Code::Unavailable),
            ("SignalWithStartWorkflowExecution", "id", Code::Unavailable),
            ("StartWorkflowExecution", "", Code::DeadlineExceeded),
            ("UpdateWorkflowExecution", "id", Code::DeadlineExceeded),
        ] {
            let (code, message) = call_over_dead_connection(rpc, request_id, "100m").await;
            assert_eq!(code, expected, "{rpc} {request_id}: {message}");
        }
    }
}
