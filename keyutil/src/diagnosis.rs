//! Why something failed: at which step of the way of a call, of which class, and what to do.
//!
//! The same for whoever fails on the way and for `keyutil doctor`, which walks it step by step.

use std::{error::Error, fmt};

use serde::Serialize;

/// A step of the way of a call, in the order in which they are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Flags and variables.
    Configuration,
    /// The files that they name.
    Files,
    /// The addresses of the host.
    Name,
    /// The TCP connection.
    Tcp,
    /// TLS, the server's side: its certificate, and the protocols that it speaks.
    ServerTls,
    /// TLS, our side: the client certificate.
    ClientTls,
    /// Calls that need no permission.
    Grpc,
    /// The token.
    Token,
    /// The key set that the server verifies tokens with.
    Jwks,
    /// The clocks of both sides.
    Clock,
    /// What the token permits, in this namespace.
    Permission,
    /// Who polls the task queue.
    TaskQueue,
}

impl Step {
    /// Every step, in order.
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

/// What kind of failure it is, for the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Arguments, settings, or files that are not there.
    Usage,
    /// The server cannot be reached, or does not answer.
    Unreachable,
    /// The server's certificate or protocol.
    ServerTls,
    /// Our certificate.
    ClientCertificate,
    /// The token is missing, or is not accepted.
    Token,
    /// The token permits too little.
    Permission,
    /// There is no such namespace.
    Namespace,
    /// Nobody polls the task queue.
    TaskQueue,
    /// The same will succeed later.
    TooEarly,
    /// Something else.
    Other,
}

impl Class {
    /// The exit code. Where `sysexits.h` has a fitting one it is that; it ends at 78.
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

/// Why something failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// The step at which it failed.
    pub step: Step,
    /// For the exit code.
    pub class: Class,
    /// What failed, on what, and why, in one line.
    pub cause: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// An error that knows at which step it lies, of which class it is, and what to do about it.
pub trait Diagnose: Error + Send + Sync + 'static {
    /// The diagnosis. Its cause is the whole chain of the error, in one line.
    fn diagnosis(&self) -> Diagnosis;
}

/// An error with its diagnosis. It displays as the error alone.
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

/// Attaches its diagnosis to an error, so that [`program`](crate::program) finds it below
/// `anyhow`'s.
pub trait ResultExt<T> {
    /// The value, or the error with its diagnosis.
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
