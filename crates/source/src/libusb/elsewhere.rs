//! What is on the bus, as libusb knows it: all but the strings, for which a device has to be opened.

use std::collections::BTreeSet;
use std::io;

use autoweave_usb_device::{Port, Reading};
use rusb::{Context, UsbContext};

use super::heard::{self, Place};

/// libusb's own list.
pub struct Bus {
    context: Context,
}

impl Bus {
    /// # Errors
    /// Never; it can fail on Linux.
    pub fn open(context: &Context) -> io::Result<Self> {
        Ok(Self { context: context.clone() })
    }

    /// There is no more to read.
    pub fn read(&mut self, bare: Box<Reading>) -> Box<Reading> {
        bare
    }

    /// libusb knows all there is to know.
    pub fn find(&mut self, _: Place) -> Option<Box<Reading>> {
        None
    }

    /// None is late.
    pub fn late(&mut self) -> Vec<Reading> {
        Vec::new()
    }

    /// Every device that libusb can place, hubs first. It can read each.
    ///
    /// # Errors
    /// libusb cannot list the bus.
    pub fn list(&mut self) -> io::Result<(Vec<Reading>, BTreeSet<Port>)> {
        let devices = self.context.devices().map_err(io::Error::other)?;
        let mut readings: Vec<_> = devices.iter().filter_map(|device| heard::reading(&device)).collect();
        readings.sort_by_key(|reading| reading.port);
        Ok((readings, BTreeSet::new()))
    }
}
