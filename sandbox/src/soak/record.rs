//! The result of a soak: every workflow, every rotation, and what follows from them.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::Serialize;
use serde_json::Value;

use crate::rotations::{Credential, Rotation, seconds};

/// How often each credential has to be replaced for a soak to prove something.
const AT_LEAST: usize = 2;

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
    pub concurrency: u32,
    /// How many ended well.
    pub workflows: usize,
    /// How many did not.
    pub failed: usize,
    /// From start call to result, in milliseconds.
    pub latency_ms: Latency,
    /// The workflow that took the longest.
    pub worst: Option<Worst>,
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

impl Summary {
    /// Adds to the problems what the figures themselves show, and says whether there are any.
    pub fn judge(&mut self, samples: &[Sample]) {
        for sample in samples {
            if let Some(failure) = &sample.failure {
                let at = sample.ended.as_secs_f64();
                let problem = format!("at {at:.1} s a workflow failed: {failure}");
                self.problems.push(problem);
            }
        }
        for (side, status) in [("worker", &self.worker), ("starter", &self.starter)] {
            let refusals = status.pointer("/calls/refusals/count");
            let refusals = refusals.and_then(Value::as_u64);
            if refusals != Some(0) {
                self.problems
                    .push(format!("calls of the {side} were refused: {refusals:?}"));
            }
        }
        for credential in Credential::ALL {
            let count = self.rotations.get(&credential).copied().unwrap_or_default();
            if count < AT_LEAST {
                self.problems.push(format!(
                    "the {} was replaced {count} times, and {AT_LEAST} are needed",
                    credential.name()
                ));
            }
        }
        self.passed = self.problems.is_empty();
    }
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
        let quantile = |share| quantile(&latencies, share).unwrap_or_default().as_millis();
        Self {
            median: quantile(0.5),
            p95: quantile(0.95),
            p99: quantile(0.99),
            worst: quantile(1.0),
        }
    }
}

/// A new connection.
#[derive(Clone, Copy, Debug)]
pub struct Handshake {
    /// When it was noticed, since the start of the soak.
    pub at: Duration,
    /// The program that made it: `worker` or `starter`.
    pub side: &'static str,
}

impl Handshake {
    /// The longest time between a new connection and the moment at which it is noticed.
    pub const RESOLUTION: Duration = Duration::from_millis(100);
}

/// The workflow that took the longest, and what else happened while it ran.
#[derive(Clone, Debug, Serialize)]
pub struct Worst {
    /// The time at which it ended, since the start of the soak.
    #[serde(serialize_with = "seconds")]
    pub ended: Duration,
    /// From the start call to the result in hand.
    #[serde(serialize_with = "seconds")]
    pub latency: Duration,
    /// The credentials that were put in place and the connections that were made while it ran.
    /// Empty if there were none.
    pub meanwhile: Vec<String>,
}

impl Worst {
    /// Of the workflows that ended well.
    pub fn of(
        samples: &[Sample],
        rotations: &[Rotation],
        handshakes: &[Handshake],
    ) -> Option<Self> {
        let ended_well = samples.iter().filter(|sample| sample.failure.is_none());
        let sample = ended_well.max_by_key(|sample| sample.latency)?;
        let start = sample.ended.saturating_sub(sample.latency);
        let during = start..=sample.ended + Handshake::RESOLUTION;
        let rotated = rotations
            .iter()
            // A file is seen up to a second after it was put in place.
            .filter(|rotation| {
                during.contains(&rotation.at)
                    || during.contains(&(rotation.at + rotation.seen_after))
            })
            .map(|rotation| {
                let from = rotation.at.as_secs_f64();
                let to = (rotation.at + rotation.seen_after).as_secs_f64();
                let name = rotation.credential.name();
                format!("{name} replaced at {from:.1} s, in use at {to:.1} s")
            });
        let connected = handshakes
            .iter()
            .filter(|handshake| during.contains(&handshake.at))
            .map(|Handshake { at, side }| {
                format!("new connection of the {side} at {:.1} s", at.as_secs_f64())
            });
        Some(Self {
            ended: sample.ended,
            latency: sample.latency,
            meanwhile: rotated.chain(connected).collect(),
        })
    }
}

impl fmt::Display for Worst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.ended.as_secs_f64();
        let start = self.ended.saturating_sub(self.latency).as_secs_f64();
        write!(
            f,
            "the slowest workflow ran from {start:.1} s to {end:.1} s; meanwhile: "
        )?;
        if self.meanwhile.is_empty() {
            return f.write_str("no new credential, no new connection");
        }
        f.write_str(&self.meanwhile.join("; "))
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
            "latency: median {median} ms, p95 {p95} ms, p99 {p99} ms, worst {worst} ms"
        )?;
        if let Some(worst) = &self.worst {
            writeln!(f, "{worst}")?;
        }
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

