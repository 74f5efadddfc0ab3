//! The words everyone speaks: where a device is plugged ([`Port`]), what was read of it ([`Reading`]),
//! what it is ([`Device`]), what was seen happening ([`Observation`]), what that changes ([`DeviceTable`])
//! and how the outside reads it ([`Event`]).
//!
//! Nothing here does I/O or looks at a clock: bytes, times and values come in, values go out. That is what
//! lets the whole decision of "which events does the world get to see" be tested by replaying recordings and
//! by property tests.

mod descriptor;
mod device;
mod event;
mod filter;
mod hex;
mod observation;
mod port;
mod reading;
mod selector;
mod table;
mod traceparent;

pub use descriptor::{
    AlternateSetting, Configuration, Descriptors, DeviceDescriptor, Endpoint, Fault, InterfaceAssociation,
};
pub use device::{Device, Interface, RawStrings, Speed};
pub use event::{Action, Event, Reason, SourceName};
pub use filter::{Filters, Rule};
pub use hex::HexBytes;
pub use observation::{Moment, Observation, Observed};
pub use port::{ParsePortError, Port, PortPath};
pub use reading::{InterfaceReading, Reading};
pub use selector::Selector;
pub use table::{Change, DeviceTable, Edge, Policy, Tallies};
pub use traceparent::Traceparent;
