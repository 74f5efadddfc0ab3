//! Where plugins cannot be run.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use autoweave_usb_device::{Device, Event};
use autoweave_usb_journal::Journal;
use tracing::warn;

use crate::config::{Config, Loaded};
use crate::exit::Failure;
use crate::http::Monitor;
use crate::pipeline::Group;

/// Never there.
pub struct Plugins(std::convert::Infallible);

/// Nobody reads.
pub fn group(config: &Config, _: &Journal) -> Result<Option<Group>, Failure> {
    if config.plugins.is_some() {
        warn!("plugins.dir is set, but plugins can only be run on Linux");
    }
    Ok(None)
}

/// Nobody wants to know.
pub fn connected(
    _: &Group,
    _: &Journal,
    _: &Path,
    _: Vec<Device>,
    _: &str,
) -> Result<Vec<Arc<Event>>, Failure> {
    Ok(Vec::new())
}

impl Plugins {
    /// Never called.
    pub fn start(
        _: &Loaded,
        _: &Path,
        _: &Group,
        _: Vec<Arc<Event>>,
        _: &Arc<Monitor>,
    ) -> Result<Self, Failure> {
        Err(Failure::unavailable("plugins can only be run on Linux"))
    }

    /// Never called.
    pub fn begin_to_stop(&self, _: Instant) {
        match self.0 {}
    }

    /// Never called.
    pub fn stop(self) {
        match self.0 {}
    }
}

/// Cannot be.
pub fn run_alone(_: &Loaded, _: &Path) -> Result<(), Failure> {
    Err(Failure::unavailable("plugins can only be run on Linux"))
}
