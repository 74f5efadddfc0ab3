//! The node of a USB device, for as long as it is that device's.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use autoweave_usb_device::{Device, HexBytes, Reading};

/// A text attribute is at most a page (`sysfs_emit`, `include/linux/sysfs.h`).
const ATTRIBUTE_BYTES_MAX: u64 = 4096;

/// The node that `device` has in usbfs (`drivers/usb/core/usb.c`, `usb_devnode`) if it is still connected as it was
/// then: an address is another device's once it was unplugged. `sysfs` is where that is mounted.
pub(crate) fn of(device: &Device, sysfs: &Path) -> Option<PathBuf> {
    let port = device.port();
    let directory = sysfs.join("bus/usb/devices").join(port.to_string());
    let attribute = |name: &str| {
        let mut bytes = Vec::new();
        File::open(directory.join(name)).ok()?.take(ATTRIBUTE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        bytes.pop_if(|last| *last == b'\n');
        Some(bytes)
    };
    let text = |name: &str| String::from_utf8(attribute(name)?).ok();
    let id = |name: &str| u16::from_str_radix(&text(name)?, 16).ok();
    let address = text("devnum")?.parse().ok()?;
    let mut reading = Reading::bare(port, address, id("idVendor")?, id("idProduct")?, None);
    reading.serial_number = attribute("serial").map(HexBytes);
    device
        .is_connection_of(&reading)
        .then(|| format!("/dev/bus/usb/{:03}/{address:03}", device.bus_number).into())
}
