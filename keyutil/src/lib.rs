//! A Temporal connection whose credentials rotate while it is in use.
//!
//! | what you will see | where |
//! |---|---|
//! | flags and environment variables, the same in every program | [`args`] |
//! | all mistakes in them at once, before any socket is opened | [`settings`] |
//! | a client that has proved that it is authorized | [`connect()`] |
//! | client certificate, CA and token, replaced while running | [`credentials`] |
//! | the way of a call: interceptor, channel, TLS | [`transport`] |
//! | tokens, the keys that sign them, and the JWKS endpoint | [`jwt`] |
//! | why a call was refused, in words | [`explain`] |
//! | at which step something failed, and what to do | [`diagnosis`] |
//! | every step of the way of a call, looked at on its own | [`doctor`] |
//! | how connection and credentials are doing, and whether that will do | [`status`] |
//! | the same over HTTP: `/healthz`, `/readyz`, `/metrics`, `/status` | [`health`] |
//! | PEM that somebody else wrote, and what is wrong with it | [`pem`] |
//! | what time it is, once files are locked | [`clock`] |
//! | exit codes, logs, and the one place where errors are printed | [`program`] |
//! | certificates for development; in production they come from elsewhere | [`pki`] |
//!
//! ```no_run
//! # use clap::Parser;
//! # async fn example() -> Result<(), keyutil::ConnectError> {
//! #[derive(clap::Parser)]
//! struct Args {
//!     #[command(flatten)]
//!     connect: keyutil::ConnectArgs,
//! }
//!
//! let connection = keyutil::connect(&Args::parse().connect, "my-service").await?;
//! let client = connection.client(); // temporalio_client::Client
//! # Ok(())
//! # }
//! ```
//!
//! `examples/` of this crate has the smallest worker, two namespaces over one connection, and a data
//! converter.
//!
//! # Dependencies of a worker
//!
//! The code that the SDK's macros write names `temporalio-common`, `temporalio-sdk`,
//! `temporalio-workflow` and `futures`, so that they are direct dependencies of a crate with workflows
//! and activities, whether its own code names them or not:
//!
//! ```toml
//! [dependencies]
//! anyhow = "1"
//! clap = { version = "4", features = ["derive", "env"] }
//! futures = "0.3"
//! keyutil = { path = "../keyutil" }
//! temporalio-common = { version = "1.1", default-features = false }
//! temporalio-macros = "1.1"
//! temporalio-sdk = { version = "1.1", default-features = false }
//! temporalio-workflow = "1.1"
//! tokio = { version = "1", features = ["macros", "rt-multi-thread"] }
//! ```
//!
//! The features of the SDK that a worker needs (`tls-aws-lc`, `vendored-protox`) are turned on by this
//! crate. The default features are to be left out in each crate of the SDK that is named. Those of
//! `temporalio-client` and `temporalio-sdk-core` bring in ring as a second crypto provider, those of
//! `temporalio-sdk` the loader of configuration files. A crate that names the client, for
//! [`Connection::client_with`], adds:
//!
//! ```toml
//! temporalio-client = { version = "1.1", default-features = false, features = ["tls-aws-lc", "vendored-protox"] }
//! ```

pub mod args;
pub mod base;
pub mod connect;
pub mod credentials;
pub mod diagnosis;
pub mod explain;
#[cfg(feature = "health")]
pub mod health;
pub mod program;
#[cfg(test)]
mod samples;
pub mod settings;
pub mod status;
pub mod token;
pub mod transport;
#[cfg(feature = "worker")]
pub mod worker;
pub mod x509;

pub use args::ConnectArgs;
pub use base::{JsonError, chain};
pub use connect::{ConnectError, Connection, connect};
pub use diagnosis::Diagnosis;
pub use status::Status;
pub use x509::pem::PemError;
