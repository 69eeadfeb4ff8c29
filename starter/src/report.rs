//! What the workflows came to.

use std::{collections::BTreeMap, fmt, time::Duration};

use crate::load::Outcome;

/// The results, failures and latencies of a run.
pub struct Summary {
    /// How often each result came.
    results: BTreeMap<String, usize>,
    latencies: Latencies,
    failures: usize,
}

/// In ascending order.
pub struct Latencies(Vec<Duration>);

impl Latencies {
    /// Of those that ended well.
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
                Ok(done) => *report.results.entry(done.result.clone()).or_default() += 1,
                Err(_) => report.failures += 1,
            }
        }
        report
    }

    fn all(&self) -> usize {
        self.failures + self.latencies.0.len()
    }

    /// Puts before a failure how many there were, where there were several workflows.
    pub fn counted(&self, failure: &str) -> String {
        match self.all() {
            0 | 1 => failure.to_owned(),
            all => format!("{} of {all} workflows failed: {failure}", self.failures),
        }
    }
}

/// As it is printed: of a single workflow its result alone.
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.all() == 1 {
            return match self.results.keys().next() {
                Some(result) => write!(f, "Workflow result: {result}"),
                None => Ok(()),
            };
        }
        for (result, count) in &self.results {
            writeln!(f, "Workflow result: {result} ({count} times)")?;
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
            "\nlatency: median {} ms, 95% {} ms, 99% {} ms, worst {} ms",
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
    use crate::load::{Done, FailedRun};

    fn done(milliseconds: u64) -> Outcome {
        Outcome {
            workflow_id: "hello".to_owned(),
            run_id: None,
            ended: Ok(Done {
                result: "Hello!".into(),
                latency: Duration::from_millis(milliseconds),
            }),
        }
    }

    fn refused() -> Outcome {
        Outcome {
            ended: Err(FailedRun::of(&anyhow::anyhow!("refused"))),
            ..done(1)
        }
    }

    #[test]
    fn quantiles_are_of_what_was_measured() {
        let outcomes: Vec<_> = (1..=100).rev().map(done).collect();
        assert_eq!(
            Summary::of(&outcomes).to_string(),
            "Workflow result: Hello! (100 times)\nfailed: 0\n\
             latency: median 50 ms, 95% 95 ms, 99% 99 ms, worst 100 ms"
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
    fn of_one_workflow_nothing_is_told_but_its_result() {
        let report = Summary::of(&[done(1)]);
        assert_eq!(report.to_string(), "Workflow result: Hello!");
        let report = Summary::of(&[refused()]);
        assert_eq!(report.to_string(), "");
        assert_eq!(report.counted("refused"), "refused");
    }
}
