//! The one object of `--output json`.

use std::time::Duration;

use keyutil::{Diagnosis, Status, program, status::Presented};
use serde::Serialize;
use serde_json::Value;

use crate::outcome::{Latencies, Outcome};

/// The outcome of the whole program.
#[derive(Serialize)]
pub struct Object {
    /// Whether all of it succeeded.
    ok: bool,
    exit_code: u8,
    address: String,
    namespace: String,
    task_queue: String,
    /// Whether `--check` was given.
    check: bool,
    duration_ms: u128,
    credentials: CredentialsObject,
    workflows: Vec<Workflow>,
    /// The latencies of the workflows that succeeded.
    latency_ms: Option<Quantiles>,
    /// The first failure.
    failure: Option<Diagnosis>,
}

/// The credentials that were presented, or null.
#[derive(Default, Serialize)]
struct CredentialsObject {
    token_kid: Option<String>,
    client_certificate: Option<Presented>,
    server_certificate: Option<Presented>,
}

#[derive(Serialize)]
struct Workflow {
    workflow_id: String,
    run_id: Option<String>,
    result: Option<Value>,
    latency_ms: Option<u128>,
    error: Option<String>,
}

#[derive(Serialize)]
struct Quantiles {
    median: u128,
    p95: u128,
    p99: u128,
    worst: u128,
}

/// What the arguments say.
pub struct About {
    pub address: String,
    pub namespace: String,
    pub task_queue: String,
    pub check: bool,
}

impl Object {
    /// `status` is that of the connection, if one was made.
    pub fn new(
        about: About,
        took: Duration,
        status: Option<Status>,
        outcomes: &[Outcome],
        failure: Option<&anyhow::Error>,
    ) -> Self {
        let failure = failure.map(program::diagnosis);
        Self {
            ok: failure.is_none(),
            exit_code: failure.as_ref().map_or(0, |why| why.class.exit_code()),
            address: about.address,
            namespace: about.namespace,
            task_queue: about.task_queue,
            check: about.check,
            duration_ms: took.as_millis(),
            credentials: status.map(CredentialsObject::of).unwrap_or_default(),
            workflows: outcomes.iter().map(Workflow::of).collect(),
            latency_ms: Quantiles::of(&Latencies::of(outcomes)),
            failure,
        }
    }
}

impl CredentialsObject {
    fn of(status: Status) -> Self {
        let handshake = status.connection.last_handshake;
        let (client, server) = match handshake {
            Some(handshake) => (handshake.client, handshake.server),
            None => (None, None),
        };
        Self {
            token_kid: status.credentials.token.and_then(|token| token.id),
            client_certificate: client,
            server_certificate: server,
        }
    }
}

impl Workflow {
    fn of(outcome: &Outcome) -> Self {
        let done = outcome.ended.as_ref().ok();
        let error = outcome.ended.as_ref().err();
        Self {
            workflow_id: outcome.workflow_id.clone(),
            run_id: outcome.run_id.clone(),
            result: done.map(|done| done.result.clone()),
            latency_ms: done.map(|done| done.latency.as_millis()),
            error: error.map(|error| error.message.clone()),
        }
    }
}

impl Quantiles {
    fn of(latencies: &Latencies) -> Option<Self> {
        let at = |share| Some(latencies.quantile(share)?.as_millis());
        Some(Self {
            median: at(0.5)?,
            p95: at(0.95)?,
            p99: at(0.99)?,
            worst: at(1.0)?,
        })
    }
}
