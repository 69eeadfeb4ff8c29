//! `keyutil pki rotate`: a new certificate for one party, or a CA in three steps.
//!
//! | step | what it does | why it waits |
//! |---|---|---|
//! | `trust` | a new CA is made; all who check certificates of this CA trust both | |
//! | `reissue` | all certificates of this CA are made anew, under the new one; the old key is gone | who has not seen the new CA yet would refuse them |
//! | `retire` | the new CA alone is trusted | who still presents an old certificate would be refused |
//!
//! `ca/<name>.crt` and `.key` are the CA that issues, `<name>-next.*` is there from `trust` to the
//! end of `reissue`, and `<name>-previous.crt` from then to `retire`. How far a rotation is, these
//! files say; `ca/rotation.json` says since when.
//!
//! A step is worked out in memory, from what is on disk, and then written file by file, in an
//! order in which the process may die between any two: nobody is refused then, exactly one CA
//! issues, and the same command goes on from there.
//!
//! | what | where |
//! |---|---|
//! | what can be asked for | `rotate/options.rs` |
//! | what is told of it | `rotate/outcome.rs` |
//! | what is on disk | `rotate/state.rs` |
//! | the three steps | `rotate/plan.rs` |
//! | one step while it is worked out | `rotate/draft.rs` |
//! | a new certificate and key for one party | `rotate/leaf.rs` |
//! | since when | `rotate/record.rs` |
//! | what can go wrong | `rotate/error.rs` |

mod draft;
mod error;
mod leaf;
mod options;
mod outcome;
mod plan;
mod record;
mod state;

#[cfg(test)]
mod tests;

use std::time::SystemTime;

use super::{AuthorityKind, FileError, Layout, Party};
use crate::files::{Change, Lock};

pub use error::RotateError;
pub use options::{AuthorityOptions, LeafOptions, Step};
pub use outcome::{AuthorityRotated, LeafRotated, NextStep};
use state::{Holder, Stage, State};

/// Makes a new key and certificate for this party, with the names of the one in place.
///
/// # Errors
/// [`RotateError`]. Unless it says otherwise, nothing was changed.
pub fn rotate_leaf(
    layout: &Layout,
    party: Party,
    options: &LeafOptions,
    clock: impl FnOnce() -> SystemTime,
) -> Result<LeafRotated, RotateError> {
    let _lock = lock(layout)?;
    let (change, rotated) = plan_leaf(layout, party, options, clock())?;
    change.apply()?;
    rotated.log();
    Ok(rotated)
}

/// Does one step of the rotation of this CA. A step that is done already is left as it is.
///
/// # Errors
/// [`RotateError`]. Unless it says otherwise, nothing was changed.
pub fn rotate_authority(
    layout: &Layout,
    kind: AuthorityKind,
    step: Step,
    options: &AuthorityOptions,
    clock: impl FnOnce() -> SystemTime,
) -> Result<AuthorityRotated, RotateError> {
    let _lock = lock(layout)?;
    let planned = plan::plan(&State::read(layout, kind)?, step, options, clock())?;
    planned.change.apply()?;
    let rotated = planned.result?;
    rotated.log();
    Ok(rotated)
}

/// How the rotation of this CA goes on.
///
/// # Errors
/// [`RotateError`], when the files of the CA do not tell.
pub fn next_step(
    layout: &Layout,
    kind: AuthorityKind,
    options: &AuthorityOptions,
    now: SystemTime,
) -> Result<NextStep, RotateError> {
    let _lock = lock(layout)?;
    look_at_next_step(layout, kind, options, now)
}

/// The same, without waiting for who is changing it.
pub(super) fn look_at_next_step(
    layout: &Layout,
    kind: AuthorityKind,
    options: &AuthorityOptions,
    now: SystemTime,
) -> Result<NextStep, RotateError> {
    Ok(draft::next(&State::read(layout, kind)?, options, now))
}

fn plan_leaf(
    layout: &Layout,
    party: Party,
    options: &LeafOptions,
    now: SystemTime,
) -> Result<(Change, LeafRotated), RotateError> {
    let path = layout.party_folder(party);
    if !path.is_dir() {
        return Err(RotateError::NoParty { party, path });
    }
    let kind = party.issued_by();
    let holder = Holder::read(layout, party)?;
    let stage = Stage::read(layout, kind)?;
    let (operations, rotated) = leaf::renew(&holder, stage.issuer(), options.lifetime, now)?;
    Ok((Change::new(operations.into()), rotated))
}

/// One lock for all folders, in that of the CAs.
fn lock(layout: &Layout) -> Result<Lock, RotateError> {
    let path = layout.authorities();
    // Waiting for the lock would make it.
    if !path.is_dir() {
        return Err(RotateError::NoAuthorities { path });
    }
    let lock = Lock::wait(&path)?;
    let swept = layout.sweep_parties();
    swept.map_err(|(path, source)| FileError::Read { path, source })?;
    Ok(lock)
}
