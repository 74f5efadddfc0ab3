//! USB descriptors, as bytes from the bus: USB 2.0 §9.6, USB 3.2 §9.6, the Interface Association Descriptor ECN.
//!
//! The input is what Linux shows in `/sys/bus/usb/devices/*/descriptors` (`drivers/usb/core/sysfs.c`): the
//! device descriptor, then each configuration with all that belongs to it. A device writes these bytes itself
//! and may write anything: every length is checked, unknown descriptors are skipped by their length, and what
//! cannot be followed any further ends the walk with a [`Fault`] while all before it is kept.

use std::fmt;

use serde::{Deserialize, Serialize};

const TYPE_DEVICE: u8 = 0x01;
const TYPE_CONFIGURATION: u8 = 0x02;
const TYPE_INTERFACE: u8 = 0x04;
const TYPE_ENDPOINT: u8 = 0x05;
const TYPE_INTERFACE_ASSOCIATION: u8 = 0x0b;

/// Everything the descriptors say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Descriptors {
    /// The device descriptor, if the bytes begin with one.
    pub device: Option<DeviceDescriptor>,
    /// The configurations, in the device's order.
    pub configurations: Vec<Configuration>,
    /// Where and why the walk ended before the end of the bytes.
    pub fault: Option<Fault>,
}

/// The device descriptor (USB 2.0 §9.6.1), with libusb's field names in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field is documented by the specification under its JSON name")]
pub struct DeviceDescriptor {
    #[serde(rename = "bLength")]
    pub length: u8,
    #[serde(rename = "bDescriptorType")]
    pub descriptor_type: u8,
    #[serde(rename = "bcdUSB")]
    pub bcd_usb: u16,
    #[serde(rename = "bDeviceClass")]
    pub class: u8,
    #[serde(rename = "bDeviceSubClass")]
    pub subclass: u8,
    #[serde(rename = "bDeviceProtocol")]
    pub protocol: u8,
    #[serde(rename = "bMaxPacketSize0")]
    pub max_packet_size_0: u8,
    #[serde(rename = "idVendor")]
    pub vendor_id: u16,
    #[serde(rename = "idProduct")]
    pub product_id: u16,
    #[serde(rename = "bcdDevice")]
    pub bcd_device: u16,
    #[serde(rename = "iManufacturer")]
    pub manufacturer_index: u8,
    #[serde(rename = "iProduct")]
    pub product_index: u8,
    #[serde(rename = "iSerialNumber")]
    pub serial_number_index: u8,
    #[serde(rename = "bNumConfigurations")]
    pub configuration_count: u8,
}

/// A configuration and what belongs to it (USB 2.0 §9.6.3), in JSON with the specification's field names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Configuration {
    /// `bConfigurationValue`.
    #[serde(rename = "bConfigurationValue")]
    pub value: u8,
    /// `bmAttributes`: self-powered, remote wake-up.
    #[serde(rename = "bmAttributes")]
    pub attributes: u8,
    /// `bMaxPower`, in units of 2 mA (8 mA at SuperSpeed).
    #[serde(rename = "bMaxPower")]
    pub max_power: u8,
    /// Every alternate setting of every interface, in the device's order.
    #[serde(rename = "interfaces")]
    pub settings: Vec<AlternateSetting>,
    /// Interfaces that belong together as one function.
    pub associations: Vec<InterfaceAssociation>,
}

/// One alternate setting of an interface (USB 2.0 §9.6.5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AlternateSetting {
    /// `bInterfaceNumber`.
    #[serde(rename = "bInterfaceNumber")]
    pub number: u8,
    /// `bAlternateSetting`.
    #[serde(rename = "bAlternateSetting")]
    pub alternate: u8,
    /// `bInterfaceClass`.
    #[serde(rename = "bInterfaceClass")]
    pub class: u8,
    /// `bInterfaceSubClass`.
    #[serde(rename = "bInterfaceSubClass")]
    pub subclass: u8,
    /// `bInterfaceProtocol`.
    #[serde(rename = "bInterfaceProtocol")]
    pub protocol: u8,
    /// Its endpoints, without endpoint 0.
    pub endpoints: Vec<Endpoint>,
}

