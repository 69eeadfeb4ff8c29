//! Flags that make sense, and flags that do not.

mod addresses;
mod mistakes;
mod tls;

use std::{path::PathBuf, time::SystemTime};

use tempfile::TempDir;

use super::*;
use crate::{
    jwt::keyring::Keyring,
    pki::{self, InitOptions, Layout, Party},
};

/// Certificates and a signing key of its own.
struct World {
    folder: TempDir,
    layout: Layout,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        pki::init(&InitOptions::new(folder.path())).unwrap();
        let ring = Keyring::at(folder.path());
        ring.generate(false, SystemTime::now).unwrap();
        let layout = Layout::new(folder.path());
        Self { folder, layout }
    }

    /// With a CA, so that nothing depends on those of this machine.
    fn tls(&self) -> ConnectArgs {
        ConnectArgs {
            tls_ca_path: Some(self.layout.party(Party::Worker).trust),
            ..ConnectArgs::default()
        }
    }

    fn worker(&self, file: &str) -> PathBuf {
        let certificate = self.layout.party(Party::Worker).certificate;
        certificate.with_file_name(file)
    }

    fn signing_key(&self) -> PathBuf {
        Keyring::at(self.folder.path()).current_path()
    }
}

fn is_tls(settings: &Settings) -> bool {
    matches!(settings.dial.security(), Security::Tls { .. })
}
