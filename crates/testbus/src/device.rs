//! What a virtual device says about itself.

/// Signalling speed, as the kernel names it in `speed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speed {
    /// 1.5 Mbit/s.
    Low,
    /// 12 Mbit/s.
    Full,
    /// 480 Mbit/s.
    High,
    /// 5000 Mbit/s.
    Super,
}

impl Speed {
    /// Mbit/s as sysfs writes it: `1.5`, `12`, `480`, `5000`.
    pub fn mbps(self) -> &'static str {
        match self {
            Self::Low => "1.5",
            Self::Full => "12",
            Self::High => "480",
            Self::Super => "5000",
        }
    }

    /// `bcdUSB`: a device that runs at 5 Gbit/s says 3.0, all others say 2.0.
    pub(crate) fn bcd_usb(self) -> u16 {
        if self == Self::Super { 0x0300 } else { 0x0200 }
    }

    /// `bMaxPacketSize0`: bytes, except at 5 Gbit/s where it is the exponent of two (USB 3.2, 9.6.1).
    pub(crate) fn max_packet_size0(self) -> u8 {
        match self {
            Self::Low => 8,
            Self::Full | Self::High => 64,
            Self::Super => 9,
        }
    }
}

/// One interface of the only configuration. Kernel and specification know at most 32 (`USB_MAXINTERFACES`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// `bInterfaceNumber`.
    pub number: u8,
    /// `bInterfaceClass`.
    pub class: u8,
    /// `bInterfaceSubClass`.
    pub subclass: u8,
    /// `bInterfaceProtocol`.
    pub protocol: u8,
    /// The driver that binds to it, if any.
    pub driver: Option<String>,
}

/// A device to plug. Change single fields with struct update syntax:
/// `Device { serial: None, ..Device::receiver() }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// `idVendor`.
    pub vendor: u16,
    /// `idProduct`.
    pub product: u16,
    /// `bcdDevice`, the device's release number.
    pub bcd_device: u16,
    /// `bDeviceClass`; 9 is a hub, and only hubs can have devices below them.
    pub class: u8,
    /// `bDeviceSubClass`.
    pub subclass: u8,
    /// `bDeviceProtocol`.
    pub protocol: u8,
    /// Manufacturer string. Any bytes; without one the attribute is missing, as with the kernel.
    pub manufacturer: Option<Vec<u8>>,
    /// Product string, likewise.
    pub product_name: Option<Vec<u8>>,
    /// Serial number string, likewise.
    pub serial: Option<Vec<u8>>,
    /// Signalling speed.
    pub speed: Speed,
    /// Interfaces of the one configuration, at most 255.
    pub interfaces: Vec<Interface>,
    /// Replaces the content of `descriptors`, for malformed devices. `None`: built from the other fields.
    pub descriptors: Option<Vec<u8>>,
}

pub(crate) const CLASS_HID: u8 = 3;
pub(crate) const CLASS_MASS_STORAGE: u8 = 8;
pub(crate) const CLASS_HUB: u8 = 9;
const CLASS_VENDOR: u8 = 0xff;

impl Device {
    /// A high-speed device with one vendor-specific interface, no driver and no strings.
    pub fn new(vendor: u16, product: u16) -> Self {
        Self {
            vendor,
            product,
            bcd_device: 0x0100,
            class: 0,
            subclass: 0,
            protocol: 0,
            manufacturer: None,
            product_name: None,
            serial: None,
            speed: Speed::High,
            interfaces: vec![Interface {
                number: 0,
                class: CLASS_VENDOR,
                subclass: 0,
                protocol: 0,
                driver: None,
            }],
            descriptors: None,
        }
    }

    /// A Logitech receiver, 046d:c52b, serial number ABC123: full speed, one keyboard interface.
    pub fn receiver() -> Self {
        Self {
            bcd_device: 0x1201,
            speed: Speed::Full,
            interfaces: vec![driven(CLASS_HID, 1, 1, "usbhid")],
            ..Self::new(0x046d, 0xc52b).named("Logitech", "USB Receiver", Some("ABC123"))
        }
    }

    /// A four-port high-speed hub, 05e3:0608, without a serial number.
    pub fn hub() -> Self {
        Self {
            bcd_device: 0x6090,
            class: CLASS_HUB,
            protocol: 1,
            interfaces: vec![driven(CLASS_HUB, 0, 0, "hub")],
            ..Self::new(0x05e3, 0x0608).named("GenesysLogic", "USB2.0 Hub", None)
        }
    }

    /// A memory stick, 0781:5581.
    pub fn storage(serial: &str) -> Self {
        Self {
            interfaces: vec![driven(CLASS_MASS_STORAGE, 6, 80, "usb-storage")],
            ..Self::new(0x0781, 0x5581).named("SanDisk", "Ultra", Some(serial))
        }
    }

    /// One of many: 1209 with product id and serial number made from `n`. Product ids repeat every 65,535.
    pub fn numbered(n: u32) -> Self {
        let product = u16::try_from(n % 0xffff).expect("a remainder of 65535 fits 16 bits") + 1;
        Self::new(0x1209, product).named("AutoWeave", &format!("Test device {n}"), Some(&format!("SN{n:06}")))
    }

    /// The root hub of an xHCI controller at the PCI address `slot`.
    pub(crate) fn root_hub(slot: &str) -> Self {
        Self {
            vendor: 0x1d6b,
            product: 0x0002,
            bcd_device: 0x0601,
            ..Self::hub().named("Linux 6.1 xhci-hcd", "xHCI Host Controller", Some(slot))
        }
    }

    fn named(self, manufacturer: &str, product: &str, serial: Option<&str>) -> Self {
        Self {
            manufacturer: Some(manufacturer.into()),
            product_name: Some(product.into()),
            serial: serial.map(Into::into),
            ..self
        }
    }
}

fn driven(class: u8, subclass: u8, protocol: u8, driver: &str) -> Interface {
    Interface { number: 0, class, subclass, protocol, driver: Some(driver.into()) }
}
