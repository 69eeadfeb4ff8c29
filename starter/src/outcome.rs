//! How workflows ended, and what the results of many have in common.

use std::{collections::BTreeMap, fmt, time::Duration};

use keyutil::{
    Diagnosis,
    diagnosis::{Class, Step},
    program,
};
use serde_json::Value;

/// How one workflow, or one call to it, ended.
pub struct Outcome {
    pub workflow_id: String,
    /// `None` where no workflow was started.
    pub run_id: Option<String>,
    pub ended: Result<Done, Failure>,
}

pub struct Done {
    /// What the result is, for the text output.
    pub label: &'static str,
    pub result: Value,
    /// From the call to its result.
    pub latency: Duration,
}

/// Why there is no result.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The error and all its causes.
    pub message: String,
    pub diagnosis: Diagnosis,
    pub lateness: Option<Lateness>,
}

/// What took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lateness {
    NotStarted,
    NotFinished,
}

impl Failure {
    pub fn of(error: &anyhow::Error) -> Self {
        Self {
            message: keyutil::chain(error.as_ref()),
            diagnosis: program::diagnosis(error),
            lateness: None,
        }
    }

    pub fn late(message: String, lateness: Lateness) -> Self {
        let diagnosis = Diagnosis {
            step: Step::TaskQueue,
            class: Class::Other,
            cause: message.clone(),
            hint: None,
        };
        Self {
            message,
            diagnosis,
            lateness: Some(lateness),
        }
    }
}

/// The results, failures and latencies of a run.
pub struct Summary {
    /// How often each line came.
    results: BTreeMap<String, usize>,
    latencies: Latencies,
    failures: usize,
}

/// In ascending order.
pub struct Latencies(Vec<Duration>);

impl Latencies {
    /// The latencies of the workflows that succeeded.
    pub fn of(outcomes: &[Outcome]) -> Self {
        let done = outcomes
            .iter()
            .filter_map(|outcome| outcome.ended.as_ref().ok());
        let mut latencies: Vec<_> = done.map(|done| done.latency).collect();
        latencies.sort();
        Self(latencies)
    }

    /// The smallest latency that at least `share` of all workflows did not exceed.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let rank = (share * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.max(1) - 1).copied()
    }
}

impl Summary {
    pub fn of(outcomes: &[Outcome]) -> Self {
        let mut report = Self {
            results: BTreeMap::new(),
            latencies: Latencies::of(outcomes),
            failures: 0,
        };
        for outcome in outcomes {
            match &outcome.ended {
                Ok(done) => *report.results.entry(done.to_string()).or_default() += 1,
                Err(_) => report.failures += 1,
            }
        }
        report
    }

    fn all(&self) -> usize {
        self.failures + self.latencies.0.len()
    }

    /// Prefixes a failure with the number of failures, where there were several workflows.
    pub fn counted(&self, failure: &str) -> String {
        match self.all() {
            0 | 1 => failure.to_owned(),
            all => format!("{} of {all} workflows failed: {failure}", self.failures),
        }
    }
}

/// A label and the result; a text without its quotes.
impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.result.as_str() {
            Some(text) => write!(f, "{}: {text}", self.label),
            None => write!(f, "{}: {}", self.label, self.result),
        }
    }
}

/// For one workflow, its result alone.
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.all() == 1 {
            return match self.results.keys().next() {
                Some(result) => f.write_str(result),
                None => Ok(()),
            };
        }
        for (result, count) in &self.results {
            writeln!(f, "{result} ({count} times)")?;
        }
        write!(f, "failed: {}", self.failures)?;
        if self.latencies.0.is_empty() {
            return Ok(());
        }
        let latency = |share| {
            let quantile = self.latencies.quantile(share);
            quantile.unwrap_or_default().as_millis()
        };
        write!(
            f,
            "\nlatency: median {} ms, p95 {} ms, p99 {} ms, worst {} ms",
            latency(0.5),
            latency(0.95),
            latency(0.99),
            latency(1.0)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(milliseconds: u64) -> Outcome {
        Outcome {
            workflow_id: "hello".to_owned(),
            run_id: None,
            ended: Ok(Done {
                label: "Workflow result",
                result: "Hello!".into(),
                latency: Duration::from_millis(milliseconds),
            }),
        }
    }

    fn refused() -> Outcome {
        Outcome {
            ended: Err(Failure::of(&anyhow::anyhow!("refused"))),
            ..done(1)
        }
    }

    #[test]
    fn quantiles_are_measured_latencies() {
        let outcomes: Vec<_> = (1..=100).rev().map(done).collect();
        assert_eq!(
            Summary::of(&outcomes).to_string(),
            "Workflow result: Hello! (100 times)\nfailed: 0\n\
             latency: median 50 ms, p95 95 ms, p99 99 ms, worst 100 ms"
        );
    }

    #[test]
    fn failures_are_counted() {
        let report = Summary::of(&[done(1), refused()]);
        assert!(report.to_string().contains("failed: 1"));
        assert_eq!(
            report.counted("refused"),
            "1 of 2 workflows failed: refused"
        );
    }

    #[test]
    fn a_run_without_success_has_no_latencies() {
        assert_eq!(
            Summary::of(&[refused(), refused()]).to_string(),
            "failed: 2"
        );
    }

    #[test]
    fn one_workflow_is_summarized_by_its_result() {
        let report = Summary::of(&[done(1)]);
        assert_eq!(report.to_string(), "Workflow result: Hello!");
        let report = Summary::of(&[refused()]);
        assert_eq!(report.to_string(), "");
        assert_eq!(report.counted("refused"), "refused");
    }
}
