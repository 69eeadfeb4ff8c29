//! Reading files of a bounded size.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

/// The size limit for credential files, in bytes. It exceeds any certificate bundle, key or token,
/// and keeps a wrong path from filling the memory.
pub const MAX_FILE_SIZE: u64 = 4 << 20;

/// Reads a regular file of at most `limit` bytes.
///
/// Other kinds of files are refused: opening a pipe without a writer blocks, and some devices have
/// no end.
///
/// # Errors
/// An [`io::Error`], when the file cannot be read, is not a regular file, or is larger.
pub fn read_regular(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    read_at_most(File::open(path)?, limit)
}

/// Reads to the end, at most `limit` bytes.
///
/// # Errors
/// An [`io::Error`], when reading fails or there are more bytes.
pub fn read_at_most(from: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    from.take(limit + 1).read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        let limit = format!("larger than the limit of {} MiB", limit >> 20);
        return Err(io::Error::other(limit));
    }
    Ok(content)
}

/// The text without a leading byte order mark, which some Windows editors write. A parser that
/// expects `-----BEGIN` at the start of a line would miss the first block.
pub fn without_byte_order_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}
