//! The limit of open file descriptors of this process.

use std::io;

/// Raises the soft limit to the hard one, as Go's runtime does.
///
/// The soft limit is 1024 on most systems, for the sake of programs that call `select`. A process
/// whose limit cannot be raised works with the one that it has.
#[cfg(unix)]
pub fn raise_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    let _ = setrlimit(Resource::Nofile, raised);
}

/// Returns the soft limit: how many descriptors the process may have open.
#[cfg(unix)]
#[must_use]
pub fn limit() -> u64 {
    use rustix::process::{Resource, getrlimit};
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

#[cfg(not(unix))]
pub fn raise_limit() {}

#[cfg(not(unix))]
#[must_use]
pub fn limit() -> u64 {
    u64::MAX
}

/// Returns what is exhausted and what to do, if the error is that no descriptor was left.
#[must_use]
pub fn exhausted(error: &io::Error) -> Option<String> {
    // The numbers are those of all Unix systems; the standard library has no kind for them.
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    match error.raw_os_error()? {
        EMFILE if cfg!(unix) => Some(format!(
            "all {} file descriptors of this process are in use: raise the limit with `ulimit -n`, \
             `LimitNOFILE=` of systemd or `ulimits` of the container",
            limit()
        )),
        ENFILE if cfg!(unix) => Some(
            "all file descriptors of this machine are in use: end what uses them, or raise \
             `fs.file-max`"
                .to_owned(),
        ),
        _ => None,
    }
}
