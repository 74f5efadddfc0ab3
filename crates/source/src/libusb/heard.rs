//! What the callbacks say. They run while libusb holds locks: nothing here waits, does I/O or can panic.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::thread::Thread;

use autoweave_usb_device::{HexBytes, InterfaceReading, Moment, Port, PortPath, Reading, Speed};
use rusb::{Context, Device, DeviceDescriptor, Error, Hotplug, Version};

use crate::clock;

/// `bLength` and `bDescriptorType` of a device descriptor (USB 2.0 §9.6.1).
const DEVICE_DESCRIPTOR: [u8; 2] = [18, 1];

/// Root hubs are the first device on their bus.
const ROOT_ADDRESS: u8 = 1;

/// What a callback said. libusb may not know the port.
#[derive(Debug)]
pub enum Heard {
    /// A device came; what libusb knows of it.
    Arrived { at: Moment, place: Place, bare: Option<Box<Reading>> },
    /// A device went.
    Left { at: Moment, place: Place, port: Option<Port> },
    /// libusb cannot go on.
    Failed(Error),
}

/// Bus and address, by which libusb tells devices apart.
pub type Place = (u8, u8);

/// Takes the callbacks.
#[derive(Debug)]
pub struct Callback {
    heard: SyncSender<Heard>,
    observer: Thread,
    missed: Arc<AtomicU64>,
}

impl Callback {
    /// Callbacks that put what they say into `heard` and wake `observer`.
    pub fn new(heard: SyncSender<Heard>, observer: Thread) -> Self {
        Self { heard, observer, missed: Arc::default() }
    }

    /// How many callbacks found no room.
    pub fn missed(&self) -> Arc<AtomicU64> {
        self.missed.clone()
    }

    fn say(&self, heard: Heard) {
        if self.heard.try_send(heard).is_err() {
            self.missed.fetch_add(1, Ordering::SeqCst);
        }
        self.observer.unpark();
    }
}

impl Hotplug<Context> for Callback {
    fn device_arrived(&mut self, device: Device<Context>) {
        let (at, bare) = (clock::now(), reading(&device).map(Box::new));
        self.say(Heard::Arrived { at, place: place(&device), bare });
    }

    fn device_left(&mut self, device: Device<Context>) {
        self.say(Heard::Left { at: clock::now(), place: place(&device), port: port(&device) });
    }
}

fn place(device: &Device<Context>) -> Place {
    (device.bus_number(), device.address())
}

/// Everything that libusb knows of a device without opening it, which it keeps in memory.
pub fn reading(device: &Device<Context>) -> Option<Reading> {
    let descriptor = device.device_descriptor().ok()?;
    let (vendor_id, product_id) = (descriptor.vendor_id(), descriptor.product_id());
    Some(Reading {
        speed: speed(device.speed()),
        descriptors: HexBytes(bytes(&descriptor)),
        interfaces: interfaces(device, &descriptor),
        ..Reading::bare(port(device)?, device.address(), vendor_id, product_id, Some(descriptor.class_code()))
    })
}

fn port(device: &Device<Context>) -> Option<Port> {
    // Without its hub, which libusb missed or has forgotten, a device's chain of ports has no beginning.
    if cfg!(target_os = "linux") {
        let mut top = device.clone();
        while let Some(hub) = top.get_parent() {
            top = hub;
        }
        if top.port_number() != 0 {
            return None;
        }
    }
    port_of(device.bus_number(), &device.port_numbers().ok()?, device.address())
}

/// libusb gives no ports for a root hub, but neither for a device it could not place.
fn port_of(bus: u8, ports: &[u8], address: u8) -> Option<Port> {
    let is_placed = bus > 0 && (!ports.is_empty() || address == ROOT_ADDRESS);
    let path = PortPath::new(ports).ok()?;
    is_placed.then_some(Port { bus, path })
}

