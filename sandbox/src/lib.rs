//! Runs the real Temporal Server on this machine, for the demo and the end-to-end tests.
//!
//! Development only: a copy of the template leaves this crate behind.
//!
//! | what | where |
//! |---|---|
//! | A server with mTLS and authorization, its PKI, keys and JWKS endpoint | [`stack`] |
//! | The demo, step by step | [`demo`] |
//! | Wrong credentials, and the answers of the server | [`refusals`] |
//! | Each credential replaced under load, and proof that the other side saw it | [`rotations`] |
//! | The worker as a child process, and its status | [`process`] |
//! | Load, while every credential rotates again and again | [`soak`] |
//! | Many workers, through a killed server and a rotation of everything | [`fleet`] |
//! | A stack to work with by hand | [`up`] |
//! | Worker, starter and keyutil, as they were just built | [`binaries`] |
//! | No process or folder survives a sandbox that was dropped, interrupted or killed | [`guard`] |
//! | Several sandboxes run at once | [`ports`] |
//! | The pinned server binary is found, downloaded or built | [`provision`] |
//! | The server is configured, started, watched and stopped | [`server`] |

pub mod binaries;
pub mod demo;
pub mod fleet;
pub mod guard;
pub mod ports;
pub mod process;
pub mod provision;
pub mod refusals;
pub mod rotations;
pub mod server;
pub mod soak;
pub mod stack;
pub mod up;

pub use stack::{Stack, StackOptions};
