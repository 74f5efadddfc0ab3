//! Hears USB devices come and go, and tells it as observations, or as finished attaches and detaches.
//!
//! - [`Source`] is one way to hear of devices: kernel uevents, polling, a recording, a simulation.
//! - [`Supervisor`] keeps one source of a chain in use, and changes to another when it fails.
//! - [`Watch`] joins a supervisor and a device table into batches of changes: what the daemon journals.
//! - [`Events`] is the same as an iterator, for programs that only want to know:
//!
//! ```no_run
//! use autoweave_usb_source::{Events, Options};
//!
//! for edge in Events::open(Options::default())? {
//!     let edge = edge?;
//!     println!("{} {}", edge.action, edge.device.device_id);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod clock;
mod counters;
mod error;
mod events;
mod interrupter;
mod kill_point;
#[cfg(feature = "libusb")]
mod libusb;
#[cfg(target_os = "linux")]
mod linux;
mod notice;
mod nusb;
mod options;
mod poll;
mod position;
mod recording;
#[cfg(any(target_os = "linux", feature = "libusb"))]
mod schedule;
mod simulate;
mod source;
mod started;
mod supervisor;
#[cfg(target_os = "linux")]
mod udev;
#[cfg(not(target_os = "linux"))]
#[path = "udev/elsewhere.rs"]
mod udev;
mod watch;
mod wire;

pub use counters::Counters;
pub use error::{OpenError, OpenErrors, RecordingError, SourceError};
pub use events::Events;
pub use interrupter::Interrupter;
pub use kill_point::kill_point;
#[cfg(target_os = "linux")]
pub use linux::Reception;
#[cfg(target_os = "linux")]
pub use linux::uevent;
pub use notice::{
    NOTICE_SOCKET, Notice, NoticeAction, NoticeArgumentError, NoticeArguments, NoticeError, SPOOL_DIRECTORY,
    SPOOL_FILES_MAX, SPOOL_OVERFLOW, SPOOL_OVERFLOW_MAX,
};
pub use options::{Kind, Options};
pub use poll::{descriptors, enumerate, has_usb, nodes};
pub use position::Position;
pub use recording::{RecordError, Recorder};
pub use simulate::Simulation;
pub use source::Source;
pub use supervisor::Supervisor;
pub use udev::{Backlog, Notices};
pub use watch::{Batch, Watch};
pub use wire::{Switch, Wire};
