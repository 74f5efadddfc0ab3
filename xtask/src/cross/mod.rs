//! `cargo xtask cross-check`: the daemon for the other operating systems, as far as it can be checked from Linux.
//!
//! Type-checks it for each of them, and builds and runs the one for Windows. The standard library of a target that
//! rustup has not installed is built from Debian's sources of it, by Debian's compiler of the same version.

mod toolchain;
mod wine;

use toolchain::Toolchain;

use crate::step::{command, run as run_command};
use crate::tools::or_skip;

/// Type-checked only. Nothing is linked, so C is not even compiled.
const CHECKED: [&str; 2] = ["aarch64-unknown-linux-gnu", "aarch64-apple-darwin"];

const WINDOWS: &str = "x86_64-pc-windows-gnu";

/// Checks every operating system. What cannot be had here is skipped, which is said; under `CI=true` it is an error.
///
/// # Errors
/// The first check that fails.
pub fn run() -> Result<(), String> {
    run_command(command(&["cargo", "check", "--workspace", "--all-targets"]))?;
    let toolchain = match Toolchain::install() {
        Ok(toolchain) => toolchain,
        Err(error) => return or_skip("everything but this system", Err(error)),
    };
    for target in CHECKED {
        run_command(toolchain.cargo("check", target))?;
    }
    run_command(toolchain.cargo("build", WINDOWS))?;
    match wine::Wine::install(&toolchain) {
        Ok(wine) => wine.test(&toolchain.binary(WINDOWS, "autoweave-usbd.exe")),
        Err(error) => or_skip("running it under Wine", Err(error)),
    }
}
