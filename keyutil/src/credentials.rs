//! The credentials of this process, reloaded when their files change.
//!
//! | what | file |
//! |---|---|
//! | the last good value of one or more files | `reload.rs` |
//! | the client certificate chain and its key | `identity.rs` |
//! | the CAs that verify the server | `trust_bundle.rs` |
//! | the revocation lists of server certificates | `revocation.rs` |
//! | a token that can be sent | `token.rs` |
//! | the source of tokens: minted, read from a file, or fixed | `source.rs` |

pub mod identity;

pub mod reload;
pub mod revocation;
pub mod source;
pub mod token;
pub mod trust_bundle;

pub use identity::{Identity, IdentityError};

pub use reload::{Credential, FileWatcher, Refresh, Reloading};
pub use revocation::RevocationLists;
pub use source::{Minter, TokenSource};
pub use token::Token;
pub use trust_bundle::TrustBundle;
