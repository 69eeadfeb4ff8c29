//! `keyutil doctor`: walks the way of a call, looks at each step on its own, and goes on as far as
//! it can.
//!
//! What it says of a failure is what worker and starter say of it: both have it from
//! [`diagnosis`](keyutil::diagnosis). Nothing on the server is changed, and nothing is written.
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

/// What to look at.
#[derive(Debug)]
pub struct Examination<'a> {
    /// The connection. Each step that waits for somebody waits for 5 s, or for
    /// `--connect-timeout` where that is shorter.
    pub connect: &'a ConnectArgs,
    /// Where each setting came from.
    pub origins: &'a [Origin],
    /// The program whose permissions are looked for.
    pub program: Option<Program>,
    /// The task queue to look for pollers of.
    pub task_queue: Option<&'a str>,
    /// The key set that the server reads: a URL, or a file.
    pub jwks: Option<&'a str>,
    /// `jwtKeyProvider.refreshInterval` of the server.
    pub jwks_refresh: Duration,
    /// `aud` that the server expects, if it is known.
    pub audience: Option<&'a str>,
}

impl Examination<'_> {
    /// For each step that waits for somebody.
    fn limit(&self) -> Duration {
        self.connect.connect_timeout.min(LIMIT)
    }
}

/// For each step that waits for somebody, at most.
const LIMIT: Duration = Duration::from_secs(5);

/// Walks the way. Needs a tokio runtime.
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
            report.skip(step, "there is no connection to make calls on");
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
            None => report.skip(Step::TaskQueue, "none is named: give `--task-queue`"),
        }
    } else {
        report.skip(
            Step::TaskQueue,
            "not known: the call that shows it is not permitted",
        );
    }
    report.sort();
    report
}

/// Why the server refuses the token, with all that can be found out about it.
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
        // The server takes no token of this key, whatever its times are.
        None => Explanation::Possible(
            suspects
                .into_iter()
                .filter(|suspect| suspect.step != Step::Clock)
                .collect(),
        ),
    }
}

/// What was found, in the order of the way.
#[derive(Clone, Debug, Default)]
pub struct Report {
    findings: Vec<Finding>,
}

/// What was found at one step; a step may have several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The step.
    pub step: Step,
    /// How it is.
    pub outcome: Outcome,
    /// More of it, a line each.
    pub details: Vec<String>,
}

/// How a step is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// What was seen is in order.
    Ok(String),
    /// It works, and is probably not meant, or will cease to work.
    Warning {
        /// What was seen.
        seen: String,
        /// What to do about it.
        hint: String,
    },
    /// Calls fail because of it.
    Failed(Diagnosis),
    /// Why it could not be looked at, or that there is nothing to look at.
    Skipped(String),
}

impl Finding {
    /// The outcome in one word.
    pub fn mark(&self) -> &'static str {
        match self.outcome {
            Outcome::Ok(_) => "ok",
            Outcome::Warning { .. } => "warning",
            Outcome::Failed(_) => "failed",
            Outcome::Skipped(_) => "skipped",
        }
    }

    /// What was seen, in one line; for a failure the cause.
    pub fn seen(&self) -> &str {
        match &self.outcome {
            Outcome::Ok(seen) | Outcome::Warning { seen, .. } | Outcome::Skipped(seen) => seen,
            Outcome::Failed(diagnosis) => &diagnosis.cause,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<&str> {
        match &self.outcome {
            Outcome::Warning { hint, .. } => Some(hint),
            Outcome::Failed(diagnosis) => diagnosis.hint.as_deref(),
            Outcome::Ok(_) | Outcome::Skipped(_) => None,
        }
    }

    /// Why it failed, if it did.
    pub fn failure(&self) -> Option<&Diagnosis> {
        match &self.outcome {
            Outcome::Failed(diagnosis) => Some(diagnosis),
            _ => None,
        }
    }
}

impl Report {
    /// Everything, in order.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// The first failure on the way, which as a rule is the cause of those after it.
    pub fn failure(&self) -> Option<&Diagnosis> {
        self.findings.iter().find_map(Finding::failure)
    }

    /// The exit code: that of the first failure.
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

    /// Adds to what was found last.
    fn detail(&mut self, details: impl IntoIterator<Item = String>) {
        if let Some(last) = self.findings.last_mut() {
            let details = details.into_iter().map(|detail| fit(&detail));
            last.details.extend(details);
        }
    }

    /// By the order of the way; within a step as they were found.
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
