//! What happened to the last connection.

use std::sync::{Mutex, PoisonError};

use super::DialError;

/// What happened to the last connection. The HTTP/2 layer between us and the caller keeps the text
/// of an error and loses its type, so the one who explains it looks here.
#[derive(Debug, Default)]
pub struct Journal {
    last_failure: Mutex<Option<DialError>>,
}

impl Journal {
    /// Why the last connection failed; `None` once the server has answered on one.
    pub fn last_failure(&self) -> Option<DialError> {
        self.slot().clone()
    }

    pub(in crate::transport) fn failed(&self, error: DialError) {
        *self.slot() = Some(error);
    }

    pub(in crate::transport) fn answered(&self) {
        let mut slot = self.slot();
        if slot.is_some() {
            *slot = None;
        }
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<DialError>> {
        self.last_failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
