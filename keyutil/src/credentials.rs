//! What this process presents and trusts, always current.
//!
//! | what | file |
//! |---|---|
//! | the last good value of one or more files | `reload.rs` |
//! | client certificate chain and key, as a pair | `identity.rs` |
//! | what the server's certificate is verified with | `trust.rs` |
//! | the token: minted here, or read from a file, or fixed | `token.rs` |

pub mod identity;
pub mod reload;
pub mod token;
pub mod trust;

pub use identity::Identity;
pub use reload::{Reloading, Watch};
pub use token::{Token, TokenSource};
pub use trust::Trust;
