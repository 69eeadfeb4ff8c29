//! The SDK's metrics.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use temporalio_common::telemetry::{
    PrometheusExporterOptions, metrics::CoreMeter, start_prometheus_metric_exporter,
};
use tokio::task::AbortHandle;

/// What the SDK counts, and where that can be read. The SDK offers it at a listener of its own
/// alone, which is open to this machine, for the health endpoint to read. It ends when this is
/// dropped.
#[derive(Debug)]
pub struct SdkMetrics {
    meter: Arc<dyn CoreMeter>,
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
            // As Prometheus would have names and units.
            .counters_total_suffix(true)
            .unit_suffix(true)
            .use_seconds_for_durations(true)
            .build();
        let started = start_prometheus_metric_exporter(options)
            .map_err(|error| MetricsError(error.into_boxed_dyn_error()))?;
        Ok(Self {
            meter: started.meter,
            address: started.bound_addr,
            listening: started.abort_handle,
        })
    }

    /// What the SDK counts with.
    pub fn meter(&self) -> Arc<dyn CoreMeter> {
        self.meter.clone()
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
