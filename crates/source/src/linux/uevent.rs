//! Kernel uevents, as bytes from the socket: `lib/kobject_uevent.c`, `drivers/usb/core/usb.c`,
//! `drivers/usb/core/message.c`.
//!
//! ```text
//! add@/devices/pci0000:00/0000:00:14.0/usb1/1-1\0ACTION=add\0DEVPATH=/devices/…/usb1/1-1\0SUBSYSTEM=usb\0
//! DEVTYPE=usb_device\0PRODUCT=46d/c52b/1201\0TYPE=0/0/0\0BUSNUM=001\0DEVNUM=005\0SEQNUM=4711\0
//! ```

use autoweave_usb_device::{Port, Reading};
use thiserror::Error;

/// What a uevent says about USB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uevent<'a> {
    /// A device came. Nothing of it was read yet but what every message carries.
    Added {
        /// The device's directory below `/sys`.
        devpath: &'a str,
        /// Port, address, ids and class.
        bare: Box<Reading>,
    },
    /// A device went.
    Removed {
        /// Where it was.
        port: Port,
        /// The address it had.
        address: Option<u8>,
    },
    /// A device is still there, and more may be known of it: it was configured, or someone asked for a
    /// uevent by writing to its `uevent` file.
    Changed {
        /// The device's directory below `/sys`.
        devpath: &'a str,
        /// Port, address, ids and class.
        bare: Box<Reading>,
    },
    /// A driver took an interface, or let go of it.
    Bound {
        /// Where the device is.
        port: Port,
        /// `bInterfaceNumber`.
        interface: u8,
        /// The driver; none when it let go.
        driver: Option<&'a str>,
    },
    /// Nothing this program needs to know.
    Other,
}

/// A message about USB that cannot be understood. The bus has to be scanned to learn what it was about.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UeventError {
    /// There is no `ACTION@DEVPATH` at the start, or it is not UTF-8.
    #[error("no header")]
    NoHeader,
    /// A field is missing, or is not what the kernel writes.
    #[error("{0} is missing or malformed")]
    Field(&'static str),
}

/// Whether the message is about USB at all. Every other subsystem's messages come over the same socket.
pub fn is_usb(message: &[u8]) -> bool {
    fields(message).any(|field| field == b"SUBSYSTEM=usb")
}

/// Understands a message about USB.
///
/// # Errors
/// The message is about a USB device or interface and lacks what the kernel always writes.
pub fn parse(message: &[u8]) -> Result<Uevent<'_>, UeventError> {
    let header = message.split(|byte| *byte == 0).next().unwrap_or_default();
    let header = std::str::from_utf8(header).map_err(|_| UeventError::NoHeader)?;
    let (action, devpath) = header.split_once('@').ok_or(UeventError::NoHeader)?;
    let message = Message { message, devpath };
    match message.field("DEVTYPE") {
        Some("usb_device") => message.device(action),
        Some("usb_interface") => message.interface(action),
        _ => Ok(Uevent::Other),
    }
}

/// The kernel's number of the message (`SEQNUM`). It counts those of all subsystems, so one that listens to USB sees
/// gaps.
pub fn seqnum(message: &[u8]) -> Option<u64> {
    Message { message, devpath: "" }.field("SEQNUM")?.parse().ok()
}

impl Uevent<'_> {
    /// Where the device is that this is about.
    pub fn port(&self) -> Option<Port> {
        match self {
            Self::Added { bare, .. } | Self::Changed { bare, .. } => Some(bare.port),
            Self::Removed { port, .. } | Self::Bound { port, .. } => Some(*port),
            Self::Other => None,
        }
    }
}

fn fields(message: &[u8]) -> impl Iterator<Item = &[u8]> {
    message.split(|byte| *byte == 0).skip(1)
}

struct Message<'a> {
    message: &'a [u8],
    devpath: &'a str,
}

