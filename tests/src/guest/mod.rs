//! What tests and measurements in the guest of `cargo xtask guest` are made of: gadgets and QEMU's devices to plug,
//! the kernel's own uevents to compare with, and the programs that listen.
//!
//! Whatever goes wrong here ends the test: everything panics, and says what it was about.
#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "parts of tests, which clippy does not recognise"
)]

mod cycles;
mod gadget;
mod kernel;
mod programs;
mod qmp;
mod stream;

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

pub use cycles::{Pace, cycle};
pub use gadget::{GADGETS_MAX, Gadget};
pub use kernel::{Edge, Kernel};
pub use programs::{Daemon, Redis, Udevd, executable, memory_kib};
pub use qmp::Qmp;
pub use stream::{Entry, changes, compare, story};

/// How long anything may take before it counts as never; everything is emulated.
pub const PATIENCE: Duration = Duration::from_secs(60);

const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Waits until `condition` holds, or panics after [`PATIENCE`].
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited {} s, and never: {what}", PATIENCE.as_secs());
        thread::sleep(LOOK_AGAIN);
    }
}

/// Runs the command of these words, which has to succeed, and returns what it printed.
pub fn run(words: &[&str]) -> String {
    let output = Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{words:?}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {}: {stderr}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Loads modules of the kernel.
pub fn load(modules: &[&str]) {
    for module in modules {
        run(&["/sbin/modprobe", module]);
    }
}
