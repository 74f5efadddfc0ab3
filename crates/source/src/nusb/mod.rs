//! The operating system's own notifications, through the library nusb: `CM_Register_Notification` on Windows, IOKit on
//! macOS, udev's messages on Linux. No device is opened.
//!
//! nusb tells of no loss, and leaves out a device that it cannot read at once; Windows notifies of no hubs. What an edge
//! did not tell, a scan at every interval finds. Descriptor bytes are known on Linux only: elsewhere the system gives
//! them to nobody who does not open the device.

mod observer;
mod place;
mod reading;

use std::collections::BTreeSet;
use std::io;
use std::thread::{self, Thread};

pub use ::nusb::hotplug::HotplugWatch as Watch;
use ::nusb::{DeviceId, MaybeFuture as _};
use autoweave_usb_device::{Port, Reading};

use crate::OpenError;
use crate::started::Started;

/// What is listened to, in words.
pub const DESCRIPTION: &str = if cfg!(windows) {
    "the notifications of Windows, by nusb"
} else if cfg!(target_os = "macos") {
    "the notifications of IOKit, by nusb"
} else {
    "the messages of udev, by nusb"
};

/// A device that was listed; without a reading if it has no place that could be named.
type Listed = (DeviceId, Option<Reading>);

/// Starts to listen. What happens from now on is heard.
///
/// # Errors
/// The system takes no listener.
pub fn listen() -> Result<Watch, OpenError> {
    ::nusb::watch_devices().map_err(|error| OpenError::Nusb(error.into()))
}

/// Starts to tell what is heard.
///
/// # Errors
/// The system has no thread left.
pub fn spawn(started: Started, watch: Watch) -> io::Result<Thread> {
    let name = "usb-observe".to_owned();
    let thread = thread::Builder::new().name(name).spawn(move || observer::run(started, watch))?;
    Ok(thread.thread().clone())
}

/// Every device that is connected now, root hubs on Linux only.
fn list() -> io::Result<Vec<Listed>> {
    let devices = ::nusb::list_devices().wait()?;
    let listed = |info: &::nusb::DeviceInfo| (info.id(), reading::read(info));
    #[cfg(target_os = "linux")]
    let devices = {
        let root_hubs: Vec<_> = ::nusb::list_buses().wait()?.map(|bus| bus.root_hub().clone()).collect();
        root_hubs.into_iter().chain(devices)
    };
    Ok(devices.map(|info| listed(&info)).collect())
}

/// Every device that is connected now, hubs first.
///
/// # Errors
/// The system does not list them.
#[cfg_attr(target_os = "linux", allow(dead_code, reason = "sysfs tells more there"))]
pub fn enumerate() -> io::Result<(Vec<Reading>, BTreeSet<Port>)> {
    let mut readings: Vec<Reading> = list()?.into_iter().filter_map(|(_, reading)| reading).collect();
    readings.sort_by_key(|reading| reading.port);
    Ok((readings, BTreeSet::new()))
}

/// Whether this machine has a USB host controller.
#[cfg_attr(target_os = "linux", allow(dead_code, reason = "sysfs tells more there"))]
pub fn has_usb() -> bool {
    ::nusb::list_buses().wait().is_ok_and(|mut buses| buses.next().is_some())
}

/// There are none that a program could open by a path.
#[cfg(not(target_os = "linux"))]
pub fn nodes(_: Port) -> Vec<String> {
    Vec::new()
}

/// They are given to nobody who does not open the device.
#[cfg(not(target_os = "linux"))]
pub fn descriptors(_: Port, _: u8) -> Option<Vec<u8>> {
    None
}

/// What is polled.
#[cfg(not(target_os = "linux"))]
pub struct Bus;

#[cfg(not(target_os = "linux"))]
impl Bus {
    /// # Errors
    /// None; it can fail on Linux.
    pub fn open(_: &std::sync::Arc<crate::Counters>) -> io::Result<Self> {
        Ok(Self)
    }

    /// See [`enumerate`].
    ///
    /// # Errors
    /// The system does not list them.
    pub fn list(&mut self) -> io::Result<(Vec<Reading>, BTreeSet<Port>)> {
        enumerate()
    }
}
