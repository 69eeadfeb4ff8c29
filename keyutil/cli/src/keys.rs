//! Signing keys and the key set that publishes them.
//!
//! | what | file |
//! |---|---|
//! | next → current → previous, on disk | `keyring.rs` |
//! | the public document (RFC 7517) | `jwks.rs` |
//! | the endpoint that publishes it | `serve.rs` |
//! | the key set that a server reads, fetched | `fetch.rs` |
//! | whether the server accepts a token by its key set | `verify.rs` |

pub mod fetch;
pub mod jwks;
pub mod keyring;
pub mod serve;
pub mod verify;

pub use jwks::Jwks;
