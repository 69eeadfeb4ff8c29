//! The examples of a program's help, and how its tests see that none of them has rotted.

use clap::Command;

use super::EXIT_CODES;

/// The end of a program's help: its examples, and the exit codes.
#[must_use]
pub fn examples_and_exit_codes(examples: &str) -> String {
    format!("{examples}\n\n{EXIT_CODES}")
}

/// Has clap read every example in the help of a program and of its subcommands, and gives what is
/// wrong: an example that is refused, or one for another program, or no example at all.
#[must_use]
pub fn mistaken_examples(program: &Command) -> Vec<String> {
    // What the environment happens to say is not part of an example.
    let program = without_variables(program.clone());
    let mut mistakes = Vec::new();
    visit(&program, &program, &mut mistakes);
    mistakes
}

/// Has clap read every call of a program in the code blocks of a document in Markdown, as
/// `cargo run -p <program> -- …`, `target/release/<program> …` or `$ <program> …`; and gives those
/// that are refused.
#[must_use]
pub fn mistaken_calls(program: &Command, document: &str) -> Vec<String> {
    let program = without_variables(program.clone());
    let name = program.get_name();
    let mut mistakes = Vec::new();
    for block in document.split("```").skip(1).step_by(2) {
        for line in block.lines() {
            for command in line.split(['|', '<', '>', '(', ')', '"', ';', '&']) {
                let words: Vec<_> = command.split_whitespace().collect();
                let Some(begin) = call_of(name, &words) else {
                    continue;
                };
                let arguments = words[begin..].iter().skip_while(|word| **word == "--");
                let call = [name].into_iter().chain(arguments.copied());
                if let Err(error) = program.clone().try_get_matches_from(call) {
                    mistakes.push(format!("`{line}`: {error}"));
                }
            }
        }
    }
    mistakes
}

/// Where the arguments begin, if these words call the program.
fn call_of(name: &str, words: &[&str]) -> Option<usize> {
    let released = format!("target/release/{name}");
    let called = |(index, word): (usize, &&str)| {
        let before = index.checked_sub(1).map(|before| words[before]);
        let by_cargo = before == Some("-p") && words.contains(&"run");
        let by_name = before == Some("$");
        let this = *word == released || (*word == name && (by_cargo || by_name));
        this.then_some(index + 1)
    };
    words.iter().enumerate().find_map(called)
}

fn visit(program: &Command, command: &Command, mistakes: &mut Vec<String>) {
    let help = command.get_after_help().map(ToString::to_string);
    let examples = examples(help.as_deref().unwrap_or_default());
    if examples.is_empty() {
        mistakes.push(format!("no examples: `{}`", command.get_name()));
    }
    for example in examples {
        let calls = calls(&example, program.get_name());
        if calls.is_empty() {
            mistakes.push(format!("not of this program: `{example}`"));
        }
        for call in calls {
            if let Err(error) = program.clone().try_get_matches_from(call) {
                mistakes.push(format!("`{example}`: {error}"));
            }
        }
    }
    for subcommand in command.get_subcommands() {
        visit(program, subcommand, mistakes);
    }
}

fn without_variables(command: Command) -> Command {
    command
        .mut_args(|argument| argument.env(None::<&str>))
        .mut_subcommands(without_variables)
}

/// The lines below `Examples:`, each with those that it is continued on.
fn examples(help: &str) -> Vec<String> {
    let block = help.split_once("Examples:\n").map_or("", |(_, rest)| rest);
    let block = block.split("\n\n").next().unwrap_or_default();
    let joined = block.replace("\\\n", " ");
    joined.lines().map(|line| line.trim().to_owned()).collect()
}

/// The calls of the program in a line for the shell, in words. Quotes around words are not
/// understood: examples do without.
fn calls<'a>(example: &'a str, name: &str) -> Vec<Vec<&'a str>> {
    let commands = example.split(['|', '<', '>', '(', ')', '"', ';', '&']);
    commands
        .map(|command| command.split_whitespace().collect::<Vec<_>>())
        .filter(|words| words.first() == Some(&name))
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    fn tool(examples: &'static str) -> Command {
        let greet = Command::new("greet")
            .arg(Arg::new("name").long("name"))
            .after_help(examples);
        let root = "Examples:\n  tool greet\n\nExit codes:\n  0  done";
        Command::new("tool").subcommand(greet).after_help(root)
    }

    #[test]
    fn examples_that_work_are_no_mistakes() {
        let help = "\
Examples:
  tool greet --name Ada
  tool greet \\
      --name Ada
  tool greet | tool greet --name Ada > greeting
  eval \"$(tool greet)\"";
        assert_eq!(mistaken_examples(&tool(help)), [""; 0]);
    }

    #[test]
    fn calls_in_a_document_are_found() {
        let tool = tool("Examples:\n  tool greet");
        let document = "\
tool greet --wrong outside of a block
```console
$ cargo run -q -p tool -- greet --name Ada | tool --output-of-something
$ cargo build -p tool --release
- run: target/release/tool greet --wrong 1
$ tool greet --wrong 2
```";
        let mistakes = mistaken_calls(&tool, document);
        assert_eq!(mistakes.len(), 2, "{mistakes:?}");
        for (mistake, words) in mistakes.iter().zip(["--wrong 1", "--wrong 2"]) {
            assert!(mistake.contains(words), "{mistake}");
        }
    }

    #[test]
    fn what_is_wrong_is_found() {
        for (help, expected) in [
            ("Greets.", "no examples: `greet`"),
            ("Examples:\n  tool greet --nam Ada", "--nam Ada"),
            ("Examples:\n  tool greet | tool meet", "meet"),
            ("Examples:\n  tool greet \\\n   --count 3", "--count"),
            ("Examples:\n  greet --name Ada", "not of this program"),
        ] {
            let mistakes = mistaken_examples(&tool(help));
            assert_eq!(mistakes.len(), 1, "{mistakes:?}");
            assert!(mistakes[0].contains(expected), "{mistakes:?}");
        }
    }
}