/// An endpoint (USB 2.0 §9.6.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    /// `bEndpointAddress`: the number, and bit 7 for IN.
    #[serde(rename = "bEndpointAddress")]
    pub address: u8,
    /// `bmAttributes`: the transfer type in bits 0 and 1.
    #[serde(rename = "bmAttributes")]
    pub attributes: u8,
    /// `wMaxPacketSize`, in bytes, with the high-bandwidth bits 11 and 12.
    #[serde(rename = "wMaxPacketSize")]
    pub max_packet_size: u16,
    /// `bInterval`.
    #[serde(rename = "bInterval")]
    pub interval: u8,
}

/// Interfaces that belong to one function (USB 3.2 §9.6.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct InterfaceAssociation {
    /// `bFirstInterface`.
    #[serde(rename = "bFirstInterface")]
    pub first_interface: u8,
    /// `bInterfaceCount`.
    #[serde(rename = "bInterfaceCount")]
    pub interface_count: u8,
    /// `bFunctionClass`.
    #[serde(rename = "bFunctionClass")]
    pub class: u8,
    /// `bFunctionSubClass`.
    #[serde(rename = "bFunctionSubClass")]
    pub subclass: u8,
    /// `bFunctionProtocol`.
    #[serde(rename = "bFunctionProtocol")]
    pub protocol: u8,
}

/// Why the walk over the descriptors ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The bytes do not begin with a device descriptor.
    NoDeviceDescriptor,
    /// A descriptor at this offset says it is shorter than its own two-byte header, or than its type needs.
    TooShort {
        /// In bytes from the start.
        offset: usize,
    },
    /// A descriptor at this offset is longer than what is left.
    Truncated {
        /// In bytes from the start.
        offset: usize,
    },
    /// An interface, endpoint or association at this offset belongs to nothing before it.
    Orphan {
        /// In bytes from the start.
        offset: usize,
    },
}

impl Descriptors {
    /// Reads `bytes`. Never fails: what can be read is returned, and where it ended is in `fault`.
    pub fn parse(bytes: &[u8]) -> Self {
        let mut parsed = Self::default();
        parsed.fault = parsed.walk(bytes).err();
        parsed
    }

    /// The configuration with `value`, or the first one where the value is not known.
    pub fn configuration(&self, value: Option<u8>) -> Option<&Configuration> {
        self.configurations
            .iter()
            .find(|configuration| Some(configuration.value) == value)
            .or_else(|| self.configurations.first())
    }

    fn walk(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let mut offset = 0;
        while let Some(rest) = bytes.get(offset..).filter(|rest| !rest.is_empty()) {
            let length = usize::from(rest[0]);
            if length < 2 {
                return Err(Fault::TooShort { offset });
            }
            let body = rest.get(..length).ok_or(Fault::Truncated { offset })?;
            if offset == 0 {
                self.device = Some(DeviceDescriptor::parse(body).ok_or(Fault::NoDeviceDescriptor)?);
            } else {
                self.take(body, offset)?;
            }
            offset += length;
        }
        Ok(())
    }

    fn take(&mut self, body: &[u8], offset: usize) -> Result<(), Fault> {
        let too_short = Fault::TooShort { offset };
        let orphan = Fault::Orphan { offset };
        match body[1] {
            TYPE_CONFIGURATION => self.configurations.push(Configuration::parse(body).ok_or(too_short)?),
            TYPE_INTERFACE => {
                let setting = AlternateSetting::parse(body).ok_or(too_short)?;
                self.configurations.last_mut().ok_or(orphan)?.settings.push(setting);
            }
            TYPE_ENDPOINT => {
                let endpoint = Endpoint::parse(body).ok_or(too_short)?;
                let setting = self.configurations.last_mut().and_then(|last| last.settings.last_mut());
                setting.ok_or(orphan)?.endpoints.push(endpoint);
            }
            TYPE_INTERFACE_ASSOCIATION => {
                let association = InterfaceAssociation::parse(body).ok_or(too_short)?;
                self.configurations.last_mut().ok_or(orphan)?.associations.push(association);
            }
            _ => {}
        }
        Ok(())
    }
}

impl Configuration {
    /// The setting each interface has before anyone chooses another: the one numbered 0, or else the first.
    pub fn default_settings(&self) -> Vec<&AlternateSetting> {
        let mut settings: Vec<&AlternateSetting> = Vec::new();
        for setting in &self.settings {
            match settings.iter_mut().find(|known| known.number == setting.number) {
                None => settings.push(setting),
                Some(known) if known.alternate != 0 && setting.alternate == 0 => *known = setting,
                Some(_) => {}
            }
        }
        settings
    }

