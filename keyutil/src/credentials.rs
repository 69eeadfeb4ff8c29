//! What this process presents and trusts, always current.
//!
//! | what | file |
//! |---|---|
//! | the last good value of one or more files | `reload.rs` |
//! | client certificate chain and key, as a pair | `identity.rs` |
//! | what the server's certificate is verified with | `trust_bundle.rs` |
//! | the token: what may be sent | `token.rs` |
//! | where it comes from: minted here, or read from a file, or fixed | `source.rs` |

pub mod identity;

pub mod reload;
pub mod source;
pub mod token;
pub mod trust_bundle;

pub use identity::{Identity, IdentityError};

pub use reload::{Credential, FileWatcher, Refresh, Reloading};
pub use source::{Minter, TokenSource};
pub use token::Token;
pub use trust_bundle::TrustBundle;
