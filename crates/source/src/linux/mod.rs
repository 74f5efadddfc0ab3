//! Linux: kernel uevents say that something happened, sysfs says what is there.

mod netlink;
mod observer;
mod readers;
mod receiver;
mod ring;
mod sysfs;
pub mod uevent;

pub use netlink::UeventSocket;
pub use observer::spawn;
pub use ring::Ring;
pub use sysfs::{Sysfs, Unread};
