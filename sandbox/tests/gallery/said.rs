//! What the doctor and the starter say, and whether it is what they should.

use std::process::Output;

use serde_json::Value;

use super::case::{Case, Row, Starter};
use crate::support;

/// How a complaint begins that the words of a row are not there.
pub const MISSING: &str = "missing";

/// Whether two texts are the same but for what varies.
pub type Alike<'a> = dyn Fn(&str, &str) -> bool + 'a;

/// What the doctor says.
pub struct Doctor {
    code: Option<i32>,
    stderr: String,
    stdout: String,
    report: Value,
}

impl Doctor {
    pub fn of(output: &Output) -> Self {
        let stdout = support::stdout(output);
        Self {
            code: output.status.code(),
            stderr: support::stderr(output),
            report: serde_json::from_str(&stdout).unwrap_or_default(),
            stdout,
        }
    }

    fn marked(&self, marks: &[&str]) -> Vec<&Value> {
        let findings = self.report["findings"].as_array();
        let marked = |finding: &&Value| marks.iter().any(|mark| finding["mark"] == **mark);
        findings.into_iter().flatten().filter(marked).collect()
    }

    fn failure(&self) -> Option<&Value> {
        self.marked(&["failed"]).first().copied()
    }

    pub fn judge(&self, row: &Row, case: &Case) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.code != Some(row.exit_code.into()) {
            wrong.push(format!(
                "the doctor ends with {:?}, not {}\n{}",
                self.code, row.exit_code, self.stderr
            ));
        }
        if self.report["exit_code"] != row.exit_code {
            wrong.push("the report has another exit code".to_owned());
        }
        let marked = match row.exit_code {
            0 => self.marked(&["warning"]),
            _ => self.marked(&["failed"]),
        };
        let first = marked.first();
        let step = first.and_then(|finding| finding["step"].as_str());
        if step != case.step {
            wrong.push(format!("it is step {step:?}, not {:?}", case.step));
        }
        if case.step.is_some() {
            let told = |finding: &&Value| {
                let words = format!("{} {}", finding["seen"], finding["hint"]);
                says(&words.replace("\\\"", "\""), row.message)
            };
            if !marked.iter().any(told) {
                wrong.push(format!("{MISSING}: `{}`", row.message));
            }
        }
        // Of settings the message itself says what to do.
        for finding in marked.iter().filter(|finding| finding["hint"].is_null()) {
            if finding["step"] != "configuration" && finding["step"] != "files" {
                wrong.push(format!("there is no hint for {}", finding["seen"]));
            }
        }
        if marked.len() > 1 && row.exit_code != 0 && case.step != Some("configuration") {
            wrong.push(format!("{} failures where one would do", marked.len()));
        }
        for secret in ["eyJ", "PRIVATE KEY-"] {
            if self.stdout.contains(secret) || self.stderr.contains(secret) {
                wrong.push(format!("the doctor shows `{secret}`"));
            }
        }
        wrong
    }

    pub fn show(&self) -> String {
        let mut text = format!("keyutil doctor: exit code {}\n", code(self.code));
        for finding in self.marked(&["failed", "warning"]) {
            let mark = finding["mark"].as_str().unwrap_or_default();
            let field = |name: &str| finding[name].as_str().unwrap_or_default().to_owned();
            text += &format!("  {mark}, {}: {}\n", field("step"), field("seen"));
            if !finding["hint"].is_null() {
                text += &format!("    hint: {}\n", field("hint"));
            }
        }
        text
    }
}

/// What another program says in the end.
pub struct Said {
    code: Option<i32>,
    pub message: String,
    hint: Option<String>,
    all: String,
}

impl Said {
    pub fn of(output: &Output) -> Self {
        let all = support::stderr(output);
        let said = all
            .split_once("\nstarter: ")
            .map(|(_, said)| said)
            .or(all.strip_prefix("starter: "))
            .unwrap_or_default()
            .trim_end();
        let (message, hint) = match said.split_once("\n\nhint: ") {
            Some((message, hint)) => (message, Some(hint.to_owned())),
            None => (said, None),
        };
        Self {
            code: output.status.code(),
            message: message.to_owned(),
            hint,
            all,
        }
    }

    pub fn judge(&self, doctor: &Doctor, expected: &Starter, alike: &Alike<'_>) -> Vec<String> {
        let mut wrong = Vec::new();
        let code = match expected {
            Starter::Works => Some(0),
            _ => doctor.code,
        };
        if self.code != code {
            wrong.push(format!(
                "the starter ends with {:?}, not {code:?}\n{}",
                self.code, self.all
            ));
        }
        if matches!(expected, Starter::Same) && !self.says_the_same(doctor, alike) {
            wrong.push("the starter says something else, or has another hint".to_owned());
        }
        for secret in ["eyJ", "PRIVATE KEY-"] {
            if self.all.contains(secret) {
                wrong.push(format!("the starter shows `{secret}`"));
            }
        }
        wrong
    }

    /// The same cause, maybe with the call before it that failed, and the same hint.
    fn says_the_same(&self, doctor: &Doctor, alike: &Alike<'_>) -> bool {
        let failure = doctor.failure().cloned().unwrap_or_default();
        let field = |name: &str| failure[name].as_str().unwrap_or_default().to_owned();
        let (seen, hint) = (field("seen"), field("hint"));
        let message = self.without_waiting();
        let cause = message.split_once("`PermissionDenied: Request unauthorized.`: ");
        let same = alike(&message, &seen) || cause.is_some_and(|(_, cause)| alike(cause, &seen));
        same && alike(self.hint.as_deref().unwrap_or_default(), &hint)
    }

    /// Without the time for which it was tried.
    fn without_waiting(&self) -> String {
        match self.message.split_once(" within ") {
            Some((before, after))
                if before.starts_with("failed to connect to ") && !before.contains(": ") =>
            {
                let rest = after.split_once(": ").map(|(_, rest)| rest);
                format!("{before}: {}", rest.unwrap_or_default())
            }
            _ => self.message.clone(),
        }
    }

    pub fn show(&self, doctor: &Doctor, alike: &Alike<'_>) -> String {
        let mut text = format!("starter: exit code {}\n", code(self.code));
        if self.code == Some(0) {
            return text;
        }
        if self.says_the_same(doctor, alike) {
            return text + "  the same\n";
        }
        text += &format!("  {}\n", self.message.replace('\n', "\n  "));
        if let Some(hint) = &self.hint {
            text += &format!("    hint: {hint}\n");
        }
        text
    }
}

fn code(code: Option<i32>) -> String {
    code.map_or("none".to_owned(), |code| code.to_string())
}

/// Whether all parts of the message are in the text, one after the other. In the table the whole
/// message is set off as code.
pub fn says(text: &str, message: &str) -> bool {
    let (text, message) = (text.replace('`', ""), message.replace('`', ""));
    let mut rest = text.as_str();
    message
        .split('…')
        .all(|part| match rest.split_once(part.trim()) {
            Some((_, after)) => {
                rest = after;
                true
            }
            None => false,
        })
}
