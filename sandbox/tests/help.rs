//! The examples in the help of each program, and the calls in the README and in `docs/`, are accepted by
//! the programs.
//!
//! Each call is made with `--help` at its end: clap reads the arguments from the left, so it refuses
//! an unknown subcommand, flag or value before it prints the help.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::support;

#[tokio::test]
async fn the_examples_of_every_help_work() {
    for (name, program) in programs().await {
        let mut left = vec![Vec::new()];
        while let Some(path) = left.pop() {
            let help = help(&program, &path).await.unwrap();
            let examples = examples(&help);
            // The examples of the sandbox are in the README, and the subcommands of the starter are
            // those of the service.
            let may_be_without = name == "sandbox" || (name == "starter" && !path.is_empty());
            assert!(!examples.is_empty() || may_be_without, "{name} {path:?}");
            for example in examples {
                let calls = calls(&example, |words| words.first() == Some(&name));
                assert!(
                    !calls.is_empty(),
                    "an example of another program: {example}"
                );
                for call in calls {
                    let taken = help_of(&program, &call[1..]).await;
                    taken.unwrap_or_else(|complaint| panic!("`{example}`: {complaint}"));
                }
            }
            left.extend(subcommands(&help).map(|name| [&path[..], &[name]].concat()));
        }
    }
}

#[tokio::test]
async fn the_calls_in_the_documents_work() {
    let documents = documents();
    for (name, program) in programs().await {
        let help = help(&program, &[]).await.unwrap();
        let has_example = subcommands(&help).any(|command| command == "order");
        let mut count = 0;
        for (path, text) in &documents {
            for line in lines_of_code(text) {
                for call in calls(&line, |_| true) {
                    let Some(arguments) = arguments(&call, name) else {
                        continue;
                    };
                    // A clone that has replaced the example workflow may keep its documents.
                    if arguments.first() == Some(&"order") && !has_example {
                        continue;
                    }
                    let taken = help_of(&program, arguments).await;
                    taken.unwrap_or_else(|complaint| {
                        panic!("{}: `{line}`: {complaint}", path.display())
                    });
                    count += 1;
                }
            }
        }
        assert!(count > 0, "no call of {name} was found");
    }
}

/// The README and the pages in `docs/`.
fn documents() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let pages = std::fs::read_dir(root.join("docs")).unwrap();
    let pages = pages.map(|entry| entry.unwrap().path());
    let pages = pages.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    std::iter::once(root.join("README.md"))
        .chain(pages)
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            (path, text)
        })
        .collect()
}

/// The lines of the blocks between fences, each with those that it is continued on.
fn lines_of_code(text: &str) -> Vec<String> {
    let text = text.replace("\\\n", " ");
    let mut inside = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            inside = !inside;
        } else if inside {
            lines.push(line.to_owned());
        }
    }
    lines
}

/// The arguments of a call of this program: `cargo keyutil …`, `cargo run --bin <name> -- …`,
/// `target/release/<name> …` or `$ <name> …`.
fn arguments<'a>(words: &'a [&'a str], name: &str) -> Option<&'a [&'a str]> {
    let released = format!("target/release/{name}");
    let called = |(index, word): (usize, &&str)| {
        let before = index.checked_sub(1).map(|before| words[before]);
        let by_cargo = match before {
            Some("cargo") => name == "keyutil",
            Some("--bin") => words.contains(&"run"),
            other => other == Some("$"),
        };
        (*word == released || (*word == name && by_cargo)).then_some(index + 1)
    };
    let begin = words.iter().enumerate().find_map(called)?;
    let arguments = &words[begin..];
    Some(arguments.strip_prefix(&["--"]).unwrap_or(arguments))
}

async fn programs() -> [(&'static str, PathBuf); 4] {
    let binaries = support::binaries().await;
    [
        ("keyutil", binaries.keyutil.clone()),
        ("worker", binaries.worker.clone()),
        ("starter", binaries.starter.clone()),
        ("sandbox", env!("CARGO_BIN_EXE_sandbox").into()),
    ]
}

async fn help(program: &Path, path: &[String]) -> Result<String, String> {
    let path: Vec<_> = path.iter().map(String::as_str).collect();
    help_of(program, &path).await
}

/// What the program prints with these arguments and `--help`, or its complaint.
async fn help_of(program: &Path, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(program);
    // What the environment happens to say is not part of an example.
    let output = command.env_clear().args(arguments).arg("--help").output();
    let output = output.await.unwrap();
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).unwrap()),
        false => Err(String::from_utf8(output.stderr).unwrap()),
    }
}

/// The lines below `Examples:`, each with those that it is continued on.
fn examples(help: &str) -> Vec<String> {
    let block = help.split_once("Examples:\n").map_or("", |(_, rest)| rest);
    let block = block.split("\n\n").next().unwrap_or_default();
    let joined = block.replace("\\\n", " ");
    joined.lines().map(|line| line.trim().to_owned()).collect()
}

/// The names below `Commands:`.
fn subcommands(help: &str) -> impl Iterator<Item = String> {
    let block = help.split_once("Commands:\n").map_or("", |(_, rest)| rest);
    let block = block.split("\n\n").next().unwrap_or_default();
    let names = block.lines().filter_map(|line| {
        let name = line.strip_prefix("  ")?;
        name.split(' ').next().filter(|name| !name.is_empty())
    });
    names.filter(|name| *name != "help").map(str::to_owned)
}

/// The calls in a line for the shell, in words. Quotes around words are not understood: examples do
/// without.
fn calls(line: &str, wanted: impl Fn(&[&str]) -> bool) -> Vec<Vec<&str>> {
    line.split(['|', '<', '>', '(', ')', '"', ';', '&'])
        .map(|command| command.split_whitespace().collect::<Vec<_>>())
        .filter(|words| wanted(words))
        .collect()
}
