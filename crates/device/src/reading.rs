//! What was read of a device, before anyone made sense of it. This is what recordings hold.

use serde::{Deserialize, Serialize};

use crate::{HexBytes, Port, Speed};

/// Everything a source could read of one connected device, as bytes and numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// Where it is plugged in.
    pub port: Port,
    /// Its address on the bus (`devnum`), 1 to 127. Reused after 127 plugs: no identity by itself.
    pub address: u8,
    /// `idVendor`.
    #[serde(with = "crate::hex::id")]
    pub vendor_id: u16,
    /// `idProduct`.
    #[serde(with = "crate::hex::id")]
    pub product_id: u16,
    /// `bDeviceClass`.
    pub class: Option<u8>,
    /// The speed it was enumerated at.
    pub speed: Option<Speed>,
    /// The string behind `iManufacturer`.
    pub manufacturer: Option<HexBytes>,
    /// The string behind `iProduct`.
    pub product: Option<HexBytes>,
    /// The string behind `iSerialNumber`.
    pub serial_number: Option<HexBytes>,
    /// The device descriptor and then every configuration's, as on the bus; empty when it could not be read.
    pub descriptors: HexBytes,
    /// `bConfigurationValue` of the active configuration.
    pub configuration: Option<u8>,
    /// The interfaces the operating system has made. They come after the device.
    pub interfaces: Vec<InterfaceReading>,
}

/// An interface as the operating system shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceReading {
    /// `bInterfaceNumber`.
    pub number: u8,
    /// `bInterfaceClass`.
    pub class: u8,
    /// `bInterfaceSubClass`.
    pub subclass: u8,
    /// `bInterfaceProtocol`.
    pub protocol: u8,
    /// The driver bound to it.
    pub driver: Option<String>,
}

impl Reading {
    /// A reading with nothing but what every message about a device carries.
    pub fn bare(port: Port, address: u8, vendor_id: u16, product_id: u16, class: Option<u8>) -> Self {
        Self {
            port,
            address,
            vendor_id,
            product_id,
            class,
            speed: None,
            manufacturer: None,
            product: None,
            serial_number: None,
            descriptors: HexBytes::default(),
            configuration: None,
            interfaces: Vec::new(),
        }
    }

    /// Whether the device itself was read, and not only a message about it.
    pub fn is_complete(&self) -> bool {
        !self.descriptors.0.is_empty()
    }
}
