//! Why sources cannot be opened, or cannot go on.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;
use std::{fmt, io};

use autoweave_usb_device::SourceName;
use thiserror::Error;

/// Why a source cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The uevent socket, or a thread, cannot be had.
    #[error("kernel uevents cannot be received: {0}")]
    Uevent(io::Error),
    /// Helpers do not reach this process.
    #[error("nobody serves the udev helper's socket (fallback.enable_udev; only `run` does)")]
    NoNotices,
    /// This operating system has no such source.
    #[error("there is no {0} source on this operating system")]
    Unavailable(SourceName),
    /// libusb cannot be used here.
    #[error("libusb does not start: {0}")]
    Libusb(io::Error),
    /// The source needs a cargo feature that is off.
    #[error("this program was built without the source {0}")]
    NotBuilt(SourceName),
    /// The operating system takes no listener.
    #[error("the operating system's notifications cannot be had: {0}")]
    Nusb(io::Error),
    /// No more threads can be had.
    #[error("a thread cannot be started: {0}")]
    Thread(io::Error),
    /// The recording cannot be read.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// It failed before its first scan.
    #[error(transparent)]
    Source(#[from] SourceError),
}

/// Why none of a chain's sources can be opened, in its order.
#[derive(Debug)]
pub struct OpenErrors(pub Vec<OpenError>);

/// Why a source cannot go on.
#[derive(Debug, Error)]
pub enum SourceError {
    /// The uevent socket broke.
    #[error("the uevent socket failed: {0}")]
    Receive(io::Error),
    /// libusb broke.
    #[error("libusb failed: {0}")]
    Libusb(io::Error),
    /// The udev helper does not reach the daemon any more.
    #[error("the udev helper's socket failed: {0}")]
    Notices(io::Error),
    /// Scans found what it should have told.
    #[error("it does not hear what scans find")]
    Deaf,
    /// It does not even scan any longer.
    #[error("nothing has come from it for {} ms", .0.as_millis())]
    Silent(Duration),
    /// Its thread has ended.
    #[error("it has ended")]
    Ended,
    /// The recording is damaged from here on.
    #[error(transparent)]
    Recording(#[from] RecordingError),
}

/// Why a recording cannot be read.
#[derive(Debug, Error)]
#[error("the recording {}{}: {problem}", path.display(), line_number(*line))]
pub struct RecordingError {
    pub(crate) path: PathBuf,
    /// From 1; 0 when it is about the file.
    pub(crate) line: u64,
    pub(crate) problem: String,
}

fn line_number(line: u64) -> String {
    if line == 0 { String::new() } else { format!(", line {line}") }
}

impl From<OpenError> for OpenErrors {
    fn from(error: OpenError) -> Self {
        Self(vec![error])
    }
}

impl fmt::Display for OpenErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&each.join("\n"))
    }
}

impl Error for OpenErrors {}
