//! `keyutil pki init`: creates three CAs and a leaf certificate for each party.
//!
//! All options are checked first, then everything is created in memory, then the folder is checked
//! for existing files; only then is the first file written.
//!
//! The file written last marks a complete set, and is removed first when everything is replaced. An
//! interrupted run thus leaves a set that is recognised as incomplete, never a mix of old and new
//! files. Concurrent runs wait for each other.

use std::{
    fs, io,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use secrecy::{ExposeSecret, SecretString};

use super::{
    AlternativeName, Authority, AuthorityError, AuthorityKind, AuthorityRequest, Layout,
    LeafRequest, NameError, Party, Validity, ValidityError, pair, rotate,
};
use crate::files::{self, Lock, LockError, Mode, WriteError, folder_hint};
use keyutil::{
    base::chain,
    diagnosis::{Class, Diagnose, Diagnosis, Step},
};

/// The options of [`init`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitOptions {
    /// The folder to write to.
    pub dir: PathBuf,
    /// What happens to existing files.
    pub existing: Existing,
    /// The lifetime of the CAs.
    pub authority_lifetime: Duration,
    /// The lifetime of the internode CA, if it differs from that of the other CAs: its rotation
    /// needs restarts of the servers.
    pub internode_authority_lifetime: Option<Duration>,
    /// The lifetime of all other certificates.
    pub leaf_lifetime: Duration,
    /// DNS names and IP addresses of the frontend, in addition to [`Party::names`].
    pub frontend_names: Vec<String>,
    /// Additional names of the internode certificate.
    pub internode_names: Vec<String>,
}

impl InitOptions {
    /// Ten years.
    pub const AUTHORITY_LIFETIME: Duration = Duration::from_secs(3650 * DAY);
    /// The usual lifetime of certificates of public CAs.
    pub const LEAF_LIFETIME: Duration = Duration::from_secs(90 * DAY);

    /// Creates the default options for this folder.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            existing: Existing::Refuse,
            authority_lifetime: Self::AUTHORITY_LIFETIME,
            internode_authority_lifetime: None,
            leaf_lifetime: Self::LEAF_LIFETIME,
            frontend_names: Vec::new(),
            internode_names: Vec::new(),
        }
    }
}

/// What happens to existing files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Existing files are an error.
    Refuse,
    /// All files are replaced.
    Replace,
    /// A complete set, and a set that is being rotated, is left unchanged and not checked. The
    /// files of an interrupted run are replaced. Any other incomplete set is an error.
    Keep,
}

/// The result of [`init`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Initialized {
    /// The files in the order of writing; empty if an existing set was kept.
    pub files: Vec<Written>,
}

/// A file that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Where it is.
    pub path: PathBuf,
    /// The content, for people.
    pub description: String,
    /// When the certificate expires, if the file is one.
    pub expires_at: Option<SystemTime>,
}

/// Creates all certificates and keys, and writes them.
///
/// # Errors
/// [`PkiError`]. Each variant says whether anything was written.
pub fn init(options: &InitOptions) -> Result<Initialized, PkiError> {
    let checked = CheckedOptions::check(options, SystemTime::now())?;
    let files = checked.make()?;
    let layout = checked.layout;
    // Checked before the lock, because the lock file would be the first file; and again under the
    // lock.
    if keeps_existing(options, &layout, &files)? {
        // The error is ignored: a complete set is kept even on a read-only file system.
        let _ = rotate::mend(&layout);
        return Ok(Initialized { files: Vec::new() });
    }
    let _lock = Lock::wait(&layout.authorities())?;
    if keeps_existing(options, &layout, &files)? {
        return Ok(Initialized { files: Vec::new() });
    }
    let mended = pair::mend(&layout);
    mended.map_err(|(path, source)| PkiError::Inspect { path, source })?;
    // Tells an interrupted run from a damaged set.
    let unfinished = layout.unfinished_init();
    files::replace(&unfinished, b"", Mode::Public)?;
    if let Some(mark) = files.last() {
        // Exists only if everything is replaced.
        remove(mark.written.path.clone())?;
    }
    // A rotation of the old CAs must not continue with the new ones.
    for path in rotation_files(&layout) {
        remove(path)?;
    }
    for file in &files {
        let content = file.content.expose_secret().as_bytes();
        let is_certificate = file.written.expires_at.is_some();
        let mode = match is_certificate {
            true => Mode::Public,
            false => Mode::Private,
        };
        files::replace(&file.written.path, content, mode)?;
    }
    remove(unfinished)?;
    let files = files.into_iter().map(|file| file.written).collect();
    Ok(Initialized { files })
}

/// Returns whether the files exist and are kept. Existing files that must not be overwritten are an
/// error.
fn keeps_existing(
    options: &InitOptions,
    layout: &Layout,
    files: &[NewFile],
) -> Result<bool, PkiError> {
    if options.existing == Existing::Replace {
        return Ok(false);
    }
    let paths: Vec<_> = files.iter().map(|file| file.written.path.clone()).collect();
    let found = find(&paths)?;
    if found.is_empty() {
        return Ok(false);
    }
    let finished = paths.last().is_some_and(|mark| found.contains(mark));
    if options.existing == Existing::Keep && !finished && layout.unfinished_init().exists() {
        return Ok(false);
    }
    // An interrupted rotation is continued by its own command, even if files are missing.
    let enough = found.len() == files.len() || !find(&rotation_files(layout))?.is_empty();
    if options.existing == Existing::Keep && enough {
        return Ok(true);
    }
    Err(PkiError::InTheWay {
        found,
        expected: files.len(),
    })
}