impl<'a> Message<'a> {
    fn field(&self, name: &str) -> Option<&'a str> {
        fields(self.message).find_map(|field| {
            let value = field.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
            std::str::from_utf8(value).ok()
        })
    }

    fn device(&self, action: &str) -> Result<Uevent<'a>, UeventError> {
        let synthetic = self.is_synthetic();
        match action {
            "add" if !synthetic => Ok(Uevent::Added { devpath: self.safe_devpath()?, bare: self.bare()? }),
            "remove" if !synthetic => {
                Ok(Uevent::Removed { port: self.port()?, address: self.address().ok() })
            }
            "add" | "remove" | "bind" | "change" => {
                Ok(Uevent::Changed { devpath: self.safe_devpath()?, bare: self.bare()? })
            }
            _ => Ok(Uevent::Other),
        }
    }

    fn interface(&self, action: &str) -> Result<Uevent<'a>, UeventError> {
        let driver = match action {
            "bind" => self.field("DRIVER"),
            "unbind" => None,
            _ => return Ok(Uevent::Other),
        };
        if self.is_synthetic() {
            return Ok(Uevent::Other);
        }
        // `1-4.2:1.0`: the port, bConfigurationValue and bInterfaceNumber.
        let malformed = UeventError::Field("DEVPATH");
        let (port, numbers) = self.name().split_once(':').ok_or(malformed.clone())?;
        let (_, interface) = numbers.split_once('.').ok_or(malformed.clone())?;
        // A root hub's is `1-0:1.0` (`usb_set_configuration`, drivers/usb/core/message.c).
        let port = match port.strip_suffix("-0").and_then(|bus| bus.parse().ok()) {
            Some(bus) => Ok(Port::root(bus)),
            None => port.parse(),
        };
        let (Ok(port), Ok(interface)) = (port, interface.parse()) else { return Err(malformed) };
        Ok(Uevent::Bound { port, interface, driver })
    }

    /// Whether someone wrote to the `uevent` file, to have the message repeated.
    fn is_synthetic(&self) -> bool {
        self.field("SYNTH_UUID").is_some()
    }

    fn bare(&self) -> Result<Box<Reading>, UeventError> {
        let mut ids = self.field("PRODUCT").into_iter().flat_map(|ids| ids.split('/'));
        let mut id = || u16::from_str_radix(ids.next()?, 16).ok();
        let (vendor_id, product_id) = id().zip(id()).ok_or(UeventError::Field("PRODUCT"))?;
        let class = self.field("TYPE").and_then(|class| class.split('/').next()?.parse().ok());
        Ok(Box::new(Reading::bare(self.port()?, self.address()?, vendor_id, product_id, class)))
    }

    fn port(&self) -> Result<Port, UeventError> {
        self.name().parse().map_err(|_| UeventError::Field("DEVPATH"))
    }

    fn address(&self) -> Result<u8, UeventError> {
        let address = self.field("DEVNUM").and_then(|address| address.parse().ok());
        address.filter(|address| *address > 0).ok_or(UeventError::Field("DEVNUM"))
    }

    fn name(&self) -> &'a str {
        self.devpath.rsplit('/').next().unwrap_or_default()
    }

    /// The path is going to be opened, so it must not lead out of `/sys`.
    fn safe_devpath(&self) -> Result<&'a str, UeventError> {
        let safe = self.devpath.starts_with("/devices/") && self.devpath.split('/').all(|part| part != "..");
        safe.then_some(self.devpath).ok_or(UeventError::Field("DEVPATH"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HUB: &str = "/devices/pci0000:00/0000:00:14.0/usb1/1-1";
    const DEVICE: &str =
        "SUBSYSTEM=usb DEVTYPE=usb_device PRODUCT=46d/c52b/1201 TYPE=239/2/1 BUSNUM=001 DEVNUM=005";

    fn message(header: &str, fields: &str) -> Vec<u8> {
        format!("{header} {fields} SEQNUM=12").replace(' ', "\0").into_bytes()
    }

    fn port(name: &str) -> Port {
        name.parse().unwrap()
    }

    #[test]
    fn a_device_comes_and_goes() {
        let bare = Box::new(Reading::bare(port("1-1"), 5, 0x046d, 0xc52b, Some(239)));
        let add = message(&format!("add@{HUB}"), DEVICE);
        assert!(is_usb(&add));
        assert_eq!(parse(&add), Ok(Uevent::Added { devpath: HUB, bare: bare.clone() }));
        let remove = message(&format!("remove@{HUB}"), DEVICE);
        assert_eq!(parse(&remove), Ok(Uevent::Removed { port: port("1-1"), address: Some(5) }));
        for action in ["bind", "change"] {
            let changed = message(&format!("{action}@{HUB}"), DEVICE);
            assert_eq!(parse(&changed), Ok(Uevent::Changed { devpath: HUB, bare: bare.clone() }));
        }
        let synthetic = message(&format!("add@{HUB}"), &format!("{DEVICE} SYNTH_UUID=0"));
        assert_eq!(parse(&synthetic), Ok(Uevent::Changed { devpath: HUB, bare }));
    }

    #[test]
    fn an_interface_is_bound_and_let_go() {
        let fields = "SUBSYSTEM=usb DEVTYPE=usb_interface DRIVER=usbhid";
        let bind = message(&format!("bind@{HUB}/1-1:1.12"), fields);
        assert_eq!(
            parse(&bind),
            Ok(Uevent::Bound { port: port("1-1"), interface: 12, driver: Some("usbhid") })
        );
        let unbind = message(&format!("unbind@{HUB}/1-1:1.12"), fields);
        assert_eq!(parse(&unbind), Ok(Uevent::Bound { port: port("1-1"), interface: 12, driver: None }));
        assert_eq!(parse(&message(&format!("add@{HUB}/1-1:1.12"), fields)), Ok(Uevent::Other));
        let of_root_hub =
            message("bind@/devices/pci0000:00/usb2/2-0:1.0", "DEVTYPE=usb_interface DRIVER=hub");
        assert_eq!(
            parse(&of_root_hub),
            Ok(Uevent::Bound { port: port("usb2"), interface: 0, driver: Some("hub") })
        );
        let synthetic = message(&format!("unbind@{HUB}/1-1:1.12"), &format!("{fields} SYNTH_UUID=0"));
        assert_eq!(parse(&synthetic), Ok(Uevent::Other));
    }

    #[test]
    fn other_subsystems_are_none_of_our_business() {
        assert!(!is_usb(&message("add@/devices/virtual/block/loop0", "SUBSYSTEM=block")));
        assert!(!is_usb(b"SUBSYSTEM=usb"), "the header is no field");
        assert!(!is_usb(b""));
    }

    #[test]
    fn what_the_kernel_would_not_write_is_refused() {
        let check = |message: Vec<u8>, error| assert_eq!(parse(&message), Err(error));
        check(b"add".to_vec(), UeventError::NoHeader);
        check(b"\xff@/devices\0".to_vec(), UeventError::NoHeader);
        let add = format!("add@{HUB}");
        check(message(&add, "DEVTYPE=usb_device TYPE=0/0/0 DEVNUM=005"), UeventError::Field("PRODUCT"));
        check(message(&add, "DEVTYPE=usb_device PRODUCT=46d DEVNUM=005"), UeventError::Field("PRODUCT"));
        check(
            message(&add, "DEVTYPE=usb_device PRODUCT=46d/fffff/0 DEVNUM=005"),
            UeventError::Field("PRODUCT"),
        );
        check(message(&add, "DEVTYPE=usb_device PRODUCT=1/2/3 DEVNUM=256"), UeventError::Field("DEVNUM"));
        check(message(&add, "DEVTYPE=usb_device PRODUCT=1/2/3 DEVNUM=0"), UeventError::Field("DEVNUM"));
        check(message("add@/devices/usb1/1-0", DEVICE), UeventError::Field("DEVPATH"));
        check(message("add@/devices/../../etc/1-1", DEVICE), UeventError::Field("DEVPATH"));
        check(message("add@/etc/1-1", DEVICE), UeventError::Field("DEVPATH"));
        check(message("bind@/devices/1-1", "DEVTYPE=usb_interface"), UeventError::Field("DEVPATH"));
        check(message("bind@/devices/1-1:1", "DEVTYPE=usb_interface"), UeventError::Field("DEVPATH"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = (is_usb(&bytes), parse(&bytes));
        }

        #[test]
        fn a_damaged_message_never_panics(at in 0usize..150, value in any::<u8>(), cut in 0usize..200) {
            let mut message = message(&format!("add@{HUB}"), DEVICE);
            if let Some(byte) = message.get_mut(at) { *byte = value; }
            let _ = parse(&message[..cut.min(message.len())]);
        }
    }
}
