//! PEM files and X.509 certificates.

pub mod certificate;
pub mod pem;
pub mod revocation_list;