fn rotation_files(layout: &Layout) -> Vec<PathBuf> {
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
        // Not `exists`: a dangling link counts as a file too.
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

fn remove(path: PathBuf) -> Result<(), PkiError> {
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(PkiError::Remove { path, source })
        }
        _ => Ok(()),
    }
}

/// Valid options.
struct CheckedOptions {
    layout: Layout,
    authority_validity: Validity,
    internode_authority_validity: Validity,
    leaf_validity: Validity,
    names: [Vec<AlternativeName>; Party::ALL.len()],
}

/// A file that exists only in memory.
struct NewFile {
    written: Written,
    content: SecretString,
}

impl CheckedOptions {
    fn check(options: &InitOptions, now: SystemTime) -> Result<Self, PkiError> {
        let mut mistakes = Vec::new();
        if options.dir.as_os_str().is_empty() {
            mistakes.push(Mistake::EmptyDirectory);
        }
        let (leaf, authority) = (options.leaf_lifetime, options.authority_lifetime);
        let internode = options.internode_authority_lifetime.unwrap_or(authority);
        let authority_validity = check_lifetime("CA", authority, now, &mut mistakes);
        let internode_validity = match internode == authority {
            true => authority_validity,
            false => check_lifetime("internode CA", internode, now, &mut mistakes),
        };
        let leaf_validity = check_lifetime("leaf", leaf, now, &mut mistakes);
        let authority = authority.min(internode);
        let are_valid = [authority_validity, internode_validity, leaf_validity]
            .iter()
            .all(Option::is_some);
        if are_valid && leaf > authority {
            mistakes.push(Mistake::OutlivesAuthority { leaf, authority });
        }
        let names = Party::ALL.map(|party| {
            let more: &[String] = match party {
                Party::Worker | Party::Starter | Party::Admin | Party::Ui => &[],
                Party::Frontend => &options.frontend_names,
                Party::Internode => &options.internode_names,
            };
            check_names(party, more, &mut mistakes)
        });
        match (authority_validity, internode_validity, leaf_validity) {
            (Some(authority), Some(internode), Some(leaf)) if mistakes.is_empty() => Ok(Self {
                layout: Layout::new(&options.dir),
                authority_validity: authority,
                internode_authority_validity: internode,
                leaf_validity: leaf,
                names,
            }),
            _ => Err(PkiError::Input { mistakes }),
        }
    }

    /// Creates all files, in the order of writing: the CAs last.
    fn make(&self) -> Result<Vec<NewFile>, AuthorityError> {
        let authorities = AuthorityKind::ALL.map(|kind| {
            let name = kind.name();
            let validity = match kind {
                AuthorityKind::Internode => self.internode_authority_validity,
                AuthorityKind::Clients | AuthorityKind::Frontend => self.authority_validity,
            };
            Authority::generate(&AuthorityRequest { name, validity })
        });
        let [clients, frontend, internode] = authorities;
        let (clients, frontend, internode) = (clients?, frontend?, internode?);
        let of = |kind| match kind {
            AuthorityKind::Clients => &clients,
            AuthorityKind::Frontend => &frontend,
            AuthorityKind::Internode => &internode,
        };
        let authority = |path, description, authority: &Authority| {
            let until = authority.summary().not_after;
            NewFile::new(path, description, Some(until), authority.certificate_pem())
        };
        let mut files = Vec::new();
        for (party, names) in Party::ALL.into_iter().zip(&self.names) {
            let name = party.name();
            let leaf = of(party.issued_by()).issue(&LeafRequest {
                common_name: name,
                names,
                purpose: party.purpose(),
                validity: self.leaf_validity,
            })?;
            let paths = self.layout.party(party);
            let trusts = format!("{} CA, which {name} trusts", party.trusts().name());
            let key = format!("private key of {name}");
            let certificate = format!("certificate of {name}");
            let until = Some(self.leaf_validity.not_after());
            files.extend([
                authority(paths.trust, trusts, of(party.trusts())),
                NewFile::new(paths.key, key, None, leaf.key_pem),
                NewFile::new(paths.certificate, certificate, until, leaf.certificate_pem),
            ]);
        }
        for kind in AuthorityKind::ALL {
            let paths = self.layout.authority(kind);
            let certificate = format!("{} CA", kind.name());
            let key = format!("private key of the {certificate}");
            files.push(authority(paths.certificate, certificate, of(kind)));
            files.push(NewFile::new(paths.key, key, None, of(kind).key_pem()));
        }
        Ok(files)
    }
}

