//! Worker and starter export OpenTelemetry traces, to a receiver of the test's own.

use std::sync::{Arc, Mutex};

use crate::support::{self, LIMIT};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value},
    trace::v1::Span,
};
use sandbox::StackOptions;
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, transport::Server};

/// The spans that were received, each with the name of its service.
#[derive(Clone, Default)]
struct Receiver(Arc<Mutex<Vec<(String, Span)>>>);

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.unwrap_or_default().attributes;
            let service = text(&attributes, "service.name").unwrap_or_default();
            let spans = resource
                .scope_spans
                .into_iter()
                .flat_map(|scope| scope.spans);
            let mut received = self.0.lock().unwrap();
            received.extend(spans.map(|span| (service.clone(), span)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Receiver {
    /// Listens on a free port, and returns the endpoint.
    async fn listen(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let server = Server::builder().add_service(TraceServiceServer::new(self.clone()));
        let incoming = futures::stream::unfold(listener, async |listener| {
            let accepted = listener.accept().await.map(|(stream, _)| stream);
            Some((accepted, listener))
        });
        tokio::spawn(server.serve_with_incoming(incoming));
        endpoint
    }

    fn named(&self, service: &str, name: &str) -> Span {
        let received = self.0.lock().unwrap();
        let mut found = received
            .iter()
            .filter(|(of, span)| of == service && span.name == name);
        let (_, span) = found
            .next()
            .unwrap_or_else(|| panic!("no {name} of {service} in {received:#?}"));
        span.clone()
    }
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        any_value::Value::StringValue(text) => Some(text.clone()),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_leads_from_the_start_to_the_activity() {
    let stack = support::stack(StackOptions::default()).await;
    let receiver = Receiver::default();
    let endpoint = receiver.listen().await;

    let mut worker = support::worker_command(&stack).await;
    worker.env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint);
    let worker = support::polling(&mut worker).await;
    let mut starter = support::starter_command(&stack).await;
    starter
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)
        .env("OTEL_SERVICE_NAME", "smoke-test")
        .args(["--workflow-id", "traced"]);
    support::assert_success(&support::run(&mut starter).await);
    // Both export what is left when they end.
    worker.stop().await;

    let started = receiver.named("smoke-test", "StartWorkflow:HelloWorkflow");
    assert_eq!(
        text(&started.attributes, "temporalWorkflowID").as_deref(),
        Some("traced")
    );
    let mut parent = started.clone();
    for name in [
        "RunWorkflow:HelloWorkflow",
        "StartActivity:Greetings::greet",
        "RunActivity:Greetings::greet",
    ] {
        let span = receiver.named("worker", name);
        assert_eq!(span.trace_id, started.trace_id, "{name}");
        assert_eq!(span.parent_span_id, parent.span_id, "{name}");
        parent = span;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_collector_the_work_goes_on() {
    let stack = support::stack(StackOptions::default()).await;
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", unused.local_addr().unwrap());
    drop(unused);
    let mut worker = support::worker_command(&stack).await;
    worker.env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint);
    let mut worker = support::polling(&mut worker).await;
    support::assert_greeted(&support::starter(&stack, &[]).await);
    worker.signal(sandbox::guard::Signal::TERM);
    let status = worker.ended(LIMIT).await;
    assert!(status.success(), "{status}");
    worker
        .wait_for("BatchSpanProcessor.ExportError", LIMIT)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_no_url_is_refused() {
    let stack = support::stack(StackOptions::default()).await;
    let mut starter = support::starter_command(&stack).await;
    starter.env("OTEL_EXPORTER_OTLP_ENDPOINT", "not a url");
    let output = support::run(&mut starter).await;
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    let message = support::stderr(&output);
    assert!(message.contains("OTEL_EXPORTER_OTLP_"), "{message}");
}
