//! `cargo xtask guest -- COMMAND`: runs a command in a QEMU guest, on Debian's kernel and with USB controllers of its own.
//!
//! The guest's root is this machine's, over 9p, under an overlay in the guest's memory: it has every program that is
//! installed here, and what it writes is gone when it ends. QEMU emulates the processor: hardware virtualisation is
//! not to be had in most places where tests run.

mod machine;
mod packages;
mod runner;
mod session;

use std::path::PathBuf;
use std::process;
use std::time::Duration;

use clap::Args;

use crate::step::{need, need_bare};

pub use machine::Guest;
pub use runner::Runner;

/// Of `cargo xtask guest`.
#[derive(Args)]
pub struct Arguments {
    /// Ends the guest after this many seconds, with status 124
    #[arg(long, default_value_t = 600)]
    timeout: u64,
    /// An image that the guest has as /dev/vda; what is written there stays
    #[arg(long)]
    disk: Option<PathBuf>,
    /// The command and its arguments; its environment is the guest's
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Runs the command. Its standard output and error go where ours go; we end with its exit status, with 124 when it
/// took too long, with 125 when the guest ended without a status.
///
/// # Errors
/// What is missing here, or QEMU does not start.
pub fn run(arguments: &Arguments) -> Result<(), String> {
    let guest = Guest { timeout: Duration::from_secs(arguments.timeout), disk: arguments.disk.clone() };
    install()?;
    match guest.run(&arguments.command)? {
        0 => Ok(()),
        status => process::exit(status),
    }
}

/// Installs what is missing to run a guest.
///
/// # Errors
/// What cannot be installed from here.
pub fn install() -> Result<(), String> {
    if cfg!(not(target_arch = "x86_64")) {
        return Err(
            "the guest has this machine's files, and an x86-64 kernel: it takes an x86-64 machine".to_owned()
        );
    }
    // It recommends a desktop's libraries.
    need_bare("qemu-system-x86_64", "qemu-system-x86")?;
    need(packages::DEPMOD, "kmod")?;
    need("cpio", "cpio")?;
    need("xz", "xz-utils")?;
    packages::Unpacked::find().map(drop)
}
