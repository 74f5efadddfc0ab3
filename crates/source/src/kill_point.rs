//! Places at which a test has the process killed, to see what its successor makes of it.
//!
//! In a normal build there is nothing of them. With the feature `kill-points`,
//! `AUTOWEAVE_USBD_KILL_AT=NAME:COUNT:FILE` kills the process when it passes `NAME` for the `COUNT`th time, unless
//! `FILE` exists; it is made then, so that the successor passes.

/// The process passes `name`.
#[cfg(not(feature = "kill-points"))]
#[inline(always)]
pub fn kill_point(_name: &str) {}

/// The process passes `name`.
#[cfg(feature = "kill-points")]
pub fn kill_point(name: &str) {
    use std::sync::atomic::{AtomicU64, Ordering};

    static PASSED: AtomicU64 = AtomicU64::new(0);
    let Ok(order) = std::env::var("AUTOWEAVE_USBD_KILL_AT") else { return };
    let mut words = order.splitn(3, ':');
    let (Some(at), Some(count), Some(file)) = (words.next(), words.next(), words.next()) else { return };
    if at != name || PASSED.fetch_add(1, Ordering::SeqCst) + 1 != count.parse().unwrap_or(1) {
        return;
    }
    if std::fs::File::create_new(file).is_ok() {
        die();
    }
}

#[cfg(all(feature = "kill-points", unix))]
fn die() {
    // It does not return.
    let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
}

#[cfg(all(feature = "kill-points", not(unix)))]
fn die() {
    std::process::abort();
}
