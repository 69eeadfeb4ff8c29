//! Signals for the processes that a sandbox started.

use std::io;

use rustix::process::{Pid, kill_process, kill_process_group};

pub use rustix::process::Signal;

/// Sends `signal` to a process.
///
/// Only for a child that has not been waited for yet: after that its id may be anybody's.
pub fn send(id: u32, signal: Signal) -> io::Result<()> {
    Ok(kill_process(pid(id)?, signal)?)
}

/// Sends `signal` to every process of the group that `leader` leads.
///
/// Only for a leader that has not been waited for yet, as with [`send`].
pub fn send_to_group(leader: u32, signal: Signal) -> io::Result<()> {
    Ok(kill_process_group(pid(leader)?, signal)?)
}

fn pid(id: u32) -> io::Result<Pid> {
    i32::try_from(id)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::ErrorKind::InvalidInput.into())
}
