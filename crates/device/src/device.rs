//! A device as the outside knows it: its identity, and all that was read of it, made sense of.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::descriptor::Descriptors;
use crate::hex::id;
use crate::{DeviceDescriptor, HexBytes, InterfaceReading, Port, PortPath, Reading};

/// One connection of a device: from this attach to its detach.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// `vid:pid:serial`, the same over replugs and ports; `vid:pid@port` where there is no serial number.
    /// Never equal for two devices connected at the same time.
    pub device_id: String,
    /// The first 16 hexadecimal digits of SHA-256 over `vendor:product:bus:address`, in decimal.
    pub signature: String,
    /// `idVendor`.
    #[serde(with = "id")]
    pub vendor_id: u16,
    /// `idProduct`.
    #[serde(with = "id")]
    pub product_id: u16,
    /// What the device calls its maker.
    pub manufacturer: Option<String>,
    /// What the device calls itself.
    pub product: Option<String>,
    /// What the device calls its serial number.
    pub serial_number: Option<String>,
    /// The bus, from 1.
    pub bus_number: u8,
    /// The address on the bus, 1 to 127, reused.
    pub device_address: u8,
    /// The chain of hub ports; `0` for a root hub.
    pub port_path: PortPath,
    /// The speed it was enumerated at, in Mb/s.
    pub speed_mbps: Option<Speed>,
    /// `bDeviceClass`.
    pub device_class: Option<u8>,
    /// The interfaces of the active configuration.
    pub interfaces: Vec<Interface>,
    /// The device descriptor; none when the device was gone before it could be read.
    pub device_descriptor: Option<DeviceDescriptor>,
    /// The bytes of those strings that are not valid UTF-8, which JSON cannot hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw_strings: Option<Box<RawStrings>>,
}

/// An interface of the active configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// `bInterfaceNumber`.
    pub number: u8,
    /// `bInterfaceClass`.
    pub class: u8,
    /// `bInterfaceSubClass`.
    pub subclass: u8,
    /// `bInterfaceProtocol`.
    pub protocol: u8,
    /// The driver bound to it; none until one is.
    pub driver: Option<String>,
}

/// The bytes of strings that are not valid UTF-8. The fields of [`Device`] show U+FFFD where these cannot be
/// decoded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawStrings {
    /// Of `manufacturer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manufacturer: Option<HexBytes>,
    /// Of `product`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product: Option<HexBytes>,
    /// Of `serial_number`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial_number: Option<HexBytes>,
}

/// A signalling rate, in tenths of Mb/s because low speed is 1.5 Mb/s (USB 2.0 §7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Speed {
    tenths: u32,
}

impl Device {
    /// Makes sense of a reading. `device_id` is the caller's to give: only the table knows who else is
    /// connected.
    pub fn new(reading: &Reading, device_id: String) -> Self {
        let descriptors = Descriptors::parse(&reading.descriptors.0);
        let mut raw_strings = RawStrings::default();
        let manufacturer = text(reading.manufacturer.as_ref(), &mut raw_strings.manufacturer);
        let product = text(reading.product.as_ref(), &mut raw_strings.product);
        let serial_number = text(reading.serial_number.as_ref(), &mut raw_strings.serial_number);
        Self {
            device_id,
            signature: signature(reading),
            vendor_id: reading.vendor_id,
            product_id: reading.product_id,
            manufacturer,
            product,
            serial_number,
            bus_number: reading.port.bus,
            device_address: reading.address,
            port_path: reading.port.path,
            speed_mbps: reading.speed,
            device_class: reading.class.or_else(|| descriptors.device.map(|device| device.class)),
            interfaces: interfaces(reading, &descriptors),
            device_descriptor: descriptors.device,
            raw_strings: (raw_strings != RawStrings::default()).then(|| Box::new(raw_strings)),
        }
    }

    /// Where it is plugged in.
    pub fn port(&self) -> Port {
        Port { bus: self.bus_number, path: self.port_path }
    }

