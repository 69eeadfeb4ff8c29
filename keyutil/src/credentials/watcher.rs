//! One task that looks at credential files, and ends with its owner.

use std::{sync::Arc, time::Duration};

use tokio::{task::JoinHandle, time::MissedTickBehavior};
use tracing::error;

/// How often the files are looked at.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// Something whose files can be looked at.
pub trait Refresh: Send + Sync + 'static {
    /// Looks at the files now, and takes what is new and good.
    fn refresh(&self);
}

/// Looks at files about once a second, until it is dropped.
#[derive(Debug)]
pub struct FileWatcher {
    task: JoinHandle<()>,
}

impl FileWatcher {
    /// Starts looking. Needs a tokio runtime.
    pub fn start(watched: Vec<Box<dyn Refresh>>) -> Self {
        Self::every(INTERVAL, watched)
    }

    fn every(interval: Duration, watched: Vec<Box<dyn Refresh>>) -> Self {
        let watched: Arc<[Box<dyn Refresh>]> = watched.into();
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(interval);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let watched = watched.clone();
                // A file system that hangs must not hang the calls.
                let looked = tokio::task::spawn_blocking(move || {
                    for one in watched.iter() {
                        one.refresh();
                    }
                });
                match looked.await {
                    // The runtime ends, and with it the program.
                    Err(failure) if failure.is_cancelled() => return,
                    Err(failure) => error!(%failure, "looking at the credential files failed"),
                    Ok(()) => {}
                }
            }
        });
        Self { task }
    }
}

impl Drop for FileWatcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    struct Counter(Arc<AtomicU32>);

    impl Refresh for Counter {
        fn refresh(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn looking_goes_on_until_the_owner_lets_go() {
        let looks = Arc::new(AtomicU32::new(0));
        let watched: Vec<Box<dyn Refresh>> = vec![Box::new(Counter(looks.clone()))];
        let watch = FileWatcher::every(Duration::from_millis(1), watched);
        while looks.load(Ordering::Relaxed) < 3 {
            tokio::task::yield_now().await;
        }

        let task = watch.task.abort_handle();
        drop(watch);
        while !task.is_finished() {
            tokio::task::yield_now().await;
        }
    }
}
