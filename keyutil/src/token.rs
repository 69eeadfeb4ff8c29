//! Tokens and the key that signs them.
//!
//! | what | file |
//! |---|---|
//! | `<namespace>:<role>`, parsed and linted | `permission.rs` |
//! | the claims of a token, and its lifetime | `claims.rs` |
//! | the private key, and its RFC 7638 name | `signing_key.rs` |
//! | the content of a token, read without verification | `unverified.rs` |
//!
//! Only this module names the JWT library.

pub mod claims;
pub mod permission;
pub mod signing_key;
pub mod unverified;

pub use claims::{Claims, ClaimsTemplate};
pub use permission::{Permission, PermissionsClaim, Role};
pub use signing_key::{KeyError, SigningKey};
pub use unverified::{Lifetime, MalformedToken, UnverifiedToken};
