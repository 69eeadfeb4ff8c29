//! What every other module stands on: error chains, text, times, bounded reads, redaction.

mod chain;
mod json;
pub mod read;
pub mod redact;
pub mod text;
pub mod time;

pub use chain::{causes, chain};
pub use json::JsonError;
