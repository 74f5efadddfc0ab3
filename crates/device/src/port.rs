//! Where a device is plugged in: the bus and the chain of hub ports that leads to it.
//!
//! Named as Linux sysfs does (`Documentation/ABI/stable/sysfs-bus-usb`, `drivers/usb/core/usb.c`):
//! `usb1` is the root hub of bus 1, `1-4.2` the device in port 2 of the hub in port 4 of that root hub.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// USB 3.2 §10.1 allows five hubs between the root hub and a device, so six ports; libusb and the kernel
/// leave room for a seventh.
const DEPTH_MAX: usize = 7;

/// The chain of hub ports from the root hub to a device. Empty for the root hub itself.
///
/// Sorts a hub before everything below it.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortPath {
    // Port numbers start at 1, so the zeroes behind the last one make a prefix sort first.
    ports: [u8; DEPTH_MAX],
    depth: u8,
}

/// A place on the machine's USB: a bus and a chain of hub ports. At most one device is there at a time.
///
/// Sorts a hub before everything below it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port {
    /// The bus, from 1 (`busnum`).
    pub bus: u8,
    /// The way from the root hub.
    pub path: PortPath,
}

/// The text names no port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsePortError;

impl PortPath {
    /// The root hub's own place.
    pub const ROOT: Self = Self { ports: [0; DEPTH_MAX], depth: 0 };

    /// The chain `ports`, counted from the root hub.
    ///
    /// # Errors
    /// More than seven ports, or a port 0.
    pub fn new(ports: &[u8]) -> Result<Self, ParsePortError> {
        if ports.len() > DEPTH_MAX || ports.contains(&0) {
            return Err(ParsePortError);
        }
        let mut path = Self::ROOT;
        path.ports[..ports.len()].copy_from_slice(ports);
        path.depth = u8::try_from(ports.len()).map_err(|_| ParsePortError)?;
        Ok(path)
    }

    /// The port numbers, from the root hub outwards.
    pub fn ports(&self) -> &[u8] {
        &self.ports[..usize::from(self.depth)]
    }
}

impl Port {
    /// The root hub of `bus`.
    pub fn root(bus: u8) -> Self {
        Self { bus, path: PortPath::ROOT }
    }

    /// The hub this port belongs to; none for a root hub.
    pub fn parent(self) -> Option<Self> {
        let (_, up) = self.path.ports().split_last()?;
        Some(Self { bus: self.bus, path: PortPath::new(up).ok()? })
    }

    /// Whether this port hangs, directly or not, below `hub`.
    pub fn is_below(self, hub: Self) -> bool {
        self.bus == hub.bus
            && self.path.depth > hub.path.depth
            && self.path.ports().starts_with(hub.path.ports())
    }
}

impl fmt::Display for PortPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ports = self.ports().iter();
        match ports.next() {
            None => return f.write_str("0"),
            Some(first) => write!(f, "{first}")?,
        }
        ports.try_for_each(|port| write!(f, ".{port}"))
    }
}

impl FromStr for PortPath {
    type Err = ParsePortError;

    fn from_str(text: &str) -> Result<Self, ParsePortError> {
        if text == "0" {
            return Ok(Self::ROOT);
        }
        let mut ports = [0; DEPTH_MAX];
        let mut depth = 0;
        for part in text.split('.') {
            *ports.get_mut(depth).ok_or(ParsePortError)? = decimal(part)?;
            depth += 1;
        }
        Self::new(&ports[..depth])
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path == PortPath::ROOT {
            f.pad(&format!("usb{}", self.bus))
        } else {
            f.pad(&format!("{}-{}", self.bus, self.path))
        }
    }
}

impl FromStr for Port {
    type Err = ParsePortError;

    fn from_str(text: &str) -> Result<Self, ParsePortError> {
        if let Some(bus) = text.strip_prefix("usb") {
            return Ok(Self::root(decimal(bus)?));
        }
        let (bus, path) = text.split_once('-').ok_or(ParsePortError)?;
        let path: PortPath = path.parse()?;
        if path == PortPath::ROOT {
            return Err(ParsePortError);
        }
        Ok(Self { bus: decimal(bus)?, path })
    }
}

/// A number from 1 to 255 written as the kernel writes it: no sign, no leading zero, so that every port has
/// one name only.
fn decimal(text: &str) -> Result<u8, ParsePortError> {
    if !text.starts_with(|first: char| first.is_ascii_digit() && first != '0') {
        return Err(ParsePortError);
    }
    text.parse().map_err(|_| ParsePortError)
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for PortPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ParsePortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a USB port (expected a name such as 1-4.2 or usb1)")
    }
}

impl std::error::Error for ParsePortError {}

macro_rules! serde_as_text {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(D::Error::custom)
            }
        }
    };
}

serde_as_text!(Port);
serde_as_text!(PortPath);

#[cfg(test)]
mod tests {
    use super::*;

    fn port(text: &str) -> Port {
        text.parse().unwrap()
    }

    #[test]
    fn names_survive_the_round_trip() {
        for name in ["usb1", "usb12", "1-1", "3-1.2.3", "255-255.255.255.255.255.255.255"] {
            assert_eq!(port(name).to_string(), name);
        }
    }

    #[test]
    fn what_is_no_port_is_refused() {
        for name in [
            "",
            "usb",
            "usb0",
            "1",
            "1-",
            "-1",
            "1-0",
            "1-1.",
            "1-1..2",
            "1-1:1.0",
            "01-1",
            "1-01",
            "+1-1",
            "1-256",
            "256-1",
            "1-1.2.3.4.5.6.7.8",
            "usb1.0",
            "1-1 ",
            "ep_00",
        ] {
            assert_eq!(name.parse::<Port>(), Err(ParsePortError), "{name:?}");
        }
    }

    #[test]
    fn a_hub_sorts_before_what_hangs_below_it() {
        let mut ports = ["1-1.2", "2-1", "1-10", "1-1", "usb2", "1-2", "usb1", "1-1.2.1"].map(port);
        ports.sort();
        assert_eq!(ports, ["usb1", "1-1", "1-1.2", "1-1.2.1", "1-2", "1-10", "usb2", "2-1"].map(port));
    }

    #[test]
    fn below_and_parent_agree() {
        assert!(port("1-1.2").is_below(port("1-1")) && port("1-1").is_below(port("usb1")));
        assert!(!port("1-1").is_below(port("1-1")) && !port("1-10").is_below(port("1-1")));
        assert!(!port("2-1.2").is_below(port("1-1")));
        assert_eq!(port("1-1.2").parent(), Some(port("1-1")));
        assert_eq!(port("1-1").parent(), Some(port("usb1")));
        assert_eq!(port("usb1").parent(), None);
    }
}
