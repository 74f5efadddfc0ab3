//! What nusb knows of a device becomes a [`Reading`].

use ::nusb::DeviceInfo;
use autoweave_usb_device::{HexBytes, InterfaceReading, Reading, Speed};

use super::place::place;

/// What is known of a device without asking it; none if it has no place that could be named.
pub fn read(info: &DeviceInfo) -> Option<Reading> {
    let bytes = |text: Option<&str>| text.map(|text| HexBytes(text.as_bytes().to_vec()));
    let interfaces = info.interfaces().map(|interface| InterfaceReading {
        number: interface.interface_number(),
        class: interface.class(),
        subclass: interface.subclass(),
        protocol: interface.protocol(),
        driver: driver(info),
    });
    let place = place(info)?;
    Some(Reading {
        speed: info.speed().and_then(speed),
        manufacturer: bytes(info.manufacturer_string()),
        product: bytes(info.product_string()),
        serial_number: bytes(info.serial_number()),
        descriptors: descriptors(info),
        interfaces: interfaces.collect(),
        ..Reading::bare(place, info.device_address(), info.vendor_id(), info.product_id(), Some(info.class()))
    })
}

fn speed(speed: ::nusb::Speed) -> Option<Speed> {
    use ::nusb::Speed as Signalling;

    Speed::parse(match speed {
        Signalling::Low => "1.5",
        Signalling::Full => "12",
        Signalling::High => "480",
        Signalling::Super => "5000",
        // 20 Gb/s have no name of their own there.
        Signalling::SuperPlus => "10000",
        _ => return None,
    })
}

/// The kernel keeps them in sysfs.
#[cfg(target_os = "linux")]
fn descriptors(info: &DeviceInfo) -> HexBytes {
    HexBytes(crate::linux::descriptors(info.sysfs_path()).unwrap_or_default())
}

#[cfg(not(target_os = "linux"))]
fn descriptors(_: &DeviceInfo) -> HexBytes {
    HexBytes::default()
}

/// The driver of the whole device is that of its interfaces, unless it is the one that divides it among others.
#[cfg(windows)]
fn driver(info: &DeviceInfo) -> Option<String> {
    info.driver().filter(|driver| !driver.eq_ignore_ascii_case("usbccgp")).map(str::to_owned)
}

#[cfg(not(windows))]
fn driver(_: &DeviceInfo) -> Option<String> {
    None
}
