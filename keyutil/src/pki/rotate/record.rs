//! `rotation.json`: when each step was done. Nothing but times is taken from it: what is trusted
//! and what is issued, the certificates themselves say.

use std::{collections::BTreeMap, fs, path::Path, time::SystemTime};

use serde::{Deserialize, Serialize};

use super::Step;
use crate::pki::AuthorityKind;

/// The last step of each CA, by its name.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(transparent)]
pub(super) struct Record(BTreeMap<String, Entry>);

#[derive(Clone, Debug, Deserialize, Serialize)]
struct Entry {
    step: Step,
    /// RFC 3339, UTC.
    since: String,
    /// Of the new CA, so that an entry cannot pass for that of another rotation.
    serial: String,
}

impl Record {
    /// Empty where there is none that can be read: its times then count from now.
    pub(super) fn read(path: &Path) -> Self {
        let text = fs::read(path).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// When this step was done, if that was the last one, with this new CA.
    pub(super) fn since(
        &self,
        kind: AuthorityKind,
        step: Step,
        serial: &str,
    ) -> Option<SystemTime> {
        let entry = self.0.get(kind.name())?;
        if entry.step != step || entry.serial != serial {
            return None;
        }
        humantime::parse_rfc3339(&entry.since).ok()
    }

    /// The same record, except that this step was done now.
    pub(super) fn with(
        &self,
        kind: AuthorityKind,
        step: Step,
        serial: &str,
        now: SystemTime,
    ) -> Self {
        let mut record = self.clone();
        let entry = Entry {
            step,
            // Fractions, too: cut off, they would end the wait before its time.
            since: humantime::format_rfc3339(now).to_string(),
            serial: serial.to_owned(),
        };
        record.0.insert(kind.name().to_owned(), entry);
        record
    }

    pub(super) fn to_json(&self) -> Result<String, serde_json::Error> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}
