//! `keyutil pki init`: three CAs and a leaf for each party, all new.
//!
//! In this order: everything that was asked for is checked, then everything is made in memory, then
//! nothing is found in the way, and only then the first file is written. The last file written
//! marks a finished run; when everything is replaced, it is the first to go. So an interrupted run
//! leaves a set that is seen to be incomplete, never old files that pass for new ones. Two runs at
//! once wait for each other.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use secrecy::ExposeSecret;

use super::{
    AuthorityKind, Layout, PkiError,
    plan::{NewFile, Plan},
};
use crate::files::{self, Lock, Mode};

/// What [`init`] is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitOptions {
    /// The folder to write to.
    pub dir: PathBuf,
    /// What becomes of files that are there already.
    pub existing: Existing,
    /// How long the CAs are valid.
    pub authority_lifetime: Duration,
    /// How long everything else is valid.
    pub leaf_lifetime: Duration,
    /// DNS names and IP addresses of the frontend, beside [`Party::names`](super::Party::names).
    pub frontend_names: Vec<String>,
    /// The same for the internode certificate.
    pub internode_names: Vec<String>,
}

impl InitOptions {
    /// Ten years.
    pub const AUTHORITY_LIFETIME: Duration = Duration::from_secs(3650 * DAY);
    /// As long as people are used to from public CAs.
    pub const LEAF_LIFETIME: Duration = Duration::from_secs(90 * DAY);

    /// The defaults, in this folder.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            existing: Existing::Refuse,
            authority_lifetime: Self::AUTHORITY_LIFETIME,
            leaf_lifetime: Self::LEAF_LIFETIME,
            frontend_names: Vec::new(),
            internode_names: Vec::new(),
        }
    }
}

/// What becomes of files that are there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// They are an error.
    Refuse,
    /// All of them are replaced.
    Replace,
    /// A whole set, and one that is being rotated, is left as it is, without a look into the files.
    /// What an interrupted run has left is replaced. Any other part of a set is an error.
    Keep,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Initialized {
    /// In the order of writing; nothing, where all of it was there and was to be kept.
    pub files: Vec<Written>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Where it is.
    pub path: PathBuf,
    /// What it is, for a person.
    pub description: String,
    /// The end of its life, if it is a certificate.
    pub expires_at: Option<SystemTime>,
}

/// Makes all certificates and keys, and writes them.
///
/// # Errors
/// [`PkiError`]. Whether something was written by then is said for each of its variants.
pub fn init(options: &InitOptions) -> Result<Initialized, PkiError> {
    let plan = Plan::check(options, SystemTime::now())?;
    let files = plan.make()?;
    let layout = Layout::new(&options.dir);
    // Before the lock, whose file would be the first to be made; and again once nobody else runs.
    if look(options, &layout, &files)? == Found::Enough {
        return Ok(Initialized { files: Vec::new() });
    }
    let _lock = Lock::wait(&layout.authorities())?;
    if look(options, &layout, &files)? == Found::Enough {
        return Ok(Initialized { files: Vec::new() });
    }
    let swept = layout.sweep_parties();
    swept.map_err(|(path, source)| PkiError::Inspect { path, source })?;
    // So that a run that is interrupted can be told from a set that somebody has damaged.
    let unfinished = layout.unfinished_init();
    files::replace(&unfinished, b"", Mode::Public)?;
    if let Some(mark) = files.last() {
        // Unless everything is replaced, it is not there.
        remove(&mark.written.path)?;
    }
    // A rotation of CAs that are no more would go on where it was.
    for path in of_a_rotation(&layout) {
        remove(&path)?;
    }
    for file in &files {
        let content = file.content.expose_secret().as_bytes();
        files::replace(&file.written.path, content, file.mode)?;
    }
    remove(&unfinished)?;
    let files = files.into_iter().map(|file| file.written).collect();
    Ok(Initialized { files })
}

#[derive(PartialEq, Eq)]
enum Found {
    /// Nothing that may not be written over.
    Nothing,
    /// What was asked for.
    Enough,
}

fn look(options: &InitOptions, layout: &Layout, files: &[NewFile]) -> Result<Found, PkiError> {
    if options.existing == Existing::Replace {
        return Ok(Found::Nothing);
    }
    let paths: Vec<_> = files.iter().map(|file| file.written.path.clone()).collect();
    let found = find(&paths)?;
    if found.is_empty() {
        return Ok(Found::Nothing);
    }
    let finished = paths.last().is_some_and(|mark| found.contains(mark));
    if options.existing == Existing::Keep && !finished && layout.unfinished_init().exists() {
        return Ok(Found::Nothing);
    }
    // A rotation that was interrupted goes on by its own command, whatever is missing meanwhile.
    let enough = found.len() == files.len() || !find(&of_a_rotation(layout))?.is_empty();
    if options.existing == Existing::Keep && enough {
        return Ok(Found::Enough);
    }
    Err(PkiError::InTheWay {
        found,
        expected: files.len(),
    })
}

fn of_a_rotation(layout: &Layout) -> Vec<PathBuf> {
    let mut paths = vec![layout.rotation_record()];
    for kind in AuthorityKind::ALL {
        let next = layout.next_authority(kind);
        paths.extend([next.certificate, next.key, layout.previous_authority(kind)]);
    }
    paths
}

fn find(paths: &[PathBuf]) -> Result<Vec<PathBuf>, PkiError> {
    let mut found = Vec::new();
    for path in paths {
        // Not `exists`: a dangling link is in the way, too.
        match fs::symlink_metadata(path) {
            Ok(_) => found.push(path.clone()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => {
                let path = path.clone();
                return Err(PkiError::Inspect { path, source });
            }
        }
    }
    Ok(found)
}

fn remove(path: &Path) -> Result<(), PkiError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(PkiError::Remove {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

const DAY: u64 = 24 * 60 * 60;
