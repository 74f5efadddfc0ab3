//! Signals, and what they ask for.

use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use autoweave_usb_source::Interrupter;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR2};
use signal_hook::iterator::Signals;

use crate::exit::Failure;

/// What was asked for since it was last looked at.
#[derive(Debug, Default)]
pub struct Requests {
    stop: Mutex<bool>,
    stopped: Condvar,
    reload: AtomicBool,
    upgrade: AtomicBool,
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

    /// Whether to become the program that is on disk now; asked once.
    pub fn take_upgrade(&self) -> bool {
        self.upgrade.swap(false, Ordering::Relaxed)
    }

    fn stop(&self) {
        *self.stop.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stopped.notify_all();
    }
}

/// Turns SIGTERM, SIGINT, SIGHUP and SIGUSR2 into requests and wakes whoever takes from the source. A second SIGINT
/// ends the process at once: the journal stands that.
pub fn handle(interrupter: Interrupter) -> Result<Arc<Requests>, Failure> {
    let requests = Arc::new(Requests::default());
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR2])
        .map_err(|error| Failure::unavailable(format!("signals cannot be handled: {error}")))?;
    // A keeper waits for its signals with them blocked, and a child begins as its parent is. Not before now, or one that
    // came meanwhile would end the process.
    #[cfg(unix)]
    nix::sys::signal::SigSet::all()
        .thread_unblock()
        .map_err(|error| Failure::unavailable(format!("signals cannot be handled: {error}")))?;
    let asked = requests.clone();
    let handle = move || {
        for signal in signals.forever() {
            match signal {
                SIGHUP => asked.reload.store(true, Ordering::Relaxed),
                SIGUSR2 => asked.upgrade.store(true, Ordering::Relaxed),
                SIGINT if asked.is_stop() => process::exit(130),
                _ => asked.stop(),
            }
            interrupter.interrupt();
        }
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(handle)
        .map_err(|error| Failure::unavailable(format!("a thread cannot be started: {error}")))?;
    Ok(requests)
}

/// For commands that have nothing to finish: SIGINT ends them with 130, SIGTERM as well.
pub fn exit_when_interrupted() {
    if let Ok(mut signals) = Signals::new([SIGINT, SIGTERM]) {
        let wait = move || {
            if signals.forever().next().is_some() {
                process::exit(130);
            }
        };
        // Without the thread the signals do what they do by default, which is nearly the same.
        let _ = thread::Builder::new().name("signals".to_owned()).spawn(wait);
    }
}
