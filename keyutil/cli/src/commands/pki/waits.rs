//! How long a step of a CA rotation waits for everybody to have seen the step before.

use std::time::Duration;

use clap::Args;
use humantime::parse_duration;

/// Each wait is the sum of the two.
#[derive(Args, Clone, Copy, Debug)]
pub struct Waits {
    /// How often the server looks for new certificate files: its `global.tls.refreshInterval`.
    ///
    /// The server's own default is 0, which means never: then no rotation reaches it before its
    /// next restart.
    #[arg(long, env = "KEYUTIL_TLS_REFRESH_INTERVAL", value_name = "DURATION", default_value = "1m", value_parser = parse_duration)]
    pub refresh_interval: Duration,

    /// How long a replaced file takes to reach whoever reads it, and to be picked up.
    ///
    /// Worker and starter look once a second. For mounted Kubernetes secrets allow three minutes.
    #[arg(long, env = "KEYUTIL_PROPAGATION", value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    pub propagation: Duration,
}
