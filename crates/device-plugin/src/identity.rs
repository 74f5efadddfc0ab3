//! What a device is known by to the kubelet: the same over replugs.

use autoweave_usb_device::{Device, HexBytes, Port};
use sha2::{Digest, Sha256};

/// The kubelet's limit of an id (`api.proto`, `Device.ID`).
const ID_BYTES_MAX: usize = 63;

/// What is the same when a device is plugged in again: its serial number, or where it has none the port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    vendor_id: u16,
    product_id: u16,
    known_by: KnownBy,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum KnownBy {
    Serial(Vec<u8>),
    Port(Port),
}

impl Identity {
    /// The identity of `device`.
    pub fn of(device: &Device) -> Self {
        let raw = device.raw_strings.as_ref().and_then(|raw| raw.serial_number.as_ref());
        let serial = match (raw, &device.serial_number) {
            (Some(bytes), _) => bytes.0.trim_ascii(),
            (None, Some(text)) => text.trim().as_bytes(),
            (None, None) => &[],
        };
        let known_by =
            if serial.is_empty() { KnownBy::Port(device.port()) } else { KnownBy::Serial(serial.to_vec()) };
        Self { vendor_id: device.vendor_id, product_id: device.product_id, known_by }
    }

    /// The id: `vid:pid:serial`, or `vid:pid@port` without a serial number, as the device is called in events. A serial
    /// number that is too long, or of more than letters, digits and `-_.+`, shows as `#` and half of its hash, so
    /// that none can look like another's id.
    pub fn id(&self) -> String {
        let model = self.model();
        match &self.known_by {
            KnownBy::Port(port) => format!("{model}@{port}"),
            KnownBy::Serial(serial) => named(&model, serial, ""),
        }
    }

    /// The id of one more device with the same serial number, in `port`.
    pub fn id_in(&self, port: Port) -> String {
        match &self.known_by {
            KnownBy::Port(_) => self.id(),
            KnownBy::Serial(serial) => named(&self.model(), serial, &format!("@{port}")),
        }
    }

    fn model(&self) -> String {
        format!("{:04x}:{:04x}", self.vendor_id, self.product_id)
    }
}

fn named(model: &str, serial: &[u8], suffix: &str) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.+".contains(byte);
    let length = model.len() + 1 + serial.len() + suffix.len();
    if length <= ID_BYTES_MAX && serial.iter().all(is_plain) {
        format!("{model}:{}{suffix}", String::from_utf8_lossy(serial))
    } else {
        let digest = HexBytes(Sha256::digest(serial)[..8].to_vec());
        format!("{model}#{digest}{suffix}")
    }
}

#[cfg(test)]
mod tests {
    use autoweave_usb_device::Reading;

    use super::*;

    fn identity(port: &str, serial: Option<&[u8]>) -> Identity {
        let mut reading = Reading::bare(port.parse().unwrap(), 5, 0x046d, 0xc52b, None);
        reading.serial_number = serial.map(|bytes| HexBytes(bytes.to_vec()));
        Identity::of(&Device::new(&reading, String::new()))
    }

    #[test]
    fn ids_are_those_of_events_where_they_can_be() {
        assert_eq!(identity("1-1.2", Some(b" ABC123 ")).id(), "046d:c52b:ABC123");
        assert_eq!(identity("1-1.2", None).id(), "046d:c52b@1-1.2");
        assert_eq!(identity("1-1.2", Some(b"  ")).id(), "046d:c52b@1-1.2");
        assert_eq!(identity("1-1.2", Some(b"S")), identity("2-3", Some(b"S")));
        let port = "1-1.2".parse().unwrap();
        assert_eq!(identity("1-1.2", Some(b"S")).id_in(port), "046d:c52b:S@1-1.2");
    }

    #[test]
    fn no_serial_number_makes_an_id_that_is_long_odd_or_anothers() {
        let deepest = "255-255.255.255.255.255.255.255".parse().unwrap();
        let serials: [&[u8]; 6] =
            [b"a b", b"S@1-1.2", b"\xff\x1b", b"\xfe\x1b", "é".as_bytes(), &[b'x'; 126]];
        let mut ids: Vec<String> =
            serials.iter().map(|serial| identity("1-1.2", Some(serial)).id_in(deepest)).collect();
        for id in &ids {
            assert!(id.len() <= ID_BYTES_MAX && id.starts_with("046d:c52b#"), "{id}");
        }
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), serials.len());
    }
}