    fn parse(body: &[u8]) -> Option<Self> {
        let &[_, _, _, _, _, value, _, attributes, max_power] = body.first_chunk::<9>()?;
        Some(Self { value, attributes, max_power, settings: Vec::new(), associations: Vec::new() })
    }
}

impl DeviceDescriptor {
    fn parse(body: &[u8]) -> Option<Self> {
        let body = body.first_chunk::<18>().filter(|body| body[1] == TYPE_DEVICE)?;
        let word = |at: usize| u16::from_le_bytes([body[at], body[at + 1]]);
        Some(Self {
            length: body[0],
            descriptor_type: body[1],
            bcd_usb: word(2),
            class: body[4],
            subclass: body[5],
            protocol: body[6],
            max_packet_size_0: body[7],
            vendor_id: word(8),
            product_id: word(10),
            bcd_device: word(12),
            manufacturer_index: body[14],
            product_index: body[15],
            serial_number_index: body[16],
            configuration_count: body[17],
        })
    }
}

impl AlternateSetting {
    fn parse(body: &[u8]) -> Option<Self> {
        let &[_, _, number, alternate, _, class, subclass, protocol, _] = body.first_chunk::<9>()?;
        Some(Self { number, alternate, class, subclass, protocol, endpoints: Vec::new() })
    }
}

impl Endpoint {
    fn parse(body: &[u8]) -> Option<Self> {
        let &[_, _, address, attributes, low, high, interval] = body.first_chunk::<7>()?;
        Some(Self { address, attributes, max_packet_size: u16::from_le_bytes([low, high]), interval })
    }
}