/// Of values in ascending order the smallest that at least this share of them do not exceed.
pub(super) fn quantile<T: Copy>(ascending: &[T], share: f64) -> Option<T> {
    let rank = (share * ascending.len() as f64).ceil() as usize;
    ascending.get(rank.max(1) - 1).copied()
}

/// How often each credential was replaced, and the longest time until one was seen in use, in
/// seconds.
pub(super) fn totals(
    events: &[Rotation],
) -> (BTreeMap<Credential, usize>, BTreeMap<Credential, f64>) {
    let (mut counts, mut slowest) = (BTreeMap::new(), BTreeMap::new());
    for event in events {
        *counts.entry(event.credential).or_default() += 1;
        let slot: &mut f64 = slowest.entry(event.credential).or_default();
        *slot = slot.max(event.seen_after.as_secs_f64());
    }
    (counts, slowest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary() -> Summary {
        let status = serde_json::json!({"calls": {"refusals": {"count": 0}}});
        Summary {
            passed: false,
            problems: Vec::new(),
            duration: Duration::from_secs(60),
            concurrency: 10,
            workflows: 1,
            failed: 0,
            latency_ms: Latency::default(),
            worst: None,
            rotations: Credential::ALL.map(|credential| (credential, 2)).into(),
            slowest_effect: BTreeMap::new(),
            events: Vec::new(),
            worker: status.clone(),
            starter: status,
        }
    }

    fn sample(failure: Option<&str>) -> Sample {
        Sample {
            ended: Duration::from_secs(1),
            latency: Duration::from_millis(20),
            failure: failure.map(str::to_owned),
        }
    }

    fn judged(mut summary: Summary, samples: &[Sample]) -> Result<(), String> {
        summary.judge(samples);
        assert_eq!(summary.passed, summary.problems.is_empty());
        if summary.passed {
            Ok(())
        } else {
            Err(summary.problems.join("; "))
        }
    }

    #[test]
    fn a_soak_passes_only_without_any_failure() {
        assert_eq!(judged(summary(), &[sample(None)]), Ok(()));
        let failed = judged(summary(), &[sample(None), sample(Some("refused"))]);
        assert!(failed.unwrap_err().contains("a workflow failed: refused"));
    }

    #[test]
    fn a_refused_call_fails_it_even_if_no_workflow_did() {
        for side in ["worker", "starter"] {
            for status in [
                serde_json::json!({"calls": {"refusals": {"count": 1}}}),
                Value::Null,
            ] {
                let mut summary = summary();
                match side {
                    "worker" => summary.worker = status,
                    _ => summary.starter = status,
                }
                let failed = judged(summary, &[]).unwrap_err();
                assert!(failed.contains(&format!("calls of the {side}")), "{failed}");
            }
        }
    }

    #[test]
    fn a_credential_that_was_replaced_once_or_never_fails_it() {
        for count in [Some(1), None] {
            let mut summary = summary();
            summary.rotations.remove(&Credential::FrontendCa);
            summary
                .rotations
                .extend(count.map(|count| (Credential::FrontendCa, count)));
            let failed = judged(summary, &[]).unwrap_err();
            assert!(failed.contains("the frontend CA was replaced"), "{failed}");
        }
    }

    #[test]
    fn a_rotation_that_was_not_seen_fails_it() {
        let mut summary = summary();
        summary.problems.push("not seen".to_owned());
        assert!(judged(summary, &[]).is_err());
    }

    #[test]
    fn the_worst_workflow_is_told_with_what_happened_while_it_ran() {
        let second = Duration::from_secs(1);
        let mut samples = vec![sample(None); 9];
        samples.push(Sample {
            ended: 10 * second,
            latency: 2 * second,
            failure: None,
        });
        let rotation = |at: Duration| Rotation {
            at,
            credential: Credential::ClientCa,
            before: String::new(),
            now: String::new(),
            seen: "",
            seen_after: second,
        };
        let handshake = |at, side| Handshake { at, side };
        let worst = Worst::of(
            &samples,
            &[
                rotation(6 * second),
                rotation(7 * second),
                rotation(11 * second),
            ],
            &[
                handshake(7 * second, "worker"),
                handshake(9 * second, "starter"),
            ],
        );
        assert_eq!(
            worst.unwrap().to_string(),
            "the slowest workflow ran from 8.0 s to 10.0 s; meanwhile: client CA replaced at 7.0 s, \
             in use at 8.0 s; new connection of the starter at 9.0 s"
        );
        assert!(Worst::of(&[sample(Some("refused"))], &[], &[]).is_none());
    }

    #[test]
    fn quantiles_leave_out_what_failed() {
        let mut samples = vec![sample(None); 99];
        samples.push(Sample {
            latency: Duration::from_secs(9),
            ..sample(Some("refused"))
        });
        assert_eq!(Latency::of(&samples).worst, 20);
        assert_eq!(Latency::of(&[]).worst, 0);
    }
}
