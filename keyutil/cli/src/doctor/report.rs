//! What was found, step by step.

use std::fmt;

use serde::Serialize;

use keyutil::{
    base::text::fit,
    diagnosis::{Class, Diagnosis, Step},
};

/// What was found, in the order of the way.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    findings: Vec<Finding>,
}

/// What was found at one step; a step may have several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The step.
    pub step: Step,
    /// How it is.
    pub mark: Mark,
    /// What was seen, in one line; for a failure the cause.
    pub seen: String,
    /// More of it, a line each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// What kind of failure it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<Class>,
}

/// How a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// As it must be.
    Ok,
    /// It works, and is probably not meant, or will cease to work.
    Warning,
    /// Calls fail because of it.
    Failed,
    /// It could not be looked at, or there is nothing to look at.
    Skipped,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "FAILED",
            Self::Skipped => "skipped",
        })
    }
}

impl Report {
    /// Everything, in order.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// The first failure on the way, which as a rule is the cause of those after it.
    pub fn failure(&self) -> Option<&Finding> {
        let mut findings = self.findings.iter();
        findings.find(|finding| finding.mark == Mark::Failed)
    }

    /// The same as a diagnosis.
    pub fn diagnosis(&self) -> Option<Diagnosis> {
        let finding = self.failure()?;
        Some(Diagnosis {
            step: finding.step,
            class: finding.class?,
            cause: finding.seen.clone(),
            hint: finding.hint.clone(),
        })
    }

    /// The exit code: that of the first failure.
    pub fn exit_code(&self) -> u8 {
        let class = self.failure().and_then(|finding| finding.class);
        class.map_or(0, Class::exit_code)
    }

    pub(super) fn has_failed_at(&self, steps: &[Step]) -> bool {
        let failed =
            |finding: &Finding| finding.mark == Mark::Failed && steps.contains(&finding.step);
        self.findings.iter().any(failed)
    }

    pub(super) fn ok(&mut self, step: Step, seen: impl Into<String>) {
        self.add(step, Mark::Ok, seen.into());
    }

    pub(super) fn skip(&mut self, step: Step, why: impl Into<String>) {
        self.add(step, Mark::Skipped, why.into());
    }

    pub(super) fn warn(&mut self, step: Step, seen: impl Into<String>, hint: impl Into<String>) {
        self.add(step, Mark::Warning, seen.into()).hint = Some(hint.into());
    }

    pub(super) fn fail(&mut self, diagnosis: Diagnosis) {
        let Diagnosis {
            step,
            class,
            cause,
            hint,
        } = diagnosis;
        let finding = self.add(step, Mark::Failed, cause);
        finding.hint = hint.as_deref().map(fit);
        finding.class = Some(class);
    }

    /// Adds to what was found last.
    pub(super) fn detail(&mut self, details: Vec<String>) {
        if let Some(last) = self.findings.last_mut() {
            last.details
                .extend(details.iter().map(|detail| fit(detail)));
        }
    }

    /// By the order of the way; within a step as they were found.
    pub(super) fn sort(&mut self) {
        self.findings.sort_by_key(|finding| finding.step);
    }

    fn add(&mut self, step: Step, mark: Mark, seen: String) -> &mut Finding {
        let index = self.findings.len();
        self.findings.push(Finding {
            step,
            mark,
            seen: fit(&seen),
            details: Vec::new(),
            hint: None,
            class: None,
        });
        &mut self.findings[index]
    }
}
