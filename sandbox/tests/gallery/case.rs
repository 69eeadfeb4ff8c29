//! What a failure is, as data.

use std::{
    any::Any,
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
};

use futures::future::LocalBoxFuture;

use super::world::World;

/// A message in the table of `docs/troubleshooting.md`, and the ways to it that are tried.
pub struct Row {
    /// What one reads; `…` stands for what varies.
    pub message: &'static str,
    /// Zero is a warning of `keyutil doctor`, or none.
    pub exit_code: u8,
    pub cause: &'static str,
    pub advice: &'static str,
    pub cases: &'static [Case],
}

impl Row {
    /// More ways to a message that another group has in the table.
    pub const fn elsewhere(message: &'static str, exit_code: u8, cases: &'static [Case]) -> Self {
        Self {
            message,
            exit_code,
            cause: "",
            advice: "",
            cases,
        }
    }

    /// Whether it stands in the table.
    pub fn is_listed(&self) -> bool {
        !self.cause.is_empty()
    }
}

/// One way to fail.
pub struct Case {
    /// The heading of its picture.
    pub name: &'static str,
    /// The step that fails, as `--output json` has it; or that is warned of; or none.
    pub step: Option<&'static str>,
    pub starter: Starter,
    pub cause: Cause,
}

/// What the starter makes of it.
pub enum Starter {
    /// It ends with the same exit code, the same words and the same hint.
    Same,
    /// It ends with the same exit code. The doctor has looked farther, and knows more.
    KnowsLess,
    /// It works.
    Works,
    /// It has nothing to do with it.
    NotRun,
}

/// How it comes about.
pub enum Cause {
    /// By what worker and starter are told.
    Told(fn(&World, Attempt) -> Attempt),
    /// By a server, or something like it, that has to be started first.
    Made(for<'w> fn(&'w World, Attempt) -> LocalBoxFuture<'w, Attempt>),
}

/// How one case is told to connect: as it should be, until it is changed.
pub struct Attempt {
    /// Of its own.
    pub folder: PathBuf,
    variables: BTreeMap<OsString, Option<OsString>>,
    doctor: Vec<OsString>,
    /// Why it cannot be caused here, if so.
    skipped: Option<&'static str>,
    /// What lives as long as the case.
    _held: Vec<Box<dyn Any + Send>>,
}

impl Attempt {
    pub fn new(folder: PathBuf) -> Self {
        fs::create_dir_all(&folder).unwrap();
        Self {
            folder,
            variables: BTreeMap::new(),
            doctor: Vec::new(),
            skipped: None,
            _held: Vec::new(),
        }
    }

    pub fn with(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        let value = value.as_ref().to_owned();
        self.variables.insert(name.into(), Some(value));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.variables.insert(name.into(), None);
        self
    }

    /// The doctor alone is told this.
    pub fn asking<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        let arguments = arguments.into_iter();
        self.doctor
            .extend(arguments.map(|argument| argument.as_ref().to_owned()));
        self
    }

    pub fn holding(mut self, what: impl Any + Send) -> Self {
        self._held.push(Box::new(what));
        self
    }

    /// What it takes is not on this machine.
    pub fn skipped(mut self, why: &'static str) -> Self {
        self.skipped = Some(why);
        self
    }

    pub fn why_skipped(&self) -> Option<&'static str> {
        self.skipped
    }

    /// Where waiting would only cost time.
    pub fn impatient(self) -> Self {
        self.with("KEYUTIL_CONNECT_TIMEOUT", "1s")
    }

    pub fn address(self, address: impl AsRef<OsStr>) -> Self {
        self.with("TEMPORAL_ADDRESS", address)
    }

    pub fn client_certificate(self, certificate: &Path, key: &Path) -> Self {
        self.with("TEMPORAL_TLS_CLIENT_CERT_PATH", certificate)
            .with("TEMPORAL_TLS_CLIENT_KEY_PATH", key)
    }

    pub fn without_client_certificate(self) -> Self {
        self.without("TEMPORAL_TLS_CLIENT_CERT_PATH")
            .without("TEMPORAL_TLS_CLIENT_KEY_PATH")
    }

    pub fn without_token(self) -> Self {
        self.without("KEYUTIL_SIGNING_KEY_PATH")
            .without("KEYUTIL_AUDIENCE")
    }

    /// The token in a file, and nothing to mint another with.
    pub fn token_file(self, content: &str) -> Self {
        let file = self.write("token", content);
        self.without_token().with("KEYUTIL_TOKEN_FILE", file)
    }

    /// Writes a file of its own, for its owner alone.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.join(name);
        keyutil_cli::files::replace(&path, content.as_ref(), keyutil_cli::files::Mode::Private)
            .unwrap();
        path
    }

    /// Changes a program that would do everything right.
    pub fn tell<'c>(
        &self,
        command: &'c mut tokio::process::Command,
    ) -> &'c mut tokio::process::Command {
        for (name, value) in &self.variables {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }

    pub fn arguments_of_the_doctor(&self) -> &[OsString] {
        &self.doctor
    }
}
