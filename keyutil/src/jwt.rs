//! Tokens and the keys that sign them.
//!
//! | what | file |
//! |---|---|
//! | `<namespace>:<role>`, parsed and linted | `permission.rs` |
//! | what a token says, and for how long | `claims.rs` |
//! | the private key, and its RFC 7638 name | `key.rs` |
//! | what a token says, read without trusting it | `inspect.rs` |
//! | whether the server would trust it | `verify.rs` |
//! | next → current → previous, on disk | `keyring.rs` |
//! | the public document | `jwks.rs` |
//! | the endpoint that publishes it | `serve.rs` |
//!
//! Only this room names the JWT library.

pub mod fetch;
pub mod jwks;
pub mod keyring;
pub mod serve;
pub mod verify;

pub use jwks::Jwks;
