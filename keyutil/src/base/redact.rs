//! Redaction of text that may contain a secret.

use std::path::Path;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

/// Whether a path is the content of a credential file, PEM or a token, given by mistake in place of
/// its name. Such a path must not be repeated in a message.
pub fn is_content(path: &Path) -> bool {
    let text = path.to_string_lossy();
    text.contains("-----BEGIN ") || text.split_whitespace().any(is_jwt)
}

/// Whether the text is a signed JWT in the compact form of RFC 7515.
pub fn is_jwt(text: &str) -> bool {
    let decoded: Option<Vec<_>> = text
        .split('.')
        .map(|part| BASE64_URL_SAFE_NO_PAD.decode(part).ok())
        .collect();
    let is_object = |bytes: &[u8]| serde_json::from_slice::<Map<String, Value>>(bytes).is_ok();
    matches!(decoded.as_deref(), Some([header, claims, _]) if is_object(header) && is_object(claims))
}

/// The address without user name and password.
pub fn without_user(address: &str) -> String {
    match address.rsplit_once('@') {
        Some((_, host)) => format!("…@{host}"),
        None => address.to_owned(),
    }
}

/// A URL or file name without password, query and fragment. A credential in its place is omitted.
pub fn source(source: &str) -> String {
    if is_content(Path::new(source)) {
        return "not the name of a file".to_owned();
    }
    match source.split_once("://") {
        Some((scheme, rest)) => {
            let rest = rest.split(['?', '#']).next().unwrap_or_default();
            format!("{scheme}://{}", without_user(rest))
        }
        None => source.to_owned(),
    }
}