    /// Whether it or one of its interfaces is of `class`.
    pub fn has_class(&self, class: u8) -> bool {
        self.device_class == Some(class) || self.interfaces.iter().any(|interface| interface.class == class)
    }

    /// Whether `reading` is of this very connection of this very device: port, address and ids agree, and the
    /// serial numbers do where both could be read.
    pub fn is_connection_of(&self, reading: &Reading) -> bool {
        let serials = self.serial_number.as_ref().zip(reading.serial_number.as_ref());
        self.port() == reading.port
            && self.device_address == reading.address
            && (self.vendor_id, self.product_id) == (reading.vendor_id, reading.product_id)
            && serials.is_none_or(|(ours, theirs)| *ours == String::from_utf8_lossy(&theirs.0))
    }

    /// Keeps what is known of this connection where `newer`, a later reading of it, could not read it, and
    /// the name it was announced under.
    pub fn updated_by(&self, newer: Self) -> Self {
        let keep_interfaces = newer.interfaces.is_empty() && newer.device_descriptor.is_none();
        Self {
            device_id: self.device_id.clone(),
            manufacturer: newer.manufacturer.or_else(|| self.manufacturer.clone()),
            product: newer.product.or_else(|| self.product.clone()),
            serial_number: newer.serial_number.or_else(|| self.serial_number.clone()),
            speed_mbps: newer.speed_mbps.or(self.speed_mbps),
            device_class: newer.device_class.or(self.device_class),
            interfaces: if keep_interfaces { self.interfaces.clone() } else { newer.interfaces },
            device_descriptor: newer.device_descriptor.or(self.device_descriptor),
            raw_strings: newer.raw_strings.or_else(|| self.raw_strings.clone()),
            ..newer
        }
    }
}

/// A string as the kernel decoded it, for people and JSON; the bytes go to `raw` if that loses anything.
fn text(bytes: Option<&HexBytes>, raw: &mut Option<HexBytes>) -> Option<String> {
    let bytes = bytes.filter(|bytes| !bytes.0.is_empty())?;
    let text = String::from_utf8_lossy(&bytes.0);
    if text.as_bytes() != bytes.0 {
        *raw = Some(bytes.clone());
    }
    Some(text.into_owned())
}

fn signature(reading: &Reading) -> String {
    let Reading { port, address, vendor_id, product_id, .. } = reading;
    let digest = Sha256::digest(format!("{vendor_id}:{product_id}:{}:{address}", port.bus));
    HexBytes(digest[..8].to_vec()).to_string()
}

/// The descriptors know the interfaces before the operating system has made them; once it has, it knows
/// their drivers, and which alternate setting was chosen.
fn interfaces(reading: &Reading, descriptors: &Descriptors) -> Vec<Interface> {
    let configuration = descriptors.configuration(reading.configuration);
    let mut interfaces: Vec<Interface> = configuration
        .map(|configuration| configuration.default_settings())
        .unwrap_or_default()
        .into_iter()
        .map(|setting| Interface {
            number: setting.number,
            class: setting.class,
            subclass: setting.subclass,
            protocol: setting.protocol,
            driver: None,
        })
        .collect();
    for read in &reading.interfaces {
        let known = interfaces.iter_mut().find(|interface| interface.number == read.number);
        match known {
            Some(known) => *known = read.into(),
            None => interfaces.push(read.into()),
        }
    }
    interfaces.sort_by_key(|interface| interface.number);
    interfaces
}

impl From<&InterfaceReading> for Interface {
    fn from(reading: &InterfaceReading) -> Self {
        let InterfaceReading { number, class, subclass, protocol, driver } = reading.clone();
        Self { number, class, subclass, protocol, driver }
    }
}

impl Speed {
    /// Reads sysfs's `speed`: `1.5`, `12`, `480`, `5000` … (`drivers/usb/core/sysfs.c`). None for `unknown`.
    pub fn parse(text: &str) -> Option<Self> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let [tenth @ b'0'..=b'9'] = fraction.as_bytes() else { return None };
        if !whole.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let tenths = whole.parse::<u32>().ok()?.checked_mul(10)?.checked_add(u32::from(tenth - b'0'))?;
        (tenths > 0).then_some(Self { tenths })
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tenths % 10 {
            0 => write!(f, "{}", self.tenths / 10),
            tenth => write!(f, "{}.{tenth}", self.tenths / 10),
        }
    }
}

