//! Signals, and what they ask for.

use std::process;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::Requests;
use crate::exit::Failure;

/// What a daemon is asked by. Only Linux has something to hand on at an upgrade, and so the signal for it.
const ASKED_BY: &[Signal] = if cfg!(target_os = "linux") {
    &[Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR2]
} else {
    &[Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]
};

/// Keeps signals until [`handle`] takes them. To be called before there are other threads: they begin as this one is.
pub fn block() -> Result<(), Failure> {
    asked_by().thread_set_mask().map_err(cannot_be_handled)
}

/// Has what asks a daemon to stop end the process: there is nothing left to finish.
#[cfg(target_os = "linux")]
pub fn release() {
    // It fails only for a mask that is none.
    let _ = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect::<SigSet>().thread_unblock();
}

/// Turns SIGTERM, SIGINT, SIGHUP and SIGUSR2 into requests and calls `wake` after each. A second SIGINT
/// ends the process at once: the journal stands that. After a SIGUSR2 signals are kept until [`Requests::go_on`], or
/// for the program that this process becomes.
pub fn handle(wake: impl Fn() + Send + 'static) -> Result<Arc<Requests>, Failure> {
    let requests = Arc::new(Requests::default());
    let asked = requests.clone();
    let handle = move || {
        // It fails only for a mask that is none.
        while let Ok(signal) = asked_by().wait() {
            match signal {
                Signal::SIGHUP => asked.reload.store(true, Ordering::Relaxed),
                Signal::SIGUSR2 => asked.upgrade.store(true, Ordering::Relaxed),
                Signal::SIGINT if asked.is_stop() => process::exit(130),
                _ => asked.stop(),
            }
            wake();
            while asked.upgrade.load(Ordering::Relaxed) {
                thread::park();
            }
        }
    };
    let thread = thread::Builder::new()
        .name("signals".to_owned())
        .spawn(handle)
        .map_err(|error| Failure::unavailable(format!("a thread cannot be started: {error}")))?;
    // Set once, here.
    let _ = requests.thread.set(thread.thread().clone());
    Ok(requests)
}

fn asked_by() -> SigSet {
    ASKED_BY.iter().copied().collect()
}

fn cannot_be_handled(error: Errno) -> Failure {
    Failure::unavailable(format!("signals cannot be handled: {error}"))
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
