//! One temporal-server process with all its services, on loopback ports, with SQLite.
//!
//! ```no_run
//! # async fn run(binary: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
//! use sandbox::{guard::Guard, ports::Ports, server::{Server, ServerPorts, ServerSettings}};
//!
//! let guard = Guard::new("sandbox-")?;
//! let ports = Ports::reserve(ServerPorts::COUNT)?;
//! let ports = ServerPorts::starting_at(ports.range().start);
//! let settings = ServerSettings::plain(ports, guard.folder().join("server"));
//! let server = Server::start(binary, &settings, &guard).await?;
//! println!("{}", server.frontend_address());
//! server.stop().await?;
//! # Ok(())
//! # }
//! ```

mod config;
mod log;
mod process;
mod settings;

pub use process::{Server, ServerError};
pub use settings::{
    Authorization, FrontendTls, InternodeTls, Persistence, ServerPorts, ServerSettings, Tls,
};