impl Serialize for Speed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.tenths % 10 {
            0 => serializer.serialize_u32(self.tenths / 10),
            _ => serializer.serialize_f64(f64::from(self.tenths) / 10.0),
        }
    }
}

impl<'de> Deserialize<'de> for Speed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mbps = f64::deserialize(deserializer)?;
        Self::parse(&mbps.to_string()).ok_or_else(|| D::Error::custom("not a USB speed in Mb/s"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading() -> Reading {
        let mut reading = Reading::bare("1-1.2".parse().unwrap(), 5, 1133, 50475, Some(0));
        reading.serial_number = Some(HexBytes(b"ABC123".to_vec()));
        reading
    }

    #[test]
    fn the_signature_is_the_specifications() {
        assert_eq!(Device::new(&reading(), String::new()).signature, "a97118a5ce9e2a06");
    }

    #[test]
    fn speeds_are_numbers_in_json() {
        for (text, json) in [("1.5", "1.5"), ("12", "12"), ("480", "480"), ("20000", "20000")] {
            let speed = Speed::parse(text).unwrap();
            assert_eq!(serde_json::to_string(&speed).unwrap(), json);
            assert_eq!(serde_json::from_str::<Speed>(json).unwrap(), speed);
            assert_eq!(speed.to_string(), text);
        }
        for text in ["", "unknown", "1.55", "-1", "+5", "1.", ".5", "0", "99999999999"] {
            assert_eq!(Speed::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn strings_that_are_not_utf8_keep_their_bytes() {
        let mut reading = reading();
        reading.product = Some(HexBytes(b"A\x1b[2J\xff".to_vec()));
        let device = Device::new(&reading, String::new());
        assert_eq!(device.product.as_deref(), Some("A\x1b[2J\u{fffd}"));
        let raw = device.raw_strings.clone().unwrap();
        assert_eq!(raw.product.unwrap().0, b"A\x1b[2J\xff");
        assert_eq!((raw.manufacturer, raw.serial_number), (None, None));
        let json = serde_json::to_string(&device).unwrap();
        assert_eq!(serde_json::from_str::<Device>(&json).unwrap(), device);
    }

    #[test]
    fn interfaces_come_from_the_descriptors_until_the_system_has_made_them() {
        let mut reading = reading();
        reading.descriptors = HexBytes(
            [
                &[18, 1, 0, 2, 0, 0, 0, 64, 0x6d, 4, 0x2b, 0xc5, 1, 18, 1, 2, 3, 1][..],
                &[9, 2, 27, 0, 2, 1, 0, 0xa0, 49],
                &[9, 4, 0, 0, 0, 3, 1, 1, 0],
                &[9, 4, 1, 0, 0, 3, 0, 0, 0],
            ]
            .concat(),
        );
        let before = Device::new(&reading, String::new());
        assert_eq!(
            before.interfaces.iter().map(|i| (i.number, i.class)).collect::<Vec<_>>(),
            [(0, 3), (1, 3)]
        );
        let driver = Some("usbhid".to_owned());
        reading.interfaces =
            vec![InterfaceReading { number: 1, class: 3, subclass: 0, protocol: 0, driver: driver.clone() }];
        let after = Device::new(&reading, String::new());
        assert_eq!(after.interfaces.iter().map(|i| i.driver.clone()).collect::<Vec<_>>(), [None, driver]);
    }

    #[test]
    fn a_later_reading_that_reads_less_takes_nothing_away() {
        let known = Device::new(&reading(), "id".to_owned());
        let bare = Reading::bare("1-1.2".parse().unwrap(), 5, 1133, 50475, None);
        assert_eq!(known.updated_by(Device::new(&bare, "other".to_owned())), known);
    }
}
