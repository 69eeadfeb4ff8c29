//! What a soak saw: every workflow, every rotation, and what they come to.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::Serialize;
use serde_json::Value;

use crate::rotations::{Credential, Rotation};

/// A workflow that ended, well or not.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Since the start of the soak.
    pub ended: Duration,
    /// From the start call to the result in hand.
    pub latency: Duration,
    /// Why it failed, if it did.
    pub failure: Option<String>,
}

/// What is written for machines.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Whether nothing failed, and every rotation was seen to take effect.
    pub passed: bool,
    /// What was wrong, in words. Empty if nothing was.
    pub problems: Vec<String>,
    /// How long workflows were started.
    #[serde(serialize_with = "seconds")]
    pub duration: Duration,
    /// How many workflows were in flight at a time.
    pub concurrency: usize,
    /// How many ended well.
    pub workflows: usize,
    /// How many did not.
    pub failed: usize,
    /// From start call to result, in milliseconds.
    pub latency_ms: Latency,
    /// How often each credential was replaced.
    pub rotations: BTreeMap<Credential, usize>,
    /// The longest time from a replaced file to the new credential seen in use, by credential, in
    /// seconds.
    pub slowest_effect: BTreeMap<Credential, f64>,
    /// Each of them.
    pub events: Vec<Rotation>,
    /// What worker and starter counted themselves.
    pub worker: Value,
    /// The same of the process that started workflows.
    pub starter: Value,
}

/// Quantiles, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Latency {
    /// Half of the workflows took no longer.
    pub median: u128,
    /// 95 of 100 took no longer.
    pub p95: u128,
    /// 99 of 100 took no longer.
    pub p99: u128,
    /// None took longer.
    pub worst: u128,
}

impl Latency {
    /// Of the workflows that ended well.
    pub fn of(samples: &[Sample]) -> Self {
        let ended_well = samples.iter().filter(|sample| sample.failure.is_none());
        let mut latencies: Vec<_> = ended_well.map(|sample| sample.latency).collect();
        latencies.sort();
        let quantile = |share: f64| {
            let rank = (share * latencies.len() as f64).ceil() as usize;
            let latency = latencies.get(rank.max(1) - 1).copied();
            latency.unwrap_or_default().as_millis()
        };
        Self {
            median: quantile(0.5),
            p95: quantile(0.95),
            p99: quantile(0.99),
            worst: quantile(1.0),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(f, "PROBLEM: {problem}")?;
        }
        let seconds = self.duration.as_secs_f64();
        writeln!(
            f,
            "{} workflows in {seconds:.0} s, {} at a time, {} failed",
            self.workflows, self.concurrency, self.failed
        )?;
        let Latency {
            median,
            p95,
            p99,
            worst,
        } = self.latency_ms;
        writeln!(
            f,
            "latency: median {median} ms, 95% {p95} ms, 99% {p99} ms, worst {worst} ms"
        )?;
        for (credential, count) in &self.rotations {
            let slowest = self.slowest_effect.get(credential);
            writeln!(
                f,
                "{} replaced {count} times, in use after {:.1} s at most",
                credential.name(),
                slowest.copied().unwrap_or_default()
            )?;
        }
        let handshakes = |status: &Value| status.pointer("/connection/handshakes").cloned();
        write!(
            f,
            "TLS handshakes: worker {}, starter {}",
            handshakes(&self.worker).unwrap_or_default(),
            handshakes(&self.starter).unwrap_or_default()
        )
    }
}

fn seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((duration.as_secs_f64() * 1000.0).round() / 1000.0)
}
