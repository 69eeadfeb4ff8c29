//! Every mistake, gathered.

use std::fmt;

use crate::chain;

/// Every mistake in the arguments and in the files that they name.
#[derive(Debug, Default)]
pub struct Problems {
    all: Vec<String>,
}

impl Problems {
    /// Adds one.
    pub fn add(&mut self, problem: impl Into<String>) {
        self.all.push(problem.into());
    }

    /// Keeps the value, or adds the problem.
    pub fn note<T>(&mut self, result: Result<T, String>) -> Option<T> {
        result.map_err(|problem| self.add(problem)).ok()
    }

    /// Keeps the value, or adds the error with its causes.
    pub fn note_error<T, E: std::error::Error + 'static>(
        &mut self,
        result: Result<T, E>,
    ) -> Option<T> {
        self.note(result.map_err(|error| chain(&error)))
    }

    /// Whether there are none.
    ///
    /// # Errors
    /// Itself, if there is one.
    pub fn into_result(self) -> Result<(), Self> {
        if self.all.is_empty() {
            Ok(())
        } else {
            Err(self)
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.all[..] {
            [one] => f.write_str(one),
            all => {
                write!(f, "there are {} mistakes in the settings", all.len())?;
                all.iter()
                    .try_for_each(|problem| write!(f, "\n  - {problem}"))
            }
        }
    }
}

impl std::error::Error for Problems {}
