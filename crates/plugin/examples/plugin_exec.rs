//! What a daemon runs to start a worker: the crate's tests use it in the daemon's place.

use std::process::ExitCode;

fn main() -> ExitCode {
    let spec = std::env::args_os().nth(1).unwrap_or_default();
    let Err(fault) = autoweave_usb_plugin::sandbox::exec(&spec);
    eprintln!("{fault}");
    ExitCode::from(126)
}