impl InterfaceAssociation {
    fn parse(body: &[u8]) -> Option<Self> {
        let &[_, _, first_interface, interface_count, class, subclass, protocol, _] =
            body.first_chunk::<8>()?;
        Some(Self { first_interface, interface_count, class, subclass, protocol })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDeviceDescriptor => write!(f, "no device descriptor at the start"),
            Self::TooShort { offset } => {
                write!(f, "the descriptor at byte {offset} is too short for its type")
            }
            Self::Truncated { offset } => write!(f, "the descriptor at byte {offset} runs past the end"),
            Self::Orphan { offset } => {
                write!(f, "the descriptor at byte {offset} belongs to nothing before it")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const DEVICE: [u8; 18] =
        [18, 1, 0x00, 0x02, 0xef, 2, 1, 64, 0x6d, 0x04, 0x2b, 0xc5, 0x01, 0x12, 1, 2, 3, 1];
    const CONFIGURATION: [u8; 9] = [9, 2, 0, 0, 2, 1, 0, 0xa0, 49];
    const ASSOCIATION: [u8; 8] = [8, 0x0b, 0, 2, 0x0e, 3, 0, 0];
    const CLASS_SPECIFIC: [u8; 5] = [5, 0x24, 1, 2, 3];
    const ENDPOINT: [u8; 7] = [7, 5, 0x81, 3, 0x08, 0x00, 4];

    fn interface(number: u8, alternate: u8, class: u8) -> [u8; 9] {
        [9, 4, number, alternate, 1, class, 1, 2, 0]
    }

    fn webcam() -> Vec<u8> {
        let (video, stream, stream_on) =
            (interface(0, 0, 0x0e), interface(1, 1, 0x0e), interface(1, 0, 0x0e));
        let parts: [&[u8]; 9] = [
            &DEVICE,
            &CONFIGURATION,
            &ASSOCIATION,
            &video,
            &CLASS_SPECIFIC,
            &ENDPOINT,
            &stream,
            &ENDPOINT,
            &stream_on,
        ];
        parts.concat()
    }

    #[test]
    fn a_whole_configuration_is_read() {
        let parsed = Descriptors::parse(&webcam());
        assert_eq!(parsed.fault, None);
        let device = parsed.device.unwrap();
        assert_eq!((device.vendor_id, device.product_id, device.bcd_device), (0x046d, 0xc52b, 0x1201));
        assert_eq!((device.class, device.bcd_usb, device.serial_number_index), (0xef, 0x0200, 3));
        let configuration = parsed.configuration(Some(1)).unwrap();
        assert_eq!((configuration.value, configuration.attributes, configuration.max_power), (1, 0xa0, 49));
        assert_eq!(configuration.associations[0].interface_count, 2);
        assert_eq!(configuration.settings.len(), 3);
        assert_eq!(configuration.settings[0].endpoints, [Endpoint::parse(&ENDPOINT).unwrap()]);
        let defaults: Vec<_> =
            configuration.default_settings().iter().map(|s| (s.number, s.alternate)).collect();
        assert_eq!(defaults, [(0, 0), (1, 0)]);
    }

    #[test]
    fn the_json_names_are_libusbs() {
        let json = serde_json::to_value(Descriptors::parse(&DEVICE).device.unwrap()).unwrap();
        let names: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
        let mut expected = [
            "bLength",
            "bDescriptorType",
            "bcdUSB",
            "bDeviceClass",
            "bDeviceSubClass",
            "bDeviceProtocol",
            "bMaxPacketSize0",
            "idVendor",
            "idProduct",
            "bcdDevice",
            "iManufacturer",
            "iProduct",
            "iSerialNumber",
            "bNumConfigurations",
        ];
        expected.sort_unstable();
        let mut names = names;
        names.sort_unstable();
        assert_eq!(names, expected);
    }

    #[test]
    fn the_json_names_of_what_belongs_to_a_configuration_are_the_specifications() {
        let bytes = [&DEVICE[..], &CONFIGURATION, &ASSOCIATION, &interface(3, 1, 14), &ENDPOINT].concat();
        let json = serde_json::to_value(Descriptors::parse(&bytes).configurations).unwrap();
        let endpoint =
            json!({"bEndpointAddress": 0x81, "bmAttributes": 3, "wMaxPacketSize": 8, "bInterval": 4});
        let interface = json!({
            "bInterfaceNumber": 3, "bAlternateSetting": 1, "bInterfaceClass": 14, "bInterfaceSubClass": 1,
            "bInterfaceProtocol": 2, "endpoints": [endpoint],
        });
        let association = json!({
            "bFirstInterface": 0, "bInterfaceCount": 2, "bFunctionClass": 14, "bFunctionSubClass": 3,
            "bFunctionProtocol": 0,
        });
        let configuration = json!({
            "bConfigurationValue": 1, "bmAttributes": 0xa0, "bMaxPower": 49, "interfaces": [interface],
            "associations": [association],
        });
        assert_eq!(json, json!([configuration]));
    }

    #[test]
    fn each_fault_is_named_and_what_came_before_is_kept() {
        let check = |bytes: &[u8], fault: Fault, configurations: usize| {
            let parsed = Descriptors::parse(bytes);
            assert_eq!((parsed.fault, parsed.configurations.len()), (Some(fault), configurations));
        };
        check(&CONFIGURATION, Fault::NoDeviceDescriptor, 0);
        check(&DEVICE[..17], Fault::Truncated { offset: 0 }, 0);
        check(&[&DEVICE[..], &[0, 0]].concat(), Fault::TooShort { offset: 18 }, 0);
        check(&[&DEVICE[..], &CONFIGURATION, &[9]].concat(), Fault::Truncated { offset: 27 }, 1);
        check(&[&DEVICE[..], &CONFIGURATION, &[3, 4, 0]].concat(), Fault::TooShort { offset: 27 }, 1);
        check(&[&DEVICE[..], &ENDPOINT].concat(), Fault::Orphan { offset: 18 }, 0);
        check(&[&DEVICE[..], &interface(0, 0, 3)].concat(), Fault::Orphan { offset: 18 }, 0);
        check(&[&DEVICE[..], &CONFIGURATION, &ENDPOINT].concat(), Fault::Orphan { offset: 27 }, 1);
    }

    #[test]
    fn nothing_at_all_is_no_fault() {
        assert_eq!(Descriptors::parse(&[]), Descriptors::default());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            Descriptors::parse(&bytes);
        }

        /// Bytes behind a cut are never looked at: the walk over a prefix finds a prefix of what the whole has.
        #[test]
        fn a_prefix_is_read_like_the_whole(cut in 0usize..80, flips in proptest::collection::vec((0usize..80, any::<u8>()), 0..4)) {
            let mut bytes = webcam();
            for (at, value) in flips {
                if let Some(byte) = bytes.get_mut(at) { *byte = value; }
            }
            let whole = Descriptors::parse(&bytes);
            let part = Descriptors::parse(&bytes[..cut.min(bytes.len())]);
            prop_assert!(part.configurations.len() <= whole.configurations.len());
            for (a, b) in part.configurations.iter().zip(&whole.configurations) {
                prop_assert!(a.settings.len() <= b.settings.len());
                prop_assert_eq!(a.value, b.value);
            }
        }
    }
}
