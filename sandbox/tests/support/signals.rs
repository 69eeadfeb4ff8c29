//! Signals that this process ignores.

use sandbox::guard::Signal;

/// Whether this process ignores the signal, as one that a shell runs in the background does. Programs
/// inherit that, and until they have asked for the signal they are not ended by it. Where there is no
/// `/proc`, it is not known.
pub fn is_ignored(signal: Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask >> (signal.as_raw() - 1) & 1 == 1)
}
