//! Standard error, written by a thread from a bounded queue: a reader that does not read, such as
//! that of a full pipe, stops the log and not the program.
//!
//! A line for which there is no room is dropped and counted. The count is logged when there is room
//! again.

use std::{
    io::{self, Write},
    mem,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use tracing::warn;

/// The most bytes in the queue. The thread that writes may hold as many again.
const ROOM: usize = 128 << 10;

/// How long output on standard output waits for the lines that were logged before it.
const ORDER_LIMIT: Duration = Duration::from_secs(1);

/// The pause before a retry when standard error is full and non-blocking, as another process that
/// shares it may have made it.
const RETRY: Duration = Duration::from_millis(10);

static QUEUE: Mutex<Queue> = Mutex::new(Queue {
    threaded: false,
    bytes: Vec::new(),
    accepted: 0,
    written: 0,
    stuck_at: None,
    untold: 0,
});
static CHANGED: Condvar = Condvar::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);

struct Queue {
    /// Whether the thread runs. Until then, callers write to standard error themselves.
    threaded: bool,
    bytes: Vec<u8>,
    /// The number of bytes that were ever queued, and of those that were written or have failed.
    accepted: u64,
    written: u64,
    /// The value of `written` when a wait last timed out.
    stuck_at: Option<u64>,
    /// The number of dropped lines that are not logged yet.
    untold: u64,
}

/// Starts the thread. If that fails, callers go on writing to standard error themselves.
pub fn start() {
    let mut queue = QUEUE.lock();
    if !queue.threaded {
        let thread = thread::Builder::new().name("log".to_owned());
        queue.threaded = thread.spawn(write_all_queued).is_ok();
    }
}

/// Queues one or more whole lines. They are never dropped if they `must` be written.
pub fn write(line: &[u8], must: bool) {
    let mut queue = QUEUE.lock();
    if !queue.threaded {
        drop(queue);
        return write_out(line);
    }
    if !must && queue.bytes.len().saturating_add(line.len()) > ROOM {
        queue.untold += 1;
        DROPPED.fetch_add(1, Ordering::Relaxed);
        return;
    }
    queue.bytes.extend_from_slice(line);
    queue.accepted += line.len() as u64;
    CHANGED.notify_all();
}

/// Waits until what was queued before is written, up to `limit`.
pub fn flush(limit: Duration) {
    let mut queue = QUEUE.lock();
    let (goal, deadline) = (queue.accepted, Instant::now() + limit);
    while queue.written < goal {
        if CHANGED.wait_until(&mut queue, deadline).timed_out() {
            queue.stuck_at = Some(queue.written);
            return;
        }
    }
}

/// Waits until what was queued before is written, for output that follows it on another stream.
/// Does not wait again if the reader has read nothing since the last wait timed out.
pub fn keep_order() {
    let queue = QUEUE.lock();
    let stuck = queue.stuck_at == Some(queue.written);
    drop(queue);
    if !stuck {
        flush(ORDER_LIMIT);
    }
}

/// The number of lines that were dropped.
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// The writer for a subscriber of `tracing`, which writes each line with one call.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        write(line, false);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_all_queued() {
    let mut batch = Vec::new();
    loop {
        let mut queue = QUEUE.lock();
        queue.written += mem::take(&mut batch).len() as u64;
        CHANGED.notify_all();
        while queue.bytes.is_empty() {
            CHANGED.wait(&mut queue);
        }
        mem::swap(&mut batch, &mut queue.bytes);
        let dropped = mem::take(&mut queue.untold);
        drop(queue);
        if dropped > 0 {
            // There is room for this line now. It is queued behind the lines that were accepted
            // before.
            warn!("{dropped} log lines were dropped because the reader of the log was too slow");
        }
        write_out(&batch);
    }
}

/// Waits while the pipe is full. Any other error, such as a closed pipe or a full disk, loses the
/// rest: it must not end the process.
fn write_out(mut rest: &[u8]) {
    while !rest.is_empty() {
        match io::stderr().write(rest) {
            Ok(0) => return,
            Ok(count) => rest = rest.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(RETRY),
            Err(_) => return,
        }
    }
}
