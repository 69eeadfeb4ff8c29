//! The SDK's metrics.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use temporalio_common::telemetry::{
    PrometheusExporterOptions, TelemetryOptions,
    metrics::{CoreMeter, TemporalMeter},
    start_prometheus_metric_exporter, telemetry_init,
};
use tokio::task::AbortHandle;

/// What the SDK counts, and where that can be read. The SDK offers it at a listener of its own
/// alone, which is open to this machine, for the health endpoint to read. It ends when this is
/// dropped.
#[derive(Debug)]
pub struct SdkMetrics {
    meter: Arc<dyn CoreMeter>,
    client_meter: Option<TemporalMeter>,
    address: SocketAddr,
    listening: AbortHandle,
}

/// There is no listener for the SDK's metrics.
#[derive(Debug, thiserror::Error)]
#[error("failed to set up the metrics of the Temporal SDK")]
pub struct MetricsError(#[source] Box<dyn std::error::Error + Send + Sync>);

impl SdkMetrics {
    /// Starts to count. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`MetricsError`], when this machine has no port left.
    pub fn start() -> Result<Self, MetricsError> {
        let options = PrometheusExporterOptions::builder()
            .socket_addr(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
            // Names and units as the SDK has them: the dashboards of temporalio/dashboards ask for
            // those.
            .build();
        let failed = |error: anyhow::Error| MetricsError(error.into_boxed_dyn_error());
        let started = start_prometheus_metric_exporter(options).map_err(failed)?;
        let meter: Arc<dyn CoreMeter> = started.meter;
        let telemetry = TelemetryOptions::builder().metrics(meter.clone()).build();
        Ok(Self {
            client_meter: telemetry_init(telemetry)
                .map_err(failed)?
                .get_temporal_metric_meter(),
            meter,
            address: started.bound_addr,
            listening: started.abort_handle,
        })
    }

    /// What the SDK's worker counts with.
    pub fn meter(&self) -> Arc<dyn CoreMeter> {
        self.meter.clone()
    }

    /// What the SDK's client counts with: the same, under the names that the SDK gives to it.
    pub fn client_meter(&self) -> Option<TemporalMeter> {
        self.client_meter.clone()
    }

    /// Where `/metrics` is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for SdkMetrics {
    fn drop(&mut self) {
        self.listening.abort();
    }
}
