//! What this process presents and trusts, always current.
//!
//! | what | file |
//! |---|---|
//! | the last good value of one or more files | `reload.rs` |
//! | the task that looks at them | `watcher.rs` |
//! | client certificate chain and key, as a pair | `identity.rs` |
//! | what the server's certificate is verified with | `trust_bundle.rs` |
//! | the token: what may be sent | `token.rs` |
//! | where it comes from: minted here, or read from a file, or fixed | `source.rs` |
//! | minting, and when it is due again | `minter.rs` |

pub mod identity;
pub mod minter;
pub mod reload;
pub mod source;
pub mod token;
pub mod trust_bundle;
pub mod watcher;

pub use identity::{Identity, IdentityError};
pub use minter::Minter;
pub use reload::{Credential, Reloading};
pub use source::TokenSource;
pub use token::Token;
pub use trust_bundle::TrustBundle;
pub use watcher::{FileWatcher, Refresh};
