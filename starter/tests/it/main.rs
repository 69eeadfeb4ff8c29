//! The tests of the starter, as one binary.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

mod order;
mod usage;
