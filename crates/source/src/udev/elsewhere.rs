//! udev is Linux's: there are no notices elsewhere.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use autoweave_usb_device::{Action, Observed, Port};

use crate::Counters;

/// There are none.
#[derive(Debug)]
pub enum Notices {}

/// There is none.
#[derive(Debug)]
pub struct Backlog {
    /// What was seen meanwhile.
    pub observed: Vec<Observed>,
    /// How many notices a full spool refused.
    pub refused: u64,
}

impl Notices {
    /// # Errors
    /// Always.
    pub fn open(_: &Path, _: &Path, _: Arc<Counters>) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// See the one for Linux.
    pub fn backlog(&self, _: u64, _: HashSet<(Port, u8, Action)>) -> Backlog {
        match *self {}
    }

    /// See the one for Linux.
    ///
    /// # Errors
    /// None.
    pub fn begin(&self, _: Backlog) -> io::Result<()> {
        match *self {}
    }

    /// See the one for Linux.
    pub fn close(&self) {
        match *self {}
    }
}

impl Backlog {
    /// See the one for Linux.
    pub fn problem(&self) -> Option<&io::Error> {
        None
    }
}
