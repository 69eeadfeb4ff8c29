//! The diagnosis of an error: the step at which it occurred, its class, and what to do.
//!
//! Programs print it, and `keyutil doctor` checks the same steps one by one.

use std::{error::Error, fmt};

use serde::Serialize;

/// The steps of a call, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Flags and variables.
    Configuration,
    /// The files that the configuration names.
    Files,
    /// Name resolution.
    Name,
    /// The TCP connection.
    Tcp,
    /// The server's side of TLS: its certificate and protocols.
    ServerTls,
    /// The client's side of TLS: the client certificate.
    ClientTls,
    /// Calls that require no permission.
    Grpc,
    /// The token.
    Token,
    /// The key set with which the server verifies tokens.
    Jwks,
    /// The clocks of client and server.
    Clock,
    /// The permissions of the token in the namespace.
    Permission,
    /// The pollers of the task queue.
    TaskQueue,
}

impl Step {
    /// All steps, in order.
    pub const ALL: [Self; 12] = [
        Self::Configuration,
        Self::Files,
        Self::Name,
        Self::Tcp,
        Self::ServerTls,
        Self::ClientTls,
        Self::Grpc,
        Self::Token,
        Self::Jwks,
        Self::Clock,
        Self::Permission,
        Self::TaskQueue,
    ];
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Configuration => "configuration",
            Self::Files => "files",
            Self::Name => "name",
            Self::Tcp => "TCP",
            Self::ServerTls => "server TLS",
            Self::ClientTls => "client TLS",
            Self::Grpc => "gRPC",
            Self::Token => "token",
            Self::Jwks => "JWKS",
            Self::Clock => "clock",
            Self::Permission => "permission",
            Self::TaskQueue => "task queue",
        })
    }
}

/// The class of an error, which determines the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Arguments or settings are wrong, or files cannot be read.
    Usage,
    /// The server cannot be reached or does not answer.
    Unreachable,
    /// The server's certificate or protocol is wrong.
    ServerTls,
    /// The client certificate is missing, unusable or rejected.
    ClientCertificate,
    /// The token is missing, unusable or rejected.
    Token,
    /// The token does not grant the permission.
    Permission,
    /// The namespace does not exist.
    Namespace,
    /// No worker polls the task queue.
    TaskQueue,
    /// The same command will succeed later.
    TooEarly,
    /// Any other error.
    Other,
}

impl Class {
    /// The exit code: that of `sysexits.h` where it has one that fits. Its numbers end at 78.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Usage => 64,
            Self::Unreachable => 69,
            Self::ServerTls => 76,
            Self::Permission => 77,
            Self::ClientCertificate => 79,
            Self::Token => 80,
            Self::Namespace => 81,
            Self::TaskQueue => 82,
            Self::TooEarly => 75,
            Self::Other => 1,
        }
    }
}

/// The explanation of an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// The step at which it occurred.
    pub step: Step,
    /// The class, for the exit code.
    pub class: Class,
    /// The operation, its subject and the reason, in one line.
    pub cause: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// An error that has a diagnosis.
pub trait Diagnose: Error + Send + Sync + 'static {
    /// The diagnosis. Its cause is the whole error chain in one line.
    fn diagnosis(&self) -> Diagnosis;
}

/// An error with its diagnosis. It displays as the error.
#[derive(Debug)]
pub struct Diagnosed {
    /// The diagnosis.
    pub diagnosis: Diagnosis,
    /// The error.
    pub error: Box<dyn Error + Send + Sync>,
}

impl<E: Diagnose> From<E> for Diagnosed {
    fn from(error: E) -> Self {
        Self {
            diagnosis: error.diagnosis(),
            error: Box::new(error),
        }
    }
}

impl From<Diagnosis> for Diagnosed {
    fn from(diagnosis: Diagnosis) -> Self {
        Self {
            error: diagnosis.cause.clone().into(),
            diagnosis,
        }
    }
}

impl fmt::Display for Diagnosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl Error for Diagnosed {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

/// Attaches the diagnosis to an error, for [`program`](crate::program) to find below an
/// `anyhow::Error`.
pub trait ResultExt<T> {
    /// Converts the error to [`Diagnosed`].
    ///
    /// # Errors
    /// [`Diagnosed`], with the error.
    fn diagnosed(self) -> Result<T, Diagnosed>;
}

impl<T, E: Diagnose> ResultExt<T> for Result<T, E> {
    fn diagnosed(self) -> Result<T, Diagnosed> {
        self.map_err(Diagnosed::from)
    }
}
