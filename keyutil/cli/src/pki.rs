//! Development certificates: three CAs, and a leaf certificate for each party.
//!
//! For one machine and for tests only: the private keys of the CAs are stored beside everything
//! else. In production cert-manager, Vault or a company CA writes the same files.
//!
//! | what | where |
//! |---|---|
//! | `keyutil pki init`: creates all certificates | `init.rs` |
//! | `keyutil pki rotate`: replaces a leaf, or a CA in three steps | `rotate.rs` |
//! | `keyutil pki renew`: renews and rotates before anything expires | `renew.rs` |
//! | `keyutil pki list`: shows all certificates and problems | `list.rs` |
//! | the parties, and the path of each file | `layout.rs` |
//! | a CA, the certificates it issues, and the requests for them | `authority.rs` |
//! | a PEM file of certificates | `bundle.rs` |
//! | a certificate and its key, switched together | `pair.rs` |

mod authority;
mod bundle;
mod init;
mod layout;
mod list;
mod pair;
mod renew;
mod rotate;

#[cfg(test)]
mod tests;

pub use authority::{
    AlternativeName, Authority, AuthorityError, AuthorityRequest, BACK_DATED, Leaf, LeafRequest,
    NameError, Purpose, Validity, ValidityError,
};
pub use bundle::{BundleError, FileError};
pub use init::{Existing, InitOptions, Initialized, Mistake, PkiError, Written, init};
pub use layout::{AuthorityFiles, AuthorityKind, Layout, Party, PartyFiles};
pub use list::{AuthorityRole, ListedAuthority, ListedLeaf, Listing, list};
pub use renew::{LifetimeError, RenewOptions, Renewal, Renewed, Subject, Turn, router};
pub use rotate::{
    AuthorityOptions, AuthorityRotated, LeafOptions, LeafRotated, NextStep, RotateError,
    RotationStep, next_step, rotate_authority, rotate_leaf,
};
