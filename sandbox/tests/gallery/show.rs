//! Causes each case, takes its picture, and compares it.

use std::{path::Path, process::Output};

use futures::{StreamExt, stream};
use serde_json::Value;
use snapbox::{Assert, Data};

use super::{
    case::{Attempt, Case, Cause, Row, Starter},
    redact::redact,
    world::World,
};
use crate::support;

/// As many at a time; each is mostly waiting.
const AT_A_TIME: usize = 4;

/// Shows a group: one server that all is right with, and one case after the other that is not told
/// the right things, or is led elsewhere.
pub async fn show(group: &str, rows: &[Row]) {
    let world = World::new().await;
    let works = |row: &Row| {
        let mut cases = row.cases.iter();
        cases.any(|case| matches!(case.starter, Starter::Works))
    };
    let _worker = match rows.iter().any(works) {
        true => Some(support::worker(&world.stack).await),
        false => None,
    };
    let cases = rows
        .iter()
        .flat_map(|row| row.cases.iter().map(move |case| (row, case)));
    let pictures: Vec<_> = stream::iter(cases.enumerate())
        .map(|(number, (row, case))| picture(&world, number, row, case))
        .buffered(AT_A_TIME)
        .collect()
        .await;

    let (texts, wrong): (Vec<_>, Vec<_>) = pictures.into_iter().unzip();
    let file = format!("tests/gallery/{group}.txt");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let wrong = wrong.concat();
    if texts.iter().all(|text| !text.contains(SKIPPED)) {
        Assert::new()
            .action_env("SNAPSHOTS")
            .eq(texts.join("\n"), Data::read_from(&file, None));
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// A case that cannot be caused here.
const SKIPPED: &str = "SKIPPED";

async fn picture(world: &World, number: usize, row: &Row, case: &Case) -> (String, Vec<String>) {
    let attempt = world.attempt(number);
    let attempt = match case.cause {
        Cause::Told(tell) => tell(world, attempt),
        Cause::Made(make) => make(world, attempt).await,
    };
    if let Some(why) = attempt.why_skipped() {
        let text = format!("{SKIPPED}: {}, because {why}", case.name);
        eprintln!("{text}");
        return (text, Vec::new());
    }
    let binaries = support::binaries().await;
    let mut command = world.command(&binaries.keyutil, &attempt);
    command
        .args(["doctor", "--output", "json"])
        .args(attempt.arguments_of_the_doctor());
    let doctor = Doctor::of(&support::run(&mut command).await);
    let mut wrong = doctor.judge(row, case);

    let mut text = format!("== {}\n\n{}", case.name, doctor.show());
    if !matches!(case.starter, Starter::NotRun) {
        let mut command = world.command(&binaries.starter, &attempt);
        let starter = Said::of(&support::run(&mut command).await);
        wrong.extend(starter.judge(&doctor, &case.starter));
        text += &starter.show(&doctor);
    }
    let wrong = wrong
        .into_iter()
        .map(|what| format!("{}: {what}\n{text}", case.name))
        .collect();
    (redact(&text, &known(world, &attempt)), wrong)
}

fn known(world: &World, attempt: &Attempt) -> Vec<(String, &'static str)> {
    let shown = |path: &Path| path.display().to_string();
    vec![
        (shown(&attempt.folder), "[FOLDER]"),
        (shown(&world.stack.certs()), "certs"),
    ]
}

/// What the doctor says.
struct Doctor {
    code: Option<i32>,
    stderr: String,
    stdout: String,
    report: Value,
}

impl Doctor {
    fn of(output: &Output) -> Self {
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

    fn judge(&self, row: &Row, case: &Case) -> Vec<String> {
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
                wrong.push(format!("no `{}` in it", row.message));
            }
        }
        // Where it says what to do, it says so in words.
        for finding in marked.iter().filter(|finding| finding["hint"].is_null()) {
            wrong.push(format!("there is no hint for {}", finding["seen"]));
        }
        for secret in ["eyJ", "PRIVATE KEY-"] {
            if self.stdout.contains(secret) || self.stderr.contains(secret) {
                wrong.push(format!("the doctor shows `{secret}`"));
            }
        }
        wrong
    }

    fn show(&self) -> String {
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
struct Said {
    code: Option<i32>,
    message: String,
    hint: Option<String>,
    all: String,
}

impl Said {
    fn of(output: &Output) -> Self {
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

    fn judge(&self, doctor: &Doctor, expected: &Starter) -> Vec<String> {
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
        let failure = doctor.failure().cloned().unwrap_or_default();
        if matches!(expected, Starter::Same) {
            if self.message_alone() != failure["seen"].as_str().unwrap_or_default() {
                wrong.push("the starter says something else".to_owned());
            }
            if self.hint.as_deref() != failure["hint"].as_str() {
                wrong.push("the starter has another hint".to_owned());
            }
        }
        for secret in ["eyJ", "PRIVATE KEY-"] {
            if self.all.contains(secret) {
                wrong.push(format!("the starter shows `{secret}`"));
            }
        }
        wrong
    }

    /// Without the time for which it was tried.
    fn message_alone(&self) -> String {
        match self.message.split_once(" within ") {
            Some((before, after)) if before.starts_with("failed to connect to ") => {
                let rest = after.split_once(": ").map(|(_, rest)| rest);
                format!("{before}: {}", rest.unwrap_or_default())
            }
            _ => self.message.clone(),
        }
    }

    fn show(&self, doctor: &Doctor) -> String {
        let mut text = format!("starter: exit code {}\n", code(self.code));
        if self.code == Some(0) {
            return text;
        }
        let failure = doctor.failure().cloned().unwrap_or_default();
        if failure["seen"] == self.message_alone() && failure["hint"].as_str() == self.hint.as_deref()
        {
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

/// Whether all parts of the message are in the text, one after the other.
fn says(text: &str, message: &str) -> bool {
    let mut rest = text;
    message.split('…').all(|part| match rest.split_once(part.trim()) {
        Some((_, after)) => {
            rest = after;
            true
        }
        None => false,
    })
}
