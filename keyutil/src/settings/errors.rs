//! Every mistake, gathered.

use std::fmt;

use super::Names;
use crate::diagnosis::{Class, Diagnose, Diagnosis, Step};

/// Every mistake in the arguments and in the files that they name.
#[derive(Debug)]
pub struct SettingsErrors {
    names: Names,
    all: Vec<Diagnosis>,
}

impl SettingsErrors {
    /// None so far. Messages name settings in this way.
    pub fn naming(names: Names) -> Self {
        Self {
            names,
            all: Vec::new(),
        }
    }

    fn push(&mut self, diagnosis: Diagnosis) {
        self.all.push(self.names.diagnosis(diagnosis));
    }

    /// Adds one of flags and variables.
    pub fn add(&mut self, problem: impl Into<String>) {
        self.push(Diagnosis {
            step: Step::Configuration,
            class: Class::Usage,
            cause: problem.into(),
            hint: None,
        });
    }

    /// Keeps the value, or adds the problem.
    pub fn note<T>(&mut self, result: Result<T, String>) -> Option<T> {
        result.map_err(|problem| self.add(problem)).ok()
    }

    /// Keeps the value, or adds what the error means.
    pub fn note_error<T>(&mut self, result: Result<T, impl Diagnose>) -> Option<T> {
        let noted = result.map_err(|error| self.push(error.diagnosis()));
        noted.ok()
    }

    /// Each of them.
    pub fn all(&self) -> &[Diagnosis] {
        &self.all
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

impl fmt::Display for SettingsErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.all[..] {
            [one] => f.write_str(&one.cause),
            all => {
                write!(f, "there are {} mistakes in the settings", all.len())?;
                for problem in all {
                    write!(f, "\n  - {}", problem.cause)?;
                    if let Some(hint) = &problem.hint {
                        write!(f, "\n    hint: {hint}")?;
                    }
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for SettingsErrors {}

impl Diagnose for SettingsErrors {
    /// All of them as one: of the class of the first that is not a mere slip in the arguments,
    /// unless there is such a slip.
    fn diagnosis(&self) -> Diagnosis {
        let first = self
            .all
            .iter()
            .find(|problem| problem.class == Class::Usage)
            .or(self.all.first());
        Diagnosis {
            step: first.map_or(Step::Configuration, |first| first.step),
            class: first.map_or(Class::Usage, |first| first.class),
            cause: self.to_string(),
            hint: match &self.all[..] {
                [one] => one.hint.clone(),
                // Each stands below its mistake.
                _ => None,
            },
        }
    }
}
