//! What the tests of several files begin with.

use std::{fs, path::Path, time::Duration};

use secrecy::ExposeSecret;

use crate::token::{ClaimsTemplate, Permission, signing_key};

pub(crate) const LIFETIME: Duration = Duration::from_secs(300);

/// Of a worker's token.
pub(crate) fn template() -> ClaimsTemplate {
    ClaimsTemplate {
        subject: "worker".into(),
        audience: None,
        permissions: vec![Permission::write("default")],
        lifetime: LIFETIME,
    }
}

/// A new signing key.
pub(crate) fn write_key(path: &Path) {
    fs::write(path, signing_key::generate_pem().unwrap().expose_secret()).unwrap();
}
