//! The binary `descriptors` attribute: the device descriptor, then the configuration as the device sent it
//! (USB 2.0, chapter 9.6; USB 3.2, 9.6.7 for the endpoint companion).

use crate::device::{CLASS_MASS_STORAGE, Device, Interface, Speed};

const DEVICE: u8 = 1;
const CONFIGURATION: u8 = 2;
const INTERFACE: u8 = 4;
const ENDPOINT: u8 = 5;
const ENDPOINT_COMPANION: u8 = 0x30;

pub(crate) const CONFIGURATION_ATTRIBUTES: u8 = 0xa0;
const MAX_POWER: u8 = 50; // units of 2 mA; of 8 mA at 5 Gbit/s

/// What the `descriptors` attribute of `device` holds.
pub(crate) fn build(device: &Device) -> Vec<u8> {
    if let Some(raw) = &device.descriptors {
        return raw.clone();
    }
    let mut bytes = device_descriptor(device);
    bytes.extend(configuration(device));
    bytes
}

/// `bMaxPower` in mA.
pub(crate) fn max_power_ma(speed: Speed) -> u16 {
    u16::from(MAX_POWER) * if speed == Speed::Super { 8 } else { 2 }
}

/// `bNumInterfaces`, at most 255.
pub(crate) fn interface_count(device: &Device) -> u8 {
    u8::try_from(device.interfaces.len()).unwrap_or(u8::MAX)
}

fn device_descriptor(device: &Device) -> Vec<u8> {
    let [usb_low, usb_high] = device.speed.bcd_usb().to_le_bytes();
    let mut bytes = vec![18, DEVICE, usb_low, usb_high, device.class, device.subclass, device.protocol];
    bytes.push(device.speed.max_packet_size0());
    for word in [device.vendor, device.product, device.bcd_device] {
        bytes.extend(word.to_le_bytes());
    }
    let strings = [&device.manufacturer, &device.product_name, &device.serial];
    bytes.extend(strings.iter().zip(1..).map(|(string, index)| if string.is_some() { index } else { 0 }));
    bytes.push(1); // bNumConfigurations
    bytes
}

fn configuration(device: &Device) -> Vec<u8> {
    let mut body = Vec::new();
    for (interface, endpoint) in device.interfaces.iter().take(usize::from(u8::MAX)).zip((1..=15).cycle()) {
        body.extend(interface_descriptors(interface, endpoint, device.speed));
    }
    // 255 interfaces of 22 bytes stay far below 65536.
    let total = u16::try_from(9 + body.len()).expect("at most 255 interfaces of 22 bytes each");
    let [low, high] = total.to_le_bytes();
    let mut bytes = vec![9, CONFIGURATION, low, high, interface_count(device), 1, 0];
    bytes.extend([CONFIGURATION_ATTRIBUTES, MAX_POWER]);
    bytes.extend(body);
    bytes
}

fn interface_descriptors(interface: &Interface, endpoint: u8, speed: Speed) -> Vec<u8> {
    let Interface { number, class, subclass, protocol, .. } = *interface;
    let mut bytes = vec![9, INTERFACE, number, 0, 1, class, subclass, protocol, 0];
    let bulk = class == CLASS_MASS_STORAGE;
    let packet: u16 = match (bulk, speed) {
        (false, _) => 8,
        (true, Speed::Low | Speed::Full) => 64,
        (true, Speed::High) => 512,
        (true, Speed::Super) => 1024,
    };
    let [low, high] = packet.to_le_bytes();
    let (transfer, interval) = if bulk { (2, 0) } else { (3, 10) };
    bytes.extend([7, ENDPOINT, 0x80 | endpoint, transfer, low, high, interval]);
    if speed == Speed::Super {
        let per_interval = if bulk { 0 } else { 8 };
        bytes.extend([6, ENDPOINT_COMPANION, 0, 0, per_interval, 0]);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Splits `bytes` by their length bytes; panics where they do not add up.
    fn split(bytes: &[u8]) -> Vec<&[u8]> {
        let mut rest = bytes;
        let mut parts = Vec::new();
        while let [length, ..] = rest {
            let (part, tail) = rest.split_at(usize::from(*length));
            parts.push(part);
            rest = tail;
        }
        parts
    }

    #[test]
    fn receiver_is_byte_for_byte_what_the_specification_lays_out() {
        let expected: &[u8] = &[
            18, 1, 0x00, 0x02, 0, 0, 0, 64, 0x6d, 0x04, 0x2b, 0xc5, 0x01, 0x12, 1, 2, 3, 1, // device
            9, 2, 25, 0, 1, 1, 0, 0xa0, 50, // configuration
            9, 4, 0, 0, 1, 3, 1, 1, 0, // interface
            7, 5, 0x81, 3, 8, 0, 10, // endpoint
        ];
        assert_eq!(build(&Device::receiver()), expected);
    }

    #[test]
    fn lengths_add_up_for_every_speed_and_number_of_interfaces() {
        for speed in [Speed::Low, Speed::Full, Speed::High, Speed::Super] {
            for count in [0u8, 1, 2, 16, 255] {
                let interface = |number| Interface { number, ..Device::storage("S").interfaces[0].clone() };
                let interfaces = (0..count).map(interface).collect();
                let bytes = build(&Device { speed, interfaces, ..Device::storage("S") });
                let parts = split(&bytes);
                assert_eq!(parts[0].len(), 18);
                assert_eq!(usize::from(u16::from_le_bytes([parts[1][2], parts[1][3]])), bytes.len() - 18);
                assert_eq!(parts[1][4], count);
                assert_eq!(parts.iter().filter(|part| part[1] == INTERFACE).count(), usize::from(count));
                assert_eq!(parts.iter().filter(|part| part[1] == ENDPOINT).count(), usize::from(count));
            }
        }
    }

    #[test]
    fn string_indices_are_zero_where_there_is_no_string() {
        let hub = build(&Device::hub());
        assert_eq!(&hub[14..17], [1, 2, 0]);
        let bare = build(&Device::new(1, 2));
        assert_eq!(&bare[14..17], [0, 0, 0]);
    }

    #[test]
    fn raw_descriptors_replace_the_built_ones() {
        let device = Device { descriptors: Some(vec![255, 1]), ..Device::receiver() };
        assert_eq!(build(&device), [255, 1]);
    }
}
