//! A Temporal connection whose credentials rotate while it is in use.
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
//! A service whose settings come from elsewhere fills [`ConnectArgs`] in code, and messages then
//! name its fields. `keyutil/examples` has the smallest worker, workers in several namespaces over
//! one connection, and a client with a data converter.
//!
//! # Modules
//!
//! Each module imports only modules below it; `tests/layers.rs` reads this table.
//!
//! | module | what |
//! |---|---|
//! | [`program`] | exit codes, logs, the one place where an error is printed |
//! | [`health`] | `/healthz`, `/readyz`, `/metrics`, `/status` (cargo feature `health`) |
//! | [`worker`] | workers that stop in order, and the SDK's metrics (cargo feature `worker`) |
//! | [`probe`] | each step of a connection on its own |
//! | [`connect`](mod@connect) | settings → a connection that has proved that it is authorized |
//! | [`settings`] | flags, variables or fields → checked settings, all mistakes at once |
//! | `transport` | interceptor, rotating channel, TLS, the SDK's calls |
//! | [`credentials`] | client identity, trust bundle, token source: the last good value of files |
//! | [`explain`] | why the server refused a call |
//! | [`status`] | how connection and credentials are doing, as plain values |
//! | [`token`] | permissions, claims, the key that signs, tokens read without verification |
//! | [`x509`] | PEM and certificates as files have them |
//! | [`diagnosis`] | at which step an error lies, of which class it is, and what to do |
//! | [`base`] | error chains, text, times, bounded reads, redaction |
//!
//! # What may change
//!
//! `CHANGELOG.md` says what changes. [`connect`](mod@connect), [`settings`], [`credentials`],
//! [`status`], [`diagnosis`], [`health`], [`worker`], [`program`] and [`token`] keep their names
//! within a minor version. [`probe`], [`explain`], [`x509`] and [`base`] are public for
//! `keyutil-cli`, and change with it.
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

pub mod base;
pub mod connect;
pub mod credentials;
pub mod diagnosis;
pub mod explain;
#[cfg(feature = "health")]
pub mod health;
pub mod probe;
pub mod program;
#[cfg(test)]
mod samples;
pub mod settings;
pub mod status;
pub mod token;
mod transport;
#[cfg(feature = "worker")]
pub mod worker;
pub mod x509;

pub use base::{JsonError, chain};
pub use connect::{ConnectError, Connection, connect};
pub use diagnosis::Diagnosis;
pub use settings::ConnectArgs;
pub use status::Status;
pub use x509::pem::PemError;
