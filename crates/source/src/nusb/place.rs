//! Where a device is, in the words of [`Port`]. Every system has its own.

use ::nusb::DeviceInfo;
use autoweave_usb_device::{Port, PortPath};

/// Where a device is plugged in; none where the system names no place.
pub fn place(info: &DeviceInfo) -> Option<Port> {
    system::place(info)
}

/// The number is the kernel's, as in every other source.
#[cfg(target_os = "linux")]
mod system {
    use super::*;

    pub fn place(info: &DeviceInfo) -> Option<Port> {
        Some(Port { bus: info.busnum(), path: PortPath::new(info.port_chain()).ok()? })
    }
}

/// IOKit's `locationID` is a byte for the bus and a nibble for each port.
#[cfg(target_os = "macos")]
mod system {
    use super::*;

    pub fn place(info: &DeviceInfo) -> Option<Port> {
        from_location(info.location_id())
    }
}

/// Windows names a bus by the path to its root hub.
#[cfg(windows)]
mod system {
    use super::*;
    use std::sync::{Mutex, PoisonError};

    use ::nusb::MaybeFuture as _;

    static BUSES: Mutex<Buses> = Mutex::new(Buses::new());

    pub fn place(info: &DeviceInfo) -> Option<Port> {
        let mut buses = BUSES.lock().unwrap_or_else(PoisonError::into_inner);
        if buses.is_empty() {
            let listed = ::nusb::list_buses().wait().ok()?;
            buses.extend_sorted(listed.map(|bus| bus.bus_id().to_owned()).collect());
        }
        let (bus, chain) = match info.port_chain() {
            // A host controller without a location path, as virtual ones are: its hubs are named by their own ids.
            [] => (info.parent_instance_id().to_string_lossy(), vec![u8::try_from(info.port_number()).ok()?]),
            chain => (info.bus_id().into(), chain.to_vec()),
        };
        Some(Port { bus: buses.number(&bus)?, path: PortPath::new(&chain).ok()? })
    }
}

/// A `locationID` (`IOUSBFamily`). Two numbers in it are none that a [`Port`] can have: the first bus of Apple silicon
/// is 0, here 255, and a port nibble of 0 before others that are not stands for a port beyond the 15 that fit, here 16.
#[cfg(any(target_os = "macos", test))]
fn from_location(location: u32) -> Option<Port> {
    let [bus, rest @ ..] = location.to_be_bytes();
    let mut ports: Vec<u8> = rest.into_iter().flat_map(|byte| [byte >> 4, byte & 15]).collect();
    while ports.last() == Some(&0) {
        ports.pop();
    }
    ports.iter_mut().filter(|port| **port == 0).for_each(|port| *port = 16);
    Some(Port { bus: if bus == 0 { 255 } else { bus }, path: PortPath::new(&ports).ok()? })
}

/// Numbers for buses that have names only: those there at the start in the order of their names, so that they have the
/// same in the next run; others as they come.
#[cfg(any(windows, test))]
struct Buses(Vec<String>);

#[cfg(any(windows, test))]
impl Buses {
    const fn new() -> Self {
        Self(Vec::new())
    }

    #[cfg(windows)]
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn extend_sorted(&mut self, mut names: Vec<String>) {
        names.sort();
        for name in names {
            // Those beyond the 255th have no number.
            let _ = self.number(&name);
        }
    }

    /// From 1; none for the 256th.
    fn number(&mut self, name: &str) -> Option<u8> {
        let known = self.0.iter().position(|known| known == name);
        let index = known.unwrap_or(self.0.len());
        let number = u8::try_from(index + 1).ok()?;
        if known.is_none() {
            self.0.push(name.to_owned());
        }
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_of_macos_are_ports() {
        for (location, port) in [
            (0x1410_0000, "20-1"),
            (0x1412_3000, "20-1.2.3"),
            (0x1400_0000, "usb20"),
            (0x0010_0000, "255-1"),
            (0x0204_0100, "2-16.4.16.1"),
            (0x0123_4567, "1-2.3.4.5.6.7"),
        ] {
            assert_eq!(from_location(location).unwrap().to_string(), port, "{location:#010x}");
        }
    }

    #[test]
    fn buses_keep_their_numbers_whatever_comes() {
        let mut buses = Buses::new();
        buses.extend_sorted(vec!["b".to_owned(), "a".to_owned()]);
        assert_eq!(["b", "c", "a"].map(|name| buses.number(name)), [Some(2), Some(3), Some(1)]);
        for number in 4..=255 {
            assert_eq!(buses.number(&format!("more {number}")), Some(number));
        }
        assert_eq!((buses.number("one too many"), buses.number("c")), (None, Some(3)));
    }
}
