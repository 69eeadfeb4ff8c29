//! One file per subcommand.

pub mod completions;
mod countdown;
pub mod doctor;
pub mod jwks;
pub mod key;
pub mod namespace;
pub mod pki;
pub mod probe;
pub mod token;
