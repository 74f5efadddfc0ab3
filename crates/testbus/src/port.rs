//! Where a device sits: `usb1` is the root hub of bus 1, `1-1.2` the second port of the hub in its first port.

use std::{fmt, io};

/// Hubs nest at most five deep below the root hub, so a device has at most six port numbers (USB 2.0, 4.1.1).
const DEPTH_MAX: usize = 6;

/// A place on the buses, ordered by bus and then along the chain of ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Port {
    pub(crate) bus: u8,
    /// Port numbers from the root hub down; empty for the root hub itself.
    chain: Vec<u8>,
}

impl Port {
    pub(crate) fn root(bus: u8) -> Self {
        Self { bus, chain: Vec::new() }
    }

    /// Reads the name the kernel gives a device in `/sys/bus/usb/devices`.
    ///
    /// # Errors
    /// `InvalidInput` for anything that the kernel would not write.
    pub(crate) fn parse(name: &str) -> io::Result<Self> {
        let parsed = match name.split_once('-') {
            None => name.strip_prefix("usb").and_then(|bus| bus.parse().ok()).map(Self::root),
            Some((bus, ports)) => {
                let chain: Result<Vec<u8>, _> = ports.split('.').map(str::parse).collect();
                bus.parse().ok().zip(chain.ok()).map(|(bus, chain)| Self { bus, chain })
            }
        };
        let valid = |port: &Self| port.bus > 0 && port.chain.len() <= DEPTH_MAX && !port.chain.contains(&0);
        // Comparing with the written form refuses `01-1` and `1-+1`, which the number parser lets through.
        parsed.filter(|port| valid(port) && port.to_string() == name).ok_or_else(|| {
            let text = format!(
                "{name:?} is no USB port: expected usbBUS or BUS-PORT[.PORT…], at most {DEPTH_MAX} ports"
            );
            io::Error::new(io::ErrorKind::InvalidInput, text)
        })
    }

    pub(crate) fn is_root(&self) -> bool {
        self.chain.is_empty()
    }

    /// The hub this port belongs to; `None` for a root hub.
    pub(crate) fn parent(&self) -> Option<Self> {
        let (_, rest) = self.chain.split_last()?;
        Some(Self { bus: self.bus, chain: rest.to_vec() })
    }

    /// The chain as the `devpath` attribute has it: `1.2`, or `0` for a root hub.
    pub(crate) fn chain_text(&self) -> String {
        if self.is_root() {
            return "0".into();
        }
        self.chain.iter().map(u8::to_string).collect::<Vec<_>>().join(".")
    }

    /// Name of the interface directory: `1-1.2:1.0`, and `1-0:1.0` for a root hub.
    pub(crate) fn interface_name(&self, number: u8) -> String {
        format!("{}-{}:1.{number}", self.bus, self.chain_text())
    }

    /// PCI address of the bus's controller: one controller for each bus.
    pub(crate) fn controller(&self) -> String {
        format!("0000:{:02x}:14.0", self.bus - 1)
    }

    /// DEVPATH: the directory below `/sys`.
    pub(crate) fn devpath(&self) -> String {
        let mut path = format!("/devices/pci0000:00/{}/usb{}", self.controller(), self.bus);
        for depth in 1..=self.chain.len() {
            let hub = Self { bus: self.bus, chain: self.chain[..depth].to_vec() };
            path.push('/');
            path.push_str(&hub.to_string());
        }
        path
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_root() {
            true => write!(f, "usb{}", self.bus),
            false => write!(f, "{}-{}", self.bus, self.chain_text()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_the_kernel_writes() {
        for name in ["usb1", "usb255", "1-1", "2-1.2", "255-255.255.1.1.1.1"] {
            assert_eq!(Port::parse(name).unwrap().to_string(), name);
        }
        for name in ["", "usb", "usb0", "usb01", "1", "1-", "1-0", "0-1", "01-1", "1-+1", "1-1.", "1-256"] {
            assert_eq!(Port::parse(name).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{name}");
        }
        assert!(Port::parse("1-1.1.1.1.1.1.1").is_err(), "seven ports");
    }

    #[test]
    fn a_devpath_holds_every_hub_on_the_way() {
        let port = Port::parse("1-1.2").unwrap();
        assert_eq!(port.devpath(), "/devices/pci0000:00/0000:00:14.0/usb1/1-1/1-1.2");
        assert_eq!(port.interface_name(0), "1-1.2:1.0");
        assert_eq!(Port::root(1).interface_name(0), "1-0:1.0");
        assert_eq!(port.parent().unwrap().parent().unwrap(), Port::root(1));
    }
}
