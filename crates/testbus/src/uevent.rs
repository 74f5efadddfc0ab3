//! The words of a uevent, in the order in which `dev_uevent` (drivers/base/core.c), `usb_uevent`
//! (drivers/usb/core/driver.c), `usb_dev_uevent` and `usb_if_uevent` write them.

use std::fmt::Write;

use crate::device::{Device, Interface};
use crate::port::Port;

/// Major number of USB device nodes (Documentation/admin-guide/devices.txt).
const USB_MAJOR: u8 = 189;

/// A device on the bus.
#[derive(Clone, Debug)]
pub(crate) struct Attached {
    pub(crate) port: Port,
    pub(crate) devnum: u8,
    pub(crate) device: Device,
}

impl Attached {
    /// Node below `/dev/bus`: `usb/001/005`.
    pub(crate) fn node(&self) -> String {
        format!("usb/{:03}/{:03}", self.port.bus, self.devnum)
    }

    /// What the device's `uevent` attribute holds; a device that no driver holds says no DRIVER.
    pub(crate) fn fields(&self, bound: bool) -> String {
        let Device { class, subclass, protocol, .. } = self.device;
        let (bus, devnum) = (self.port.bus, self.devnum);
        let minor = (u32::from(bus) - 1) * 128 + u32::from(devnum) - 1;
        let mut text =
            format!("MAJOR={USB_MAJOR}\nMINOR={minor}\nDEVNAME=bus/{}\nDEVTYPE=usb_device\n", self.node());
        if bound {
            text.push_str("DRIVER=usb\n");
        }
        let product = self.product();
        let _ = writeln!(
            text,
            "{product}\nTYPE={class}/{subclass}/{protocol}\nBUSNUM={bus:03}\nDEVNUM={devnum:03}"
        );
        text
    }

    /// What an interface's `uevent` attribute holds.
    pub(crate) fn interface_fields(&self, interface: &Interface, bound: bool) -> String {
        let Device { class, subclass, protocol, .. } = self.device;
        let mut text = String::from("DEVTYPE=usb_interface\n");
        if let Some(driver) = interface.driver.as_ref().filter(|_| bound) {
            let _ = writeln!(text, "DRIVER={driver}");
        }
        let _ = writeln!(text, "{}\nTYPE={class}/{subclass}/{protocol}", self.product());
        let _ = writeln!(text, "INTERFACE={}/{}/{}", interface.class, interface.subclass, interface.protocol);
        let _ = writeln!(text, "MODALIAS={}", self.modalias(interface));
        text
    }

    pub(crate) fn modalias(&self, interface: &Interface) -> String {
        let Device { vendor, product, bcd_device, class, subclass, protocol, .. } = self.device;
        let Interface { number, class: iclass, subclass: isubclass, protocol: iprotocol, .. } = *interface;
        format!(
            "usb:v{vendor:04X}p{product:04X}d{bcd_device:04X}dc{class:02X}dsc{subclass:02X}dp{protocol:02X}\
             ic{iclass:02X}isc{isubclass:02X}ip{iprotocol:02X}in{number:02X}"
        )
    }

    /// The message for the device itself.
    pub(crate) fn message(&self, action: &str) -> Vec<u8> {
        message(action, &self.port.devpath(), &self.fields(driver_is_told(action)))
    }

    /// The message for one of its interfaces.
    pub(crate) fn interface_message(&self, action: &str, interface: &Interface) -> Vec<u8> {
        message(
            action,
            &self.interface_devpath(interface),
            &self.interface_fields(interface, driver_is_told(action)),
        )
    }

    pub(crate) fn interface_devpath(&self, interface: &Interface) -> String {
        format!("{}/{}", self.port.devpath(), self.port.interface_name(interface.number))
    }

    fn product(&self) -> String {
        let Device { vendor, product, bcd_device, .. } = self.device;
        format!("PRODUCT={vendor:x}/{product:x}/{bcd_device:x}")
    }
}

/// A driver is bound after `add`, and let go before `unbind` is sent (`__device_release_driver`, drivers/base/dd.c).
fn driver_is_told(action: &str) -> bool {
    !matches!(action, "add" | "unbind" | "remove")
}

fn message(action: &str, devpath: &str, fields: &str) -> Vec<u8> {
    let head = format!("{action}@{devpath}\0ACTION={action}\0DEVPATH={devpath}\0SUBSYSTEM=usb\0");
    let mut bytes = head.into_bytes();
    bytes.extend(fields.bytes().map(|byte| if byte == b'\n' { 0 } else { byte }));
    bytes
}

/// `message` with a `FILLER` field that makes it `bytes` long, to meet a reader's size limits.
/// A message that has no room for the field (8 bytes) comes back as it was.
pub fn padded(message: &[u8], bytes: usize) -> Vec<u8> {
    let mut padded = message.to_vec();
    if bytes >= message.len() + b"FILLER=\0".len() {
        padded.extend(b"FILLER=");
        padded.resize(bytes - 1, b'x');
        padded.push(0);
    }
    padded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_kernels_fields_in_the_kernels_order() {
        let port = Port::parse("1-1").unwrap();
        let attached = Attached { port, devnum: 5, device: Device::receiver() };
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace('\0', "|");
        assert_eq!(
            text(attached.message("bind")),
            "bind@/devices/pci0000:00/0000:00:14.0/usb1/1-1|ACTION=bind|\
             DEVPATH=/devices/pci0000:00/0000:00:14.0/usb1/1-1|SUBSYSTEM=usb|MAJOR=189|MINOR=4|\
             DEVNAME=bus/usb/001/005|DEVTYPE=usb_device|DRIVER=usb|PRODUCT=46d/c52b/1201|TYPE=0/0/0|\
             BUSNUM=001|DEVNUM=005|"
        );
        assert_eq!(
            text(attached.interface_message("add", &attached.device.interfaces[0])),
            "add@/devices/pci0000:00/0000:00:14.0/usb1/1-1/1-1:1.0|ACTION=add|\
             DEVPATH=/devices/pci0000:00/0000:00:14.0/usb1/1-1/1-1:1.0|SUBSYSTEM=usb|DEVTYPE=usb_interface|\
             PRODUCT=46d/c52b/1201|TYPE=0/0/0|INTERFACE=3/1/1|\
             MODALIAS=usb:v046DpC52Bd1201dc00dsc00dp00ic03isc01ip01in00|"
        );
    }

    #[test]
    fn padding_reaches_the_length_exactly() {
        assert_eq!(padded(b"add@/x\0", 100).len(), 100);
        assert_eq!(padded(b"add@/x\0", 15), b"add@/x\0FILLER=\0");
        assert_eq!(padded(b"add@/x\0", 14), b"add@/x\0");
    }
}