fn speed(speed: rusb::Speed) -> Option<Speed> {
    let mbps = match speed {
        rusb::Speed::Low => "1.5",
        rusb::Speed::Full => "12",
        rusb::Speed::High => "480",
        rusb::Speed::Super => "5000",
        rusb::Speed::SuperPlus => "10000",
        _ => return None,
    };
    Speed::parse(mbps)
}

/// The device descriptor as on the bus.
fn bytes(descriptor: &DeviceDescriptor) -> Vec<u8> {
    let index = |index: Option<u8>| index.unwrap_or(0);
    let mut bytes = DEVICE_DESCRIPTOR.to_vec();
    bytes.extend(bcd(descriptor.usb_version()));
    bytes.extend([
        descriptor.class_code(),
        descriptor.sub_class_code(),
        descriptor.protocol_code(),
        descriptor.max_packet_size(),
    ]);
    bytes.extend(descriptor.vendor_id().to_le_bytes());
    bytes.extend(descriptor.product_id().to_le_bytes());
    bytes.extend(bcd(descriptor.device_version()));
    bytes.extend([
        index(descriptor.manufacturer_string_index()),
        index(descriptor.product_string_index()),
        index(descriptor.serial_number_string_index()),
        descriptor.num_configurations(),
    ]);
    bytes
}

/// Undoes [`Version::from_bcd`], which is not exact for what is no decimal digit: `0xff00` becomes major 165.
fn bcd(Version(major, minor, sub_minor): Version) -> [u8; 2] {
    let tens = (major / 10).min(0xf);
    let ones = major - 10 * tens;
    [minor << 4 | sub_minor, tens << 4 | ones]
}

/// Where there is one configuration, it is the active one.
fn interfaces(device: &Device<Context>, descriptor: &DeviceDescriptor) -> Vec<InterfaceReading> {
    if descriptor.num_configurations() != 1 {
        return Vec::new();
    }
    let Ok(configuration) = device.config_descriptor(0) else { return Vec::new() };
    let setting = |interface: rusb::Interface<'_>| {
        let setting = interface.descriptors().next()?;
        Some(InterfaceReading {
            number: setting.interface_number(),
            class: setting.class_code(),
            subclass: setting.sub_class_code(),
            protocol: setting.protocol_code(),
            driver: None,
        })
    };
    configuration.interfaces().filter_map(setting).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn ports_are_named_as_sysfs_names_them() {
        let name = |bus, ports: &[u8], address| port_of(bus, ports, address).map(|port| port.to_string());
        assert_eq!(name(1, &[], 1).as_deref(), Some("usb1"));
        assert_eq!(name(1, &[4], 5).as_deref(), Some("1-4"));
        assert_eq!(name(3, &[1, 2, 3, 4, 5, 6, 7], 9).as_deref(), Some("3-1.2.3.4.5.6.7"));
    }

    #[test]
    fn what_has_no_place_gets_none() {
        assert_eq!(port_of(0, &[1], 2), None, "there is no bus 0");
        assert_eq!(port_of(1, &[], 2), None, "only the first device on a bus is its root hub");
        assert_eq!(port_of(1, &[1, 0], 2), None);
        assert_eq!(port_of(1, &[1; 8], 2), None);
    }

    #[test]
    fn versions_are_what_they_were_on_the_bus() {
        for raw in [0x0200_u16, 0x0310, 0x1234, 0x9999, 0xff00, 0xfa5c, 0x0001] {
            assert_eq!(bcd(Version::from_bcd(raw)), raw.to_le_bytes(), "{raw:04x}");
        }
    }

    #[test]
    fn a_callback_without_room_is_counted_and_does_not_wait() {
        let (sender, heard) = mpsc::sync_channel(2);
        let callback = Callback::new(sender, thread::current());
        for _ in 0..5 {
            callback.say(Heard::Left { at: clock::now(), place: (1, 5), port: None });
        }
        drop(heard);
        callback.say(Heard::Left { at: clock::now(), place: (1, 6), port: None });
        assert_eq!(callback.missed().load(Ordering::SeqCst), 4);
    }
}
