//! `cargo xtask bench`: builds the daemon and what measures it, and runs that.

use clap::Args;

use crate::step::{command, release_binary, run as run_command};

/// Of `cargo xtask bench`.
#[derive(Args)]
pub struct Arguments {
    /// Which measurements: latency, flood, idle, start, redis-latency, redis-flood, redis-catch-up, plugins, overrun; all where none is named
    measurements: Vec<String>,
}

/// Measures on an otherwise quiet machine, as root or under `unshare --user --map-root-user`.
///
/// # Errors
/// It cannot be built, or a measurement failed.
pub fn run(arguments: &Arguments) -> Result<(), String> {
    let (daemon, bench) = (release_binary("autoweave-usbd")?, release_binary("bench")?);
    run_command(command(&[
        "cargo",
        "build",
        "--release",
        "-p",
        "autoweave-usbd",
        "-p",
        "autoweave-usb-tests",
        "--bins",
    ]))?;
    let mut measure = command(&[bench.to_str().ok_or("the target directory's name is not UTF-8")?]);
    measure.args(&arguments.measurements).env("AUTOWEAVE_USBD", daemon);
    run_command(measure)
}
