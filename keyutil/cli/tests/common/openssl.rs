//! What the openssl command makes: OpenSSL's or LibreSSL's.

use std::{
    path::Path,
    process::{Command, Output},
};

/// Runs `openssl` in this folder with these words, and it must succeed.
pub fn openssl(folder: &Path, words: &str) {
    let output = try_openssl(folder, words);
    assert!(output.status.success(), "openssl {words}: {output:?}");
}

/// The same, for what one of the two programs may not know.
pub fn try_openssl(folder: &Path, words: &str) -> Output {
    Command::new("openssl")
        .current_dir(folder)
        .args(words.split_whitespace())
        .output()
        .unwrap()
}

/// An RSA key in the old form, `RSA PRIVATE KEY`.
pub fn rsa_pkcs1(folder: &Path, file: &str) {
    // OpenSSL 3 has to be asked for it; LibreSSL and OpenSSL 1.1 know no other form, nor the flag.
    let asked = try_openssl(folder, &format!("genrsa -traditional -out {file} 2048"));
    if !asked.status.success() {
        openssl(folder, &format!("genrsa -out {file} 2048"));
    }
}
