//! `keyutil doctor`: checks each step of a call on its own, and continues after a failure as far as
//! possible.
//!
//! A failure is reported in the same words as by worker and starter: both use
//! [`diagnosis`](keyutil::diagnosis). Nothing is written, and nothing on the server is changed.
//!
//! | step | file |
//! |---|---|
//! | configuration, files | `local.rs` |
//! | name, TCP, TLS, gRPC, task queue | `server.rs` |
//! | token, JWKS, clock, permission | `token.rs` |

use std::time::Duration;

mod local;
mod server;
mod token;

pub use local::{Origin, Sourced};

use self::{
    local::{check_configuration, check_files},
    server::{Facts, Probe, check_grpc, check_network, check_task_queue},
    token::{
        KeySet, check_clock, check_key_set, check_permission, check_token, clock_cause,
        measure_clock,
    },
};
use keyutil::{
    base::text::fit,
    connect::{Session, check::Program},
    credentials::TokenSource,
    diagnosis::{Diagnosis, Step},
    explain::{Explanation, TokenVerdict},
    probe::RotatingChannel,
    settings::{Checked, ConnectArgs, Settings},
};

/// What to check.
#[derive(Debug)]
pub struct Examination<'a> {
    /// The connection. Each step that waits for an answer is limited to 5 s, or to
    /// `--connect-timeout` where that is shorter.
    pub connect: &'a ConnectArgs,
    /// The source of each setting.
    pub origins: &'a [Origin],
    /// The program whose permissions are checked.
    pub program: Option<Program>,
    /// The task queue whose pollers are checked.
    pub task_queue: Option<&'a str>,
    /// The key set that the server reads: a URL, or a file.
    pub jwks: Option<&'a str>,
    /// `jwtKeyProvider.refreshInterval` of the server.
    pub jwks_refresh: Duration,
    /// The `aud` that the server expects, if known.
    pub audience: Option<&'a str>,
}

impl Examination<'_> {
    /// Returns the time limit of one step.
    fn limit(&self) -> Duration {
        self.connect.connect_timeout.min(LIMIT)
    }
}

/// The longest time limit of one step.
const LIMIT: Duration = Duration::from_secs(5);

/// Checks all steps. Needs a tokio runtime.
pub async fn examine(examination: &Examination<'_>) -> Report {
    let args = examination.connect;
    let limit = examination.limit();
    let Checked {
        connector,
        bare,
        token,
        compression,
        problems,
        ..
    } = Settings::check(args, "keyutil");
    let connector = connector.map(|connector| connector.within(limit));
    let bare = bare.map(|connector| connector.within(limit));
    let mut report = Report::default();

    check_configuration(&mut report, examination.origins, &problems);
    check_files(&mut report, args, connector.as_ref(), &problems);
    let connected = check_network(&mut report, args, connector.as_ref(), bare.as_ref()).await;

    let token = token.as_ref();
    let channel = connector.filter(|_| connected).map(RotatingChannel::new);
    let Some(Ok(channel)) = channel else {
        for step in [Step::Grpc, Step::Permission, Step::TaskQueue] {
            report.skip(step, "no connection");
        }
        let key_set = check_key_set(&mut report, examination, token, TokenVerdict::Unknown).await;
        check_token(&mut report, examination, token, &problems, None);
        check_clock(&mut report, token, &key_set, false);
        report.sort();
        return report;
    };

    let session =
        Session::new(channel, token.cloned(), args.namespace.trim(), compression).within(limit);
    check_grpc(&session, &mut report).await;
    let probe = Probe::of(&session).await;
    let verdict = probe.verdict(&session).await;
    let key_set = check_key_set(&mut report, examination, token, verdict).await;
    let why = match &probe {
        Probe::Refused(_) => Some(why(&session, examination, token, &key_set, verdict).await),
        _ => None,
    };
    check_token(&mut report, examination, token, &problems, why.as_ref());
    check_clock(
        &mut report,
        token,
        &key_set,
        verdict == TokenVerdict::Accepted,
    );
    let program = examination.program;
    if check_permission(&session, &mut report, program, probe, why.as_ref()).await {
        match examination.task_queue {
            Some(name) => check_task_queue(&session, &mut report, program, name).await,
            None => report.skip(
                Step::TaskQueue,
                "no task queue given: name one with `--task-queue`",
            ),
        }
    } else {
        report.skip(
            Step::TaskQueue,
            "unknown: the call that lists pollers is not permitted",
        );
    }
    report.sort();
    report
}

