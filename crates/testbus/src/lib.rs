//! A virtual USB bus on a real kernel netlink socket, for whole-program tests, benchmarks and demos.
//!
//! [`Bus::enter`] puts the calling thread into a mount and a network namespace of its own, where a tmpfs stands in
//! for `/sys`; [`Bus::plug`] writes what the kernel would write there and lets the *kernel* broadcast the uevents
//! (`uevent_net_rcv_skb` in lib/kobject_uevent.c). A program under test needs no change and cannot tell.
//!
//! Namespaces belong to threads. Enter the bus on the thread that starts the program under test, and start it with
//! plain [`std::process::Command`]: children, and threads started later, inherit the namespaces.
//! The [`Bus`] itself may move to any thread.
//!
//! ```no_run
//! use autoweave_usb_testbus::{Bus, Device};
//! let mut bus = Bus::enter()?;
//! let mut watcher = std::process::Command::new("autoweave-usbd").arg("watch").spawn()?;
//! bus.plug("1-1", &Device::hub())?;
//! bus.plug("1-1.2", &Device::receiver())?;
//! bus.unplug("1-1")?; // the receiver leaves first, then the hub
//! # watcher.kill()?; watcher.wait()?; std::io::Result::Ok(())
//! ```
//!
//! It takes CAP_SYS_ADMIN: root, or any user under `unshare -Ur`. Under `unshare -Ur` the bus is also deaf to the
//! machine's real USB devices; as root of the machine their uevents reach every network namespace.
//! Missing in comparison with a real bus: endpoint and port directories, child devices of drivers (`hidraw0`, `sda`),
//! and device nodes that are more than files (`/dev/bus/usb/001/002` is one with the descriptors, as usbfs shows them).

mod bus;
mod descriptors;
mod device;
mod namespace;
mod netlink;
mod port;
mod sysfs;
mod uevent;

pub use bus::{Bus, Present};
pub use device::{Device, Interface, Speed};
pub use netlink::UEVENT_BYTES_MAX;
pub use sysfs::BlockedAttribute;
pub use uevent::padded;
