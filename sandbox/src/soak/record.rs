//! What a soak saw: every workflow, every rotation, and what they come to.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

/// What rotates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Credential {
    /// Minted anew by worker and starter.
    Token,
    /// The key that signs tokens.
    SigningKey,
    /// The client certificates of worker and starter.
    ClientCertificate,
    /// The CA that signs them.
    ClientCa,
    /// The CA of the server's certificate, and that certificate.
    FrontendCa,
}

impl Credential {
    /// All of them, in the order of the design.
    pub const ALL: [Self; 5] = [
        Self::Token,
        Self::SigningKey,
        Self::ClientCertificate,
        Self::ClientCa,
        Self::FrontendCa,
    ];

    /// For a person.
    pub fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::SigningKey => "signing key",
            Self::ClientCertificate => "client certificate",
            Self::ClientCa => "client CA",
            Self::FrontendCa => "frontend CA",
        }
    }
}

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

/// A credential that was replaced, and was seen to be by the other side.
#[derive(Clone, Debug, Serialize)]
pub struct Rotation {
    /// Since the start of the soak: when its files were replaced for the first time.
    #[serde(serialize_with = "seconds")]
    pub at: Duration,
    /// What was replaced.
    pub credential: Credential,
    /// What told the old one: kid, serial, issuer.
    pub before: String,
    /// What tells the new one.
    pub now: String,
    /// What showed that it is in effect.
    pub seen: String,
    /// How long after the file was replaced the new one was seen in use.
    #[serde(serialize_with = "seconds")]
    pub seen_after: Duration,
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
    pub worker: serde_json::Value,
    /// The same of the process that started workflows.
    pub starter: serde_json::Value,
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

fn seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((duration.as_secs_f64() * 1000.0).round() / 1000.0)
}