/// Explains why the server refuses the token, with everything that can be found out about it.
async fn why(
    session: &Session,
    examination: &Examination<'_>,
    token: Option<&TokenSource>,
    key_set: &KeySet,
    verdict: TokenVerdict,
) -> Explanation {
    let explanation = server::why(
        session,
        &Facts {
            key_set: key_set.document(),
            key_is_new: key_set.key_is_new,
            audience: examination.audience,
            verdict,
        },
    );
    let Explanation::Possible(suspects) = explanation else {
        return explanation;
    };
    let Some(TokenSource::Minted(minter)) = token else {
        return Explanation::Possible(suspects);
    };
    match measure_clock(session, minter).await {
        Some(seconds_ahead) => Explanation::Certain(vec![clock_cause(seconds_ahead)]),
        // The server refuses every token of this key, whatever its times are.
        None => Explanation::Possible(
            suspects
                .into_iter()
                .filter(|suspect| suspect.step != Step::Clock)
                .collect(),
        ),
    }
}

/// The findings, in the order of the steps.
#[derive(Clone, Debug, Default)]
pub struct Report {
    findings: Vec<Finding>,
}

/// One result of a step; a step may have several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The step that was checked.
    pub step: Step,
    /// The result.
    pub outcome: Outcome,
    /// Further lines about it.
    pub details: Vec<String>,
}

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The step works. Says what was seen.
    Ok(String),
    /// The step works, but is probably misconfigured or will stop working.
    Warning {
        /// What was seen.
        seen: String,
        /// What to do about it.
        hint: String,
    },
    /// Calls fail because of it.
    Failed(Diagnosis),
    /// The step was not checked. Says why.
    Skipped(String),
}

impl Finding {
    /// Returns the outcome in one word, as in the JSON output.
    pub fn mark(&self) -> &'static str {
        match self.outcome {
            Outcome::Ok(_) => "ok",
            Outcome::Warning { .. } => "warning",
            Outcome::Failed(_) => "failed",
            Outcome::Skipped(_) => "skipped",
        }
    }

    /// Returns what was seen, in one line; for a failure its cause.
    pub fn seen(&self) -> &str {
        match &self.outcome {
            Outcome::Ok(seen) | Outcome::Warning { seen, .. } | Outcome::Skipped(seen) => seen,
            Outcome::Failed(diagnosis) => &diagnosis.cause,
        }
    }

    /// Returns what to do about it.
    pub fn hint(&self) -> Option<&str> {
        match &self.outcome {
            Outcome::Warning { hint, .. } => Some(hint),
            Outcome::Failed(diagnosis) => diagnosis.hint.as_deref(),
            Outcome::Ok(_) | Outcome::Skipped(_) => None,
        }
    }

    /// Returns the diagnosis of a failure.
    pub fn failure(&self) -> Option<&Diagnosis> {
        match &self.outcome {
            Outcome::Failed(diagnosis) => Some(diagnosis),
            _ => None,
        }
    }
}

impl Report {
    /// Returns all findings, in order.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Returns the first failure. Later failures are usually its consequences.
    pub fn failure(&self) -> Option<&Diagnosis> {
        self.findings.iter().find_map(Finding::failure)
    }

    /// Returns the exit code of the first failure, or 0.
    pub fn exit_code(&self) -> u8 {
        self.failure().map_or(0, |first| first.class.exit_code())
    }

    fn has_failed_at(&self, step: Step) -> bool {
        let mut failures = self.findings.iter().filter_map(Finding::failure);
        failures.any(|failure| failure.step == step)
    }

    fn ok(&mut self, step: Step, seen: impl Into<String>) {
        self.add(step, Outcome::Ok(fit(&seen.into())));
    }

    fn skip(&mut self, step: Step, why: impl Into<String>) {
        self.add(step, Outcome::Skipped(fit(&why.into())));
    }

    fn warn(&mut self, step: Step, seen: impl Into<String>, hint: impl Into<String>) {
        let (seen, hint) = (fit(&seen.into()), hint.into());
        self.add(step, Outcome::Warning { seen, hint });
    }

    fn fail(&mut self, diagnosis: Diagnosis) {
        let Diagnosis { cause, hint, .. } = &diagnosis;
        let failure = Diagnosis {
            cause: fit(cause),
            hint: hint.as_deref().map(fit),
            ..diagnosis
        };
        self.add(failure.step, Outcome::Failed(failure));
    }

    /// Adds lines to the last finding.
    fn detail(&mut self, details: impl IntoIterator<Item = String>) {
        if let Some(last) = self.findings.last_mut() {
            let details = details.into_iter().map(|detail| fit(&detail));
            last.details.extend(details);
        }
    }

    /// Sorts by step; the findings of one step keep their order.
    fn sort(&mut self) {
        self.findings.sort_by_key(|finding| finding.step);
    }

    fn add(&mut self, step: Step, outcome: Outcome) {
        self.findings.push(Finding {
            step,
            outcome,
            details: Vec::new(),
        });
    }
}

#[cfg(test)]
mod tests;
