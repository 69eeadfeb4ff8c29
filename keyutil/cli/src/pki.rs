//! Development certificates: three CAs and a leaf for each party.
//!
//! For a machine of one's own and for tests: the private keys of the CAs lie beside everything
//! else. In production cert-manager, Vault or a company's CA writes the same files, and nothing
//! else in this crate depends on this module.
//!
//! | what | where |
//! |---|---|
//! | `keyutil pki init`: all of them, new, on disk | `init.rs` |
//! | what is asked for, checked and made in memory | `plan.rs` |
//! | `keyutil pki rotate`: a new leaf, or a CA in three steps | `rotate.rs` |
//! | `keyutil pki list`: what is there, and what is wrong with it | `list.rs` |
//! | who holds which certificate, and in which file | `layout.rs` |
//! | a CA, and what it signs | `authority.rs` |
//! | a certificate for one party, and its key | `leaf.rs` |
//! | what both are made of | `parts.rs` |
//! | a PEM file of certificates | `bundle.rs` |
//! | DNS names and IP addresses | `name.rs` |
//! | from when until when | `validity.rs` |
//! | what can go wrong | `error.rs` |

mod authority;
mod bundle;
mod error;
mod init;
mod layout;
mod leaf;
mod list;
mod name;
mod parts;
mod plan;
mod rotate;
mod validity;

#[cfg(test)]
mod tests;

pub use authority::{Authority, AuthorityRequest};
pub use bundle::{BundleError, FileError};
pub use error::{AuthorityError, Mistake, PkiError};
pub use init::{Existing, InitOptions, Initialized, Written, init};
pub use layout::{AuthorityFiles, AuthorityKind, Layout, Party, PartyFiles};
pub use leaf::{Leaf, LeafRequest, Purpose};
pub use list::{ListedAuthority, ListedLeaf, Listing, Role, list};
pub use name::{AlternativeName, NameError};
pub use rotate::{
    AuthorityOptions, AuthorityRotated, LeafOptions, LeafRotated, NextStep, RotateError, Step,
    next_step, rotate_authority, rotate_leaf,
};
pub use validity::{BACK_DATED, Validity, ValidityError};