impl NewFile {
    fn new(
        path: PathBuf,
        description: String,
        expires_at: Option<SystemTime>,
        content: impl Into<SecretString>,
    ) -> Self {
        Self {
            written: Written {
                path,
                description,
                expires_at,
            },
            content: content.into(),
        }
    }
}

fn check_lifetime(
    owner: &'static str,
    lifetime: Duration,
    now: SystemTime,
    mistakes: &mut Vec<Mistake>,
) -> Option<Validity> {
    let validity = Validity::from_time(now, lifetime);
    validity
        .map_err(|fault| {
            mistakes.push(Mistake::Lifetime {
                owner,
                lifetime,
                fault,
            });
        })
        .ok()
}

/// Parses the names that the party always has, and additional ones, without duplicates.
fn check_names(party: Party, more: &[String], mistakes: &mut Vec<Mistake>) -> Vec<AlternativeName> {
    let mut names = Vec::new();
    let always = party.names().iter().copied();
    for text in always.chain(more.iter().map(String::as_str)) {
        match text.parse() {
            Ok(name) if names.contains(&name) => {}
            Ok(name) => names.push(name),
            Err(fault) => mistakes.push(Mistake::Name {
                owner: party.name(),
                fault,
            }),
        }
    }
    names
}

const DAY: u64 = 24 * 60 * 60;

/// The certificates could not be created or written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what they are")]
pub enum PkiError {
    /// The options are invalid. Nothing was changed.
    #[error("{}", list("invalid arguments", mistakes))]
    Input { mistakes: Vec<Mistake> },
    /// Files exist and must not be replaced. Nothing was changed.
    #[error(
        "{}",
        list(
            &format!("refused to overwrite {} of the {expected} files", found.len()),
            found.iter().map(|path| format!("`{}`", path.display()))
        )
    )]
    InTheWay {
        found: Vec<PathBuf>,
        /// The number of files of a complete set.
        expected: usize,
    },
    /// Existing files could not be checked. Nothing was changed.
    #[error("failed to check for `{}`", path.display())]
    Inspect { path: PathBuf, source: io::Error },
    /// The folder could not be locked. Nothing was changed.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A key or certificate could not be created. Nothing was changed.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// An old file could not be removed: the marker of a complete set, or a file of a rotation.
    /// Nothing else was changed.
    #[error("failed to remove `{}`", path.display())]
    Remove { path: PathBuf, source: io::Error },
    /// A file could not be written. Others may have been written before it.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl PkiError {
    /// Returns whether the arguments are at fault, rather than the machine.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Input { .. } => true,
            Self::Inspect { source, .. } | Self::Lock(LockError { source, .. }) => {
                folder_hint(source).is_some()
            }
            _ => false,
        }
    }

    /// Returns what to do about it, if known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::InTheWay { found, expected } if found.len() < *expected => Some(
                "the set is incomplete, for example after an interrupted run: `--force` replaces all of it",
            ),
            Self::InTheWay { .. } => Some(
                "`--force` replaces all of them; a party that still presents an old certificate is \
                 then refused",
            ),
            Self::Write(_) => Some(
                "the set may be incomplete now: fix the cause, then run the command again with `--force`",
            ),
            Self::Inspect { source, .. } | Self::Lock(LockError { source, .. }) => {
                folder_hint(source)
            }
            _ => None,
        }
    }
}

/// An invalid option, see [`InitOptions`](super::InitOptions).
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what they are")]
pub enum Mistake {
    #[error("the path of the folder is empty")]
    EmptyDirectory,
    #[error("{owner} name {fault}")]
    Name {
        owner: &'static str,
        fault: NameError,
    },
    #[error("{owner} lifetime `{}`: {fault}", days(*lifetime))]
    Lifetime {
        /// `CA`, `internode CA` or `leaf`.
        owner: &'static str,
        lifetime: Duration,
        fault: ValidityError,
    },
    /// A leaf certificate is useless once its CA has expired.
    #[error(
        "leaf lifetime `{}`: longer than the CA lifetime `{}`",
        days(*leaf),
        days(*authority)
    )]
    OutlivesAuthority { leaf: Duration, authority: Duration },
}

pub(super) fn list<T: ToString>(title: &str, items: impl IntoIterator<Item = T>) -> String {
    let lines = items
        .into_iter()
        .map(|item| format!("\n  {}", item.to_string()));
    format!("{title}:{}", lines.collect::<String>())
}

/// Formats whole days as such: humantime writes 90 days as `2months 29days 2h 52m 48s`.
pub(super) fn days(span: Duration) -> String {
    const DAY: u64 = 24 * 60 * 60;
    match span.as_secs() {
        seconds if seconds >= DAY && seconds.is_multiple_of(DAY) => format!("{}d", seconds / DAY),
        _ => humantime::format_duration(span).to_string(),
    }
}

impl Diagnose for PkiError {
    fn diagnosis(&self) -> Diagnosis {
        let (step, class) = match self {
            _ if self.is_usage() => (Step::Configuration, Class::Usage),
            _ => (Step::Files, Class::Other),
        };
        Diagnosis {
            step,
            class,
            cause: chain(self),
            hint: self.hint().map(str::to_owned),
        }
    }
}
