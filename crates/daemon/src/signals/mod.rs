//! What the system asks of the process: signals, or the events of a console.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::Duration;

#[cfg(target_os = "linux")]
pub use unix::release;
#[cfg(unix)]
pub use unix::{block, exit_when_interrupted, handle};
#[cfg(windows)]
pub use windows::{block, exit_when_interrupted, handle};

/// What was asked for since it was last looked at.
#[derive(Debug, Default)]
pub struct Requests {
    stop: Mutex<bool>,
    stopped: Condvar,
    reload: AtomicBool,
    upgrade: AtomicBool,
    /// Who takes signals.
    thread: OnceLock<Thread>,
}

impl Requests {
    /// Whether to stop.
    pub fn is_stop(&self) -> bool {
        *self.stop.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits, but not longer than until a stop is asked for. True if it is.
    pub fn wait_for_stop(&self, timeout: Duration) -> bool {
        let stop = self.stop.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.stopped.wait_timeout_while(stop, timeout, |stop| !*stop);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Whether to load the configuration again; asked once.
    pub fn take_reload(&self) -> bool {
        self.reload.swap(false, Ordering::Relaxed)
    }

    /// Whether to become the program that is on disk now. Signals are kept from then on.
    pub fn is_upgrade(&self) -> bool {
        self.upgrade.load(Ordering::Relaxed)
    }

    /// There was nothing to become: signals are taken again.
    pub fn go_on(&self) {
        self.upgrade.store(false, Ordering::Relaxed);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    fn stop(&self) {
        *self.stop.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stopped.notify_all();
    }
}
