//! What a plugin may do, and which devices it hears of.

use std::path::PathBuf;

use autoweave_usb_device::Device;

/// What the manifest asks for. The default is nothing: no device, no file, no network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permissions {
    /// Which devices it hears of, and may open.
    pub usb: UsbPermission,
    /// Files and directories beyond the package's own.
    pub filesystem: Vec<FileGrant>,
    /// The TCP ports it may connect to, sorted; empty for no network at all.
    pub tcp_ports: Vec<u16>,
    /// How much memory its own data may take in each worker, in MiB, 10 to 1024.
    pub max_heap_mb: u16,
    /// How many workers run at most, 1 to 8.
    pub max_workers: u8,
}

/// The devices a plugin hears of: those that every list agrees to. A list that was not given, is empty or has
/// `*` agrees to all, but without any list the plugin hears of none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UsbPermission {
    /// Whether any list was given.
    pub listed: bool,
    /// `idVendor`; empty for any.
    pub vendor_ids: Vec<u16>,
    /// `idProduct`; empty for any.
    pub product_ids: Vec<u16>,
    /// Classes of the device or of any of its interfaces; empty for any.
    pub device_classes: Vec<u8>,
    /// Whether it opens device nodes.
    pub open: bool,
}

/// A file or directory with all below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileGrant {
    /// Absolute.
    pub path: PathBuf,
    /// Whether it may be read.
    pub read: bool,
    /// Whether it may be written, and files made and removed below it.
    pub write: bool,
}

impl UsbPermission {
    /// Whether the plugin hears of `device`.
    pub fn matches(&self, device: &Device) -> bool {
        let has_class = |class: &u8| {
            device.device_class == Some(*class)
                || device.interfaces.iter().any(|interface| interface.class == *class)
        };
        self.listed
            && agrees(&self.vendor_ids, |id| *id == device.vendor_id)
            && agrees(&self.product_ids, |id| *id == device.product_id)
            && agrees(&self.device_classes, has_class)
    }
}

impl Default for Permissions {
    fn default() -> Self {
        Self {
            usb: UsbPermission::default(),
            filesystem: Vec::new(),
            tcp_ports: Vec::new(),
            max_heap_mb: 128,
            max_workers: 1,
        }
    }
}

fn agrees<T>(list: &[T], is: impl Fn(&T) -> bool) -> bool {
    list.is_empty() || list.iter().any(is)
}

#[cfg(test)]
mod tests {
    use autoweave_usb_device::{Interface, Reading};

    use super::*;

    fn device(class: Option<u8>, interfaces: &[u8]) -> Device {
        let reading = Reading::bare("1-1.2".parse().unwrap(), 5, 0x046d, 0xc52b, class);
        let mut device = Device::new(&reading, "id".to_owned());
        device.interfaces = interfaces
            .iter()
            .map(|&class| Interface { number: 0, class, subclass: 0, protocol: 0, driver: None })
            .collect();
        device
    }

    #[test]
    fn every_list_has_to_agree_and_no_list_is_nothing() {
        let usb = |vendors: &[u16], products: &[u16], classes: &[u8]| UsbPermission {
            listed: true,
            vendor_ids: vendors.to_vec(),
            product_ids: products.to_vec(),
            device_classes: classes.to_vec(),
            open: false,
        };
        let hid = device(Some(0), &[3, 8]);
        assert!(!UsbPermission::default().matches(&hid));
        assert!(usb(&[], &[], &[]).matches(&hid));
        assert!(usb(&[1, 0x046d], &[0xc52b], &[8]).matches(&hid));
        assert!(usb(&[], &[], &[0]).matches(&hid));
        assert!(!usb(&[1], &[0xc52b], &[8]).matches(&hid));
        assert!(!usb(&[0x046d], &[1], &[8]).matches(&hid));
        assert!(!usb(&[0x046d], &[0xc52b], &[9]).matches(&hid));
        assert!(!usb(&[], &[], &[0]).matches(&device(None, &[3])));
    }
}
