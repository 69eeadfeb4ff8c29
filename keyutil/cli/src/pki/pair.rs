//! Replaces the certificate and key of a party together.
//!
//! Both are written and synced beside the files in use, and then renamed, the key first. A process
//! that dies before the first rename has changed nothing. One that dies between the two leaves the
//! new key, the old certificate, and the new certificate beside it: the next `keyutil pki` command
//! renames that, too. Until then, and in the instant between two renames, readers keep the pair that
//! they have loaded.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use super::{Layout, Leaf, Party, PartyFiles};
use crate::files::{self, Mode, Operation, WriteError};
use keyutil::credentials::{Identity, IdentityError};

/// Returns the operations that replace the pair.
pub(super) fn switch(files: PartyFiles, leaf: Leaf) -> [Operation; 4] {
    let stage = |path: &Path, content, mode| Operation::Stage {
        path: path.to_owned(),
        content,
        mode,
    };
    [
        stage(&files.key, leaf.key_pem, Mode::Private),
        stage(
            &files.certificate,
            leaf.certificate_pem.into(),
            Mode::Public,
        ),
        Operation::Switch { path: files.key },
        Operation::Switch {
            path: files.certificate,
        },
    ]
}

/// Returns whether the two files are a certificate and its key. Their dates are not checked.
pub(super) fn is_pair(certificate: &Path, key: &Path) -> bool {
    match (fs::read(certificate), fs::read(key)) {
        (Ok(certificate), Ok(key)) => matches!(
            Identity::parse(&certificate, &key, UNIX_EPOCH),
            // The dates are checked last: a certificate that is refused only because it is not
            // valid in 1970 has passed the other checks.
            Ok(_) | Err(IdentityError::NotYetValid { .. } | IdentityError::Expired { .. })
        ),
        _ => false,
    }
}

/// Returns whether a run is replacing a pair, or was interrupted while it did.
pub(super) fn is_unfinished(layout: &Layout) -> bool {
    Party::ALL.into_iter().any(|party| {
        let files = layout.party(party);
        [files.key, files.certificate]
            .iter()
            .any(|path| files::staged(path).exists())
    })
}

/// Completes or undoes the switch of each pair that an interrupted run has begun, and removes files
/// that it left half written, such as private keys. The caller holds the lock.
///
/// # Errors
/// The file or folder, and the cause.
pub(super) fn mend(layout: &Layout) -> Result<(), (PathBuf, io::Error)> {
    for party in Party::ALL {
        let folder = layout.party_folder(party);
        if folder.is_dir() {
            files::sweep(&folder, Duration::ZERO).map_err(|source| (folder, source))?;
            mend_pair(&layout.party(party)).map_err(|error| (error.path, error.source))?;
        }
    }
    Ok(())
}

fn mend_pair(files: &PartyFiles) -> Result<(), WriteError> {
    let [key, certificate] = [&files.key, &files.certificate].map(|path| files::staged(path));
    // The key has been renamed, and the certificate has not.
    if !key.exists() && is_pair(&certificate, &files.key) {
        return files::switch(&files.certificate);
    }
    files::remove(&key)?;
    files::remove(&certificate)
}
