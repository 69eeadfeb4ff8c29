//! Development certificates: three CAs and a leaf for each party.
//!
//! For a single machine and for tests: the private keys of the CAs lie beside everything else. In
//! production cert-manager, Vault or a company's CA writes the same files.
//!
//! | what | where |
//! |---|---|
//! | `keyutil pki init`: all of them, new, on disk | `init.rs` |
//! | `keyutil pki rotate`: a new leaf, or a CA in three steps | `rotate.rs` |
//! | `keyutil pki list`: what is there, and what is wrong with it | `list.rs` |
//! | who holds which certificate, and in which file | `layout.rs` |
//! | a CA, the certificates and keys that it makes, and what it is asked for | `authority.rs` |
//! | a PEM file of certificates | `bundle.rs` |

mod authority;
mod bundle;
mod init;
mod layout;
mod list;
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
pub use rotate::{
    AuthorityOptions, AuthorityRotated, LeafOptions, LeafRotated, NextStep, RotateError,
    RotationStep, next_step, rotate_authority, rotate_leaf,
};
