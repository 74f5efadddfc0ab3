//! Linux: kernel uevents say that something happened, sysfs says what is there.

mod devices;
mod landing;
mod log;
mod mapping;
mod namespace;
mod netlink;
mod nodes;
mod observer;
mod observing;
mod readers;
mod receiver;
mod reception;
mod ring;
mod slot;
mod sysfs;
pub mod uevent;

pub use devices::Devices;
pub use namespace::hears_uevents;
pub use observing::{Observing, spawn};
pub use reception::Reception;
pub use sysfs::{Sysfs, Unread, descriptors};
