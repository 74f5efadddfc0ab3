//! `cargo xtask bench`: builds the daemon and what measures it, and runs that.

use std::path::Path;
use std::time::Duration;

use clap::Args;

use crate::guest::{self, Guest};
use crate::step::{command, need, need_bare, release_binary, run as run_command};
use crate::tools::{self, text};

const GUEST_SECONDS: u64 = 3600;

/// Of `cargo xtask bench`.
#[derive(Args)]
pub struct Arguments {
    /// Which measurements: latency, flood, idle, start, redis-latency, redis-flood, redis-catch-up, plugins, telemetry, overrun; all where none is named
    measurements: Vec<String>,
    /// Instead, on the guest's real kernel, beside a daemon in Node, udevadm monitor and libusb
    #[arg(long, conflicts_with = "measurements")]
    guest: bool,
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
    if arguments.guest {
        return in_guest(&daemon);
    }
    let mut measure = command(&[bench.to_str().ok_or("the target directory's name is not UTF-8")?]);
    measure.args(&arguments.measurements).env("AUTOWEAVE_USBD", daemon);
    run_command(measure)
}

fn in_guest(daemon: &Path) -> Result<(), String> {
    guest::install()?;
    need_bare("udevadm", "udev")?;
    need("redis-server", "redis-server")?;
    let words = [
        "env".to_owned(),
        format!("AUTOWEAVE_USBD={}", text(daemon)?),
        format!("AUTOWEAVE_NODE={}", text(&tools::node()?)?),
        text(&release_binary("guest_bench")?)?.to_owned(),
    ];
    match (Guest { timeout: Duration::from_secs(GUEST_SECONDS), disk: None }).run(&words)? {
        0 => Ok(()),
        status => Err(format!("the measurement ended with {status}")),
    }
}
