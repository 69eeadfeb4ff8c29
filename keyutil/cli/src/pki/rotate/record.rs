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
    /// A later time that stood in the record when the clock showed less: once it shows this again,
    /// it was wrong at `since`, and the step counts as done at this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    clock_was_at: Option<String>,
    /// Of the new CA, so that an entry cannot pass for that of another rotation.
    serial: String,
}

impl Entry {
    fn since(&self) -> Option<SystemTime> {
        humantime::parse_rfc3339(&self.since).ok()
    }

    fn clock_was_at(&self) -> Option<SystemTime> {
        humantime::parse_rfc3339(self.clock_was_at.as_ref()?).ok()
    }
}

impl Record {
    /// Empty where there is none that can be read: its times then count from now.
    pub(super) fn read(path: &Path) -> Self {
        let text = fs::read(path).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// When this step was done, as far as that can be known at `now`, if that was the last one, with
    /// this new CA.
    pub(super) fn since(
        &self,
        kind: AuthorityKind,
        step: Step,
        serial: &str,
        now: SystemTime,
    ) -> Option<SystemTime> {
        let entry = self.0.get(kind.name())?;
        if entry.step != step || entry.serial != serial {
            return None;
        }
        entry
            .clock_was_at()
            .filter(|at| *at <= now)
            .or_else(|| entry.since())
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
        let before = record.0.get(kind.name());
        let later = before.and_then(|entry| entry.since().max(entry.clock_was_at()));
        // Fractions, too: cut off, they would end the wait before its time.
        let text = |time| humantime::format_rfc3339(time).to_string();
        let entry = Entry {
            step,
            since: text(now),
            clock_was_at: later.filter(|later| *later > now).map(text),
            serial: serial.to_owned(),
        };
        record.0.insert(kind.name().to_owned(), entry);
        record
    }

    pub(super) fn to_json(&self) -> Result<String, serde_json::Error> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}
