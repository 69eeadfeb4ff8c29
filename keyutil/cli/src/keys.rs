//! Signing keys and the key set that publishes them.
//!
//! | what | file |
//! |---|---|
//! | the signing keys on disk: next → current → previous | `keyring.rs` |
//! | the public document (RFC 7517) | `jwks.rs` |
//! | the endpoint that publishes it | `serve.rs` |
//! | which peers have fetched the present document | `fetches.rs` |
//! | fetches the key set that a server reads | `fetch.rs` |
//! | verifies a token against a key set by the rules of the server | `verify.rs` |

pub mod fetch;
pub mod fetches;
pub mod jwks;
pub mod keyring;
pub mod serve;
pub mod verify;

pub use jwks::Jwks;
