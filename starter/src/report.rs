//! What many workflows came to.

use std::{collections::BTreeMap, fmt, time::Duration};

use anyhow::bail;

use crate::load::Done;

/// The results, failures and latencies of a run.
pub struct Report {
    /// How often each result came.
    results: BTreeMap<String, usize>,
    /// In ascending order.
    latencies: Vec<Duration>,
    failures: usize,
}

impl Report {
    pub fn of(outcomes: Vec<anyhow::Result<Done>>) -> Self {
        let mut report = Self {
            results: BTreeMap::new(),
            latencies: Vec::new(),
            failures: 0,
        };
        for outcome in outcomes {
            match outcome {
                Ok(done) => {
                    *report.results.entry(done.result).or_default() += 1;
                    report.latencies.push(done.latency);
                }
                Err(_) => report.failures += 1,
            }
        }
        report.latencies.sort();
        report
    }

    /// An error, if any workflow failed.
    pub fn into_result(self) -> anyhow::Result<()> {
        if self.failures > 0 {
            let all = self.failures + self.latencies.len();
            bail!("{} of {all} workflows failed", self.failures);
        }
        Ok(())
    }

    /// The smallest latency that at least `share` of all workflows did not exceed.
    fn quantile(&self, share: f64) -> Option<Duration> {
        let rank = (share * self.latencies.len() as f64).ceil() as usize;
        self.latencies.get(rank.max(1) - 1).copied()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (result, count) in &self.results {
            writeln!(f, "Workflow result: {result} ({count} times)")?;
        }
        writeln!(f, "failed: {}", self.failures)?;
        let latency = |share| self.quantile(share).unwrap_or_default().as_millis();
        if self.latencies.is_empty() {
            return Ok(());
        }
        writeln!(
            f,
            "latency: median {} ms, 95% {} ms, 99% {} ms, worst {} ms",
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

    fn outcome(milliseconds: u64) -> anyhow::Result<Done> {
        Ok(Done {
            result: "Hello!".into(),
            latency: Duration::from_millis(milliseconds),
        })
    }

    #[test]
    fn quantiles_are_of_what_was_measured() {
        let report = Report::of((1..=100).rev().map(outcome).collect());
        assert_eq!(
            report.to_string(),
            "Workflow result: Hello! (100 times)\nfailed: 0\n\
             latency: median 50 ms, 95% 95 ms, 99% 99 ms, worst 100 ms\n"
        );
        assert!(report.into_result().is_ok());
    }

    #[test]
    fn one_failure_fails_the_run() {
        let report = Report::of(vec![outcome(1), Err(anyhow::anyhow!("refused"))]);
        assert!(report.to_string().contains("failed: 1"));
        let error = report.into_result().unwrap_err();
        assert_eq!(error.to_string(), "1 of 2 workflows failed");
    }

    #[test]
    fn a_run_without_success_has_no_latencies() {
        let report = Report::of(vec![Err(anyhow::anyhow!("refused"))]);
        assert_eq!(report.to_string(), "failed: 1\n");
    }
}
