//! Causes each case, takes its picture, and compares it.

use std::path::Path;

use futures::{StreamExt, stream};
use snapbox::{Assert, Data};

use super::{
    case::{Attempt, Case, Cause, Row, Starter},
    redact::redact,
    said::{Doctor, MISSING, Said, says},
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
    let wrong = wrong.concat();
    if texts.iter().all(|text| !text.contains(SKIPPED)) {
        compare(group, &texts.join("\n"));
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Compares with what is kept, or keeps this.
pub fn compare(name: &str, text: &str) {
    let file = format!("tests/gallery/{name}.txt");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let assert = Assert::new().action_env("SNAPSHOTS");
    assert.eq(text, Data::read_from(&file, None));
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
        if wrong.iter().any(|what| what.starts_with(MISSING)) && says(&starter.message, row.message)
        {
            wrong.retain(|what| !what.starts_with(MISSING));
        }
        let known = known(world, &attempt);
        let alike = |one: &str, other: &str| redact(one, &known) == redact(other, &known);
        wrong.extend(starter.judge(&doctor, &case.starter, &alike));
        text += &starter.show(&doctor, &alike);
    }
    let wrong = wrong
        .into_iter()
        .map(|what| format!("{}: {what}\n{text}", case.name))
        .collect();
    (redact(&text, &known(world, &attempt)), wrong)
}

fn known(world: &World, attempt: &Attempt) -> Vec<(String, &'static str)> {
    let shown = |path: &Path| path.display().to_string();
    // Each system has other words for it.
    let unknown = [
        "Name or service not known",
        "nodename nor servname provided, or not known",
    ];
    let mut known = vec![
        (shown(&attempt.folder), "[FOLDER]"),
        (shown(&world.stack.certs()), "certs"),
    ];
    known.extend(unknown.map(|words| (words.to_owned(), "[UNKNOWN]")));
    known
}
