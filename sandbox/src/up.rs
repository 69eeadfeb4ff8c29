//! A stack to work with by hand: it runs until Ctrl-C, and an environment file says how to reach
//! it.

use std::{convert::Infallible, fs, io, path::Path};

use anyhow::Context;
use keyutil::{
    files::{self, Mode},
    pki::{Layout, Party},
};

use crate::{
    guard::Guard,
    provision::{self, Options, Progress, Terminal},
    stack::{Stack, StackOptions},
};

/// Starts a stack, links `env_file` to its environment, and goes on until it is dropped.
///
/// # Errors
/// When the stack does not start, or `env_file` is a file of somebody else's.
pub async fn run(
    options: &Options,
    namespace: &str,
    env_file: &Path,
) -> anyhow::Result<Infallible> {
    refuse_foreign(env_file)?;
    let progress = Terminal::new();
    let server = provision::temporal_server(options, &progress).await?;
    progress.step("starting temporal-server");
    let guard = Guard::new("temporal-sandbox-")?;
    let options = StackOptions {
        namespace: namespace.to_owned(),
        ..StackOptions::default()
    };
    let stack = Stack::start(&server, guard, options).await?;
    drop(progress);

    let target = stack.guard().folder().join("sandbox.env");
    files::replace(&target, environment(&stack).as_bytes(), Mode::Private)?;
    let _link = Link::make(&target, env_file)?;
    println!(
        "temporal-server {} at {}",
        provision::VERSION,
        stack.address()
    );
    println!("certificates and keys in {}", stack.certs().display());
    println!("in another terminal:  . {}", sourced(env_file));
    println!("Ctrl-C ends it");
    std::future::pending().await
}

/// Text for a POSIX shell. `SANDBOX_PARTY` chooses whose certificate is used.
fn environment(stack: &Stack) -> String {
    let of_worker = Layout::new(&stack.certs()).party(Party::Worker).certificate;
    let worker_folder = of_worker
        .parent()
        .unwrap_or(&of_worker)
        .display()
        .to_string();
    let mut text = String::from(
        "# Source this. SANDBOX_PARTY may be worker (as it is when not set), starter or admin.\n",
    );
    for (name, value) in stack.environment(Party::Worker) {
        let value = value.to_string_lossy().into_owned();
        let line = match value.strip_prefix(&worker_folder) {
            Some(file) => format!(
                "export {name}={}/\"${{SANDBOX_PARTY:-worker}}\"{}\n",
                quoted(&stack.certs().display().to_string()),
                quoted(file)
            ),
            None => format!("export {name}={}\n", quoted(&value)),
        };
        text.push_str(&line);
    }
    text
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// `.` of a POSIX shell looks for a name without a slash in `PATH`.
fn sourced(path: &Path) -> String {
    let shown = path.display().to_string();
    if shown.contains('/') {
        shown
    } else {
        format!("./{shown}")
    }
}

/// A link to a file in the folder of the sandbox. Should the sandbox be killed, it leads nowhere,
/// and sourcing it says so.
struct Link<'a> {
    path: &'a Path,
}

impl<'a> Link<'a> {
    fn make(target: &Path, path: &'a Path) -> anyhow::Result<Self> {
        refuse_foreign(path)?;
        let made = || -> io::Result<()> {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            std::os::unix::fs::symlink(target, path)
        };
        made()
            .with_context(|| format!("failed to link the environment file `{}`", path.display()))?;
        Ok(Self { path })
    }
}

impl Drop for Link<'_> {
    fn drop(&mut self) {
        // Whoever removed it before us has done what we want.
        let _ = fs::remove_file(self.path);
    }
}

/// Only a link is replaced: it is one that a sandbox made.
fn refuse_foreign(path: &Path) -> anyhow::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_symlink() => anyhow::bail!(
            "`{}` is there and was not made by a sandbox: name another place with `--env-file`",
            path.display()
        ),
        _ => Ok(()),
    }
}
