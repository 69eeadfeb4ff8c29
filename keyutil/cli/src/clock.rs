//! What time it is.

use std::time::SystemTime;

/// What time it is: `SystemTime::now`, but in tests.
///
/// Asked by whoever changes files once they are locked. With a time from before a long wait for the
/// lock, a wait that is counted from it would be too short.
pub trait Clock: FnOnce() -> SystemTime {}

impl<F: FnOnce() -> SystemTime> Clock for F {}
