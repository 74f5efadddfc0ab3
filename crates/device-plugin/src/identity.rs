//! What a device is known by to the kubelet: the same over replugs.

use autoweave_usb_device::{Device, HexBytes, Port};
use sha2::{Digest, Sha256};

/// The kubelet's limit of an id (`api.proto`, `Device.ID`).
pub const ID_BYTES_MAX: usize = 63;

/// The length of `046d:0825`.
const MODEL_BYTES: usize = 9;

/// A device that was given an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// What it says of itself: model and serial number, or model and port.
    pub identity: String,
    /// Where it is, or was last.
    pub port: Port,
    /// The identity, or [`Self::in_port`]'s.
    pub id: String,
}

impl Named {
    /// The only device of its identity, which is its id.
    pub fn alone(identity: String, port: Port) -> Self {
        Self { id: identity.clone(), identity, port }
    }

    /// One of several with the same serial number, whose id has the port: `046d:0825:S@1-2`, or `046d:0825#HASH@1-2` where
    /// that is too long.
    pub fn in_port(identity: String, port: Port) -> Self {
        let mut id = format!("{identity}@{port}");
        if id.len() > ID_BYTES_MAX {
            // An identity is ASCII and begins with the model.
            id = format!("{}#{}@{port}", &identity[..MODEL_BYTES], hash(identity.as_bytes()));
        }
        Self { identity, port, id }
    }

    /// Whether the id says nothing of a port, unless the identity does.
    pub fn is_alone(&self) -> bool {
        self.id == self.identity
    }
}

/// What is the same when a device is plugged in again, at most 63 bytes of ASCII: `046d:0825:SERIAL`, or `046d:0825@1-2`
/// without a serial number, as the device is called in events. A serial number that is too long, or of more than
/// letters, digits and `-_.+`, shows as `#` and part of its hash, so that none can look like another's id.
pub fn identity(device: &Device) -> String {
    let raw = device.raw_strings.as_ref().and_then(|raw| raw.serial_number.as_ref());
    let serial = match (raw, &device.serial_number) {
        (Some(bytes), _) => bytes.0.trim_ascii(),
        (None, Some(text)) => text.trim().as_bytes(),
        (None, None) => &[],
    };
    let model = format!("{:04x}:{:04x}", device.vendor_id, device.product_id);
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.+".contains(byte);
    if serial.is_empty() {
        format!("{model}@{}", device.port())
    } else if model.len() + 1 + serial.len() <= ID_BYTES_MAX && serial.iter().all(is_plain) {
        format!("{model}:{}", String::from_utf8_lossy(serial))
    } else {
        format!("{model}#{}", hash(serial))
    }
}

/// What stands for `bytes` in a name: 64 bits of their SHA-256.
pub fn hash(bytes: &[u8]) -> HexBytes {
    HexBytes(Sha256::digest(bytes)[..8].to_vec())
}

#[cfg(test)]
mod tests {
    use autoweave_usb_device::Reading;

    use super::*;

    fn identity_of(port: &str, serial: Option<&[u8]>) -> String {
        let mut reading = Reading::bare(port.parse().unwrap(), 5, 0x046d, 0xc52b, None);
        reading.serial_number = serial.map(|bytes| HexBytes(bytes.to_vec()));
        identity(&Device::new(&reading, String::new()))
    }

    #[test]
    fn ids_are_those_of_events_where_they_can_be() {
        assert_eq!(identity_of("1-1.2", Some(b" ABC123 ")), "046d:c52b:ABC123");
        assert_eq!(identity_of("1-1.2", None), "046d:c52b@1-1.2");
        assert_eq!(identity_of("1-1.2", Some(b"  ")), "046d:c52b@1-1.2");
        assert_eq!(identity_of("1-1.2", Some(b"S")), identity_of("2-3", Some(b"S")));
        let port = "1-1.2".parse().unwrap();
        assert_eq!(Named::in_port(identity_of("1-1.2", Some(b"S")), port).id, "046d:c52b:S@1-1.2");
    }

    #[test]
    fn no_serial_number_makes_an_id_that_is_long_odd_or_anothers() {
        let deepest = "255-255.255.255.255.255.255.255".parse().unwrap();
        let serials: [&[u8]; 7] =
            [b"a b", b"S@1-1.2", b"\xff\x1b", b"\xfe\x1b", "é".as_bytes(), &[b'x'; 126], &[b'x'; 53]];
        let identities = serials.map(|serial| identity_of("1-1.2", Some(serial)));
        let in_port = identities.clone().map(|identity| Named::in_port(identity, deepest).id);
        assert!(identities[..6].iter().chain(&in_port).all(|id| id.starts_with("046d:c52b#")));
        let mut ids = [identities, in_port].concat();
        assert!(ids.iter().all(|id| id.is_ascii() && id.len() <= ID_BYTES_MAX), "{ids:?}");
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 2 * serials.len());
    }
}
