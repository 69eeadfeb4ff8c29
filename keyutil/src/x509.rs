//! PEM and certificates as files have them.

pub mod certificate;
pub mod pem;
