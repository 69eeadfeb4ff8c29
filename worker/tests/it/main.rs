//! The tests of the worker, as one binary. None of them needs a server.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

mod canary;
mod order;
mod replay;
mod usage;
