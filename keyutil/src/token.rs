//! Tokens and the key that signs them.
//!
//! | what | file |
//! |---|---|
//! | `<namespace>:<role>`, parsed and linted | `permission.rs` |
//! | the claims of a minted token | `claims.rs` |
//! | the private key and its RFC 7638 thumbprint | `signing_key.rs` |
//! | a token read without verification | `unverified.rs` |
//!
//! Only this module uses the JWT library.

pub mod claims;
pub mod permission;
pub mod signing_key;
pub mod unverified;

pub use claims::{Claims, ClaimsTemplate};
pub use permission::{Permission, PermissionsClaim, Role};
pub use signing_key::{KeyError, SigningKey};
pub use unverified::{Lifetime, MalformedToken, UnverifiedToken};
