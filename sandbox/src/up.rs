//! A stack to work with by hand: it runs until Ctrl-C, and an environment file says how to reach
//! it.

use std::{convert::Infallible, fs, io, path::Path, time::Duration};

use anyhow::{Context, bail, ensure};
use keyutil::program;
use keyutil_cli::{
    files::{self, Mode},
    pki::{Layout, Party},
};

use crate::{
    guard::Guard,
    provision::{self, Options, Progress, Terminal},
    stack::{REFRESH, Stack, StackOptions},
};

/// Starts a stack, links `env_file` to its environment, and goes on until it is dropped.
///
/// # Errors
/// When the stack does not start, or `env_file` was not made by a sandbox that is gone.
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
    let mut stack = Stack::start(&server, guard, options).await?;
    drop(progress);

    let target = stack.guard().folder().join("sandbox.env");
    files::replace(&target, environment(&stack).as_bytes(), Mode::Private)?;
    let _link = Link::make(&target, env_file)?;
    program::print_line(format_args!(
        "temporal-server {} at {}\ncertificates and keys in {}\nin another terminal:  . {}\nCtrl-C ends it",
        provision::VERSION,
        stack.address(),
        stack.certs().display(),
        sourced(env_file)
    ))?;
    loop {
        tokio::time::sleep(SERVER_LOOK).await;
        if let Some(status) = stack.server_ended()? {
            let log = stack.log_tail(5).join("\n");
            bail!("temporal-server ended ({status}); the end of its log:\n{log}");
        }
    }
}

/// The pause between two looks at whether the server still runs.
const SERVER_LOOK: Duration = Duration::from_millis(500);

/// Text for a POSIX shell. `SANDBOX_PARTY` chooses whose certificate is used.
fn environment(stack: &Stack) -> String {
    let certs = quoted(&stack.certs().display().to_string());
    let certificate = Layout::new(&stack.certs()).party(Party::Worker).certificate;
    let folder = certificate.parent().unwrap_or(&certificate);
    let folder = folder.display().to_string();
    let mut text = String::from(
        "# Source this. SANDBOX_PARTY may be worker (as it is when not set), starter or admin.\n",
    );
    let variables = stack.environment(Party::Worker).into_iter();
    let variables = variables.map(|(name, value)| (name, value.to_string_lossy().into_owned()));
    for (name, value) in variables.chain(for_rotations(stack)) {
        let value = match value.strip_prefix(&folder) {
            Some(file) => format!("{certs}/\"${{SANDBOX_PARTY:-worker}}\"{}", quoted(file)),
            None => quoted(&value),
        };
        text.push_str(&format!("export {name}={value}\n"));
    }
    text
}

/// What `keyutil key` and `keyutil pki` need to know to rotate the credentials of this stack, and
/// `keyutil doctor` to look at them.
fn for_rotations(stack: &Stack) -> [(&'static str, String); 7] {
    let refresh = humantime::format_duration(REFRESH).to_string();
    let certs = stack.certs();
    [
        ("KEYUTIL_CERTS_DIR", certs.display().to_string()),
        (
            "KEYUTIL_SIGNING_DIR",
            certs.join("signing").display().to_string(),
        ),
        ("KEYUTIL_JWKS", stack.jwks_uri().to_owned()),
        ("KEYUTIL_JWKS_REFRESH_INTERVAL", refresh.clone()),
        ("KEYUTIL_TLS_REFRESH_INTERVAL", refresh),
        // On one machine files are seen within a second or two, and there is one clock.
        ("KEYUTIL_PROPAGATION", "2s".to_owned()),
        ("KEYUTIL_CLOCK_SKEW", "1s".to_owned()),
    ]
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// `.` of a POSIX shell looks for a name without a slash in `PATH`.
fn sourced(path: &Path) -> String {
    match path.components().count() {
        1 => format!("./{}", path.display()),
        _ => path.display().to_string(),
    }
}

/// A link to a file in the folder of the sandbox. Should the sandbox be killed, it leads nowhere,
/// and sourcing it says so.
struct Link<'a> {
    path: &'a Path,
    target: &'a Path,
}

impl<'a> Link<'a> {
    fn make(target: &'a Path, path: &'a Path) -> anyhow::Result<Self> {
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
        Ok(Self { path, target })
    }
}

impl Drop for Link<'_> {
    fn drop(&mut self) {
        if fs::read_link(self.path).is_ok_and(|target| target == self.target) {
            // An error means that it is gone already, or leads nowhere soon.
            let _ = fs::remove_file(self.path);
        }
    }
}

/// Only a link that leads nowhere is replaced: a sandbox made it, and is gone.
fn refuse_foreign(path: &Path) -> anyhow::Result<()> {
    let Ok(found) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    let shown = path.display();
    ensure!(
        found.file_type().is_symlink(),
        "`{shown}` is there and was not made by a sandbox: name another place with `--env-file`"
    );
    ensure!(
        !path.exists(),
        "`{shown}` belongs to a sandbox that is running: name another place with `--env-file`"
    );
    Ok(())
}
