//! Credential files on disk: replaced as a whole, never written into, private where they must be.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

/// Who may read a file that this crate writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `0600`: private keys and tokens.
    Private,
    /// `0644`: certificates, key sets and other public material.
    Public,
}

/// Replaces `path` by a file with this content, so that a reader sees the old file or the new one
/// and never half of either, and so that the new one survives a power cut once this returns.
///
/// A temporary file in the same folder (a rename does not cross file systems) is written, synced
/// and renamed. Missing parent folders are made, with mode `0700`.
///
/// # Errors
/// [`WriteError`], which names the path. Whatever stood at `path` before is then still there.
pub fn replace(path: &Path, content: &[u8], mode: Mode) -> Result<(), WriteError> {
    let failed = |source| WriteError {
        path: path.to_owned(),
        source,
    };
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_folder(folder).map_err(failed)?;
    write_and_rename(folder, path, content, mode).map_err(failed)
}

fn write_and_rename(folder: &Path, path: &Path, content: &[u8], mode: Mode) -> io::Result<()> {
    use io::Write;

    // tempfile creates with 0600, so a private key is never readable by others, not even briefly.
    let mut file = NamedTempFile::new_in(folder)?;
    file.write_all(content)?;
    if mode == Mode::Public {
        make_public(file.as_file())?;
    }
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    // The rename itself is durable only once the folder is synced.
    fs::File::open(folder)?.sync_all()
}

#[cfg(unix)]
fn make_public(file: &fs::File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn make_public(_: &fs::File) -> io::Result<()> {
    Ok(())
}

/// Makes the folder and its parents, with mode `0700`, as far as they are missing.
#[cfg(unix)]
pub(crate) fn create_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
}

#[cfg(not(unix))]
pub(crate) fn create_folder(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)
}

/// PEM text as some Windows editors save it begins with a byte order mark, which hides the first
/// block from a parser that wants `-----BEGIN` at the start of a line.
pub fn without_byte_order_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

/// A file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("failed to write `{}`", path.display())]
pub struct WriteError {
    /// The file that was to be written.
    pub path: PathBuf,
    /// Why it was not.
    #[source]
    pub source: io::Error,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("occupied");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("inside"), "old").unwrap();

        let error = replace(&path, b"new", Mode::Public).unwrap_err();

        assert!(error.to_string().contains("occupied"), "{error}");
        assert_eq!(fs::read(path.join("inside")).unwrap(), b"old");
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "a temporary file was left: {left:?}");
    }

    #[cfg(unix)]
    #[test]
    fn modes_hold_even_over_a_wider_old_file() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tls.key");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();

        for (mode, bits) in [(Mode::Private, 0o600), (Mode::Public, 0o644)] {
            replace(&path, b"new", mode).unwrap();
            let found = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!(found, bits, "{mode:?}: {found:o}");
        }
    }
}
