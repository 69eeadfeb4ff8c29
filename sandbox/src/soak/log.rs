//! What has been rotated so far, and what went wrong.

use std::sync::{Mutex, PoisonError};

use super::view::View;
use crate::rotations::Rotation;

/// What has been rotated, and what went wrong.
pub(super) struct Log<'a> {
    view: &'a View,
    events: Mutex<Vec<Rotation>>,
    problems: Mutex<Vec<String>>,
}

impl<'a> Log<'a> {
    pub(super) fn new(view: &'a View) -> Self {
        Self {
            view,
            events: Mutex::default(),
            problems: Mutex::default(),
        }
    }

    pub(super) fn note(&self, rotated: anyhow::Result<Rotation>) {
        match rotated {
            Ok(rotation) => {
                self.view.rotated(&rotation);
                let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
                events.push(rotation);
            }
            Err(error) => {
                let problem = keyutil::chain(error.as_ref());
                self.view.failed(&problem);
                let problems = self.problems.lock();
                problems
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(problem);
            }
        }
    }

    pub(super) fn into_parts(self) -> (Vec<Rotation>, Vec<String>) {
        let events = self.events.into_inner();
        let problems = self.problems.into_inner();
        let mut events = events.unwrap_or_else(PoisonError::into_inner);
        events.sort_by_key(|rotation| rotation.at);
        (events, problems.unwrap_or_else(PoisonError::into_inner))
    }
}
