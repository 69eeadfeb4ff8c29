//! OpenTelemetry traces over OTLP/gRPC (cargo feature `otel`).
//!
//! One trace follows a workflow from the start call through its activities, signals, queries and
//! updates, across processes and SDKs of other languages: the SDK's plugin sends the context in the
//! header `_tracer-data`. The standard variables configure the export:
//! `OTEL_EXPORTER_OTLP_ENDPOINT`, without which nothing is exported, `OTEL_SERVICE_NAME`,
//! `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER` and `OTEL_SDK_DISABLED`.
//!
//! [`program::main`](crate::program::main) starts and stops the export, and
//! [`Connection::client`](crate::Connection::client) has the plugin. A client with other options
//! adds it with `ClientOptionsBuilder::plugins(keyutil::traces::plugin())`.

use std::{sync::OnceLock, time::Duration};

use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use temporalio_sdk::{
    SimplePlugin,
    opentelemetry::{INSTRUMENTATION_SCOPE, OpenTelemetryPlugin, WorkflowIdGenerator},
};
use tracing::warn;

static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// Time limit for exporting the last spans when the program ends.
const FLUSH_LIMIT: Duration = Duration::from_secs(3);

/// Starts to export the spans of this process, if the environment names an endpoint. `program` is
/// the default service name. Needs a tokio runtime.
///
/// # Errors
/// [`TracesError`], if the endpoint is not a URL.
pub fn start(program: &str) -> Result<(), TracesError> {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let endpoint = set("OTEL_EXPORTER_OTLP_ENDPOINT") || set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
    let disabled =
        std::env::var("OTEL_SDK_DISABLED").is_ok_and(|value| value.eq_ignore_ascii_case("true"));
    if !endpoint || disabled {
        return Ok(());
    }
    let exporter = SpanExporter::builder().with_tonic().build();
    let mut resource = Resource::builder();
    if !set("OTEL_SERVICE_NAME") {
        resource = resource.with_service_name(program.to_owned());
    }
    let provider = SdkTracerProvider::builder()
        .with_id_generator(WorkflowIdGenerator::default())
        .with_resource(resource.build())
        .with_batch_exporter(exporter.map_err(TracesError)?)
        .build();
    let _ = PROVIDER.set(provider);
    Ok(())
}

/// The SDK's plugin for clients and workers, if [`start`] has started an export.
#[must_use]
pub fn plugin() -> Option<SimplePlugin> {
    let provider = PROVIDER.get()?;
    let tracer = provider.tracer(INSTRUMENTATION_SCOPE);
    Some(OpenTelemetryPlugin::builder().tracer(tracer).build())
}

/// Exports the remaining spans, and stops the export.
pub async fn stop() {
    let Some(provider) = PROVIDER.get() else {
        return;
    };
    // It blocks the thread, and the export needs the runtime.
    let stopped =
        tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH_LIMIT)).await;
    if let Ok(Err(error)) = stopped {
        warn!(%error, "the last spans were not exported");
    }
}

/// The exporter could not be set up from the `OTEL_EXPORTER_OTLP_…` variables.
#[derive(Debug, thiserror::Error)]
#[error("failed to set up the export of traces from the `OTEL_EXPORTER_OTLP_…` variables")]
pub struct TracesError(#[source] ExporterBuildError);
