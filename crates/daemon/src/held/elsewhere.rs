//! Nothing is held.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use autoweave_usb_source::{OpenErrors, Options, Supervisor};

use crate::exit::Failure;

/// Nothing that could outlive a daemon.
pub enum Reception {}

/// Nobody holds anything.
pub enum Held {}

/// There is no uevent socket to be had.
pub fn begin(_: usize) -> Result<Option<(Reception, Held)>, Failure> {
    Ok(None)
}

/// The sources, the first on what is held.
pub fn sources(reception: Reception, _: Options) -> Result<Supervisor, OpenErrors> {
    match reception {}
}

/// Nobody who started this process has anything to say.
pub fn tell(_: Option<&Held>) {}

/// Where the program is.
pub fn executable() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(Failure::unavailable)
}

/// Nothing asks for this here: there is no signal for it.
pub fn exec(_: Option<&Held>, executable: &Path) -> Failure {
    Failure::unavailable(format!("{} cannot take over: only Linux has that", executable.display()))
}

/// Nobody wants to know that the daemon does its job.
pub fn tell_ready() {}

/// Nobody starts the next one.
pub fn end_slowly(failure: Failure, _: Instant) -> Failure {
    failure
}

/// Nobody asks whether the daemon lives.
pub struct Watchdog;

impl Watchdog {
    /// None.
    pub fn from_environment() -> Self {
        Self
    }

    /// It may wait as long as it likes.
    pub fn bound(&self, patience: Duration) -> Duration {
        patience
    }

    /// Nobody is told.
    pub fn tell(&mut self) {}
}
