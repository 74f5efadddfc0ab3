//! Hears USB devices come and go, and tells it as observations, or as finished attaches and detaches.
//!
//! - [`Source`] is one way to hear of devices: kernel uevents, polling, a recording, a simulation.
//! - [`Watch`] joins a source and a device table into batches of changes: what the daemon journals.
//! - [`Events`] is the same as an iterator, for programs that only want to know:
//!
//! ```no_run
//! use autoweave_usb_source::{Events, Options};
//!
//! for edge in Events::open(&Options::default())? {
//!     let edge = edge?;
//!     println!("{} {}", edge.action, edge.device.device_id);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod clock;
mod counters;
mod events;
mod kill_point;
#[cfg(target_os = "linux")]
mod linux;
mod nusb;
mod poll;
mod position;
mod recording;
mod simulate;
mod source;
mod watch;

pub use counters::Counters;
pub use events::Events;
pub use kill_point::kill_point;
#[cfg(target_os = "linux")]
pub use linux::Reception;
#[cfg(target_os = "linux")]
pub use linux::uevent;
pub use poll::{enumerate, has_usb};
pub use position::Position;
pub use recording::{RecordError, Recorder, RecordingError};
pub use simulate::Simulation;
pub use source::{Interrupter, Kind, OpenError, Options, Source, SourceError, Wire};
pub use watch::{Batch, Watch};

#[cfg(target_os = "linux")]
use source::Closed;
use source::Started;
