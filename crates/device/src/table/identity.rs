//! The name a device goes by while it is connected.

use super::{Change, DeviceTable, Port, Reading};

impl DeviceTable {
    /// `vid:pid:serial`, or `vid:pid@port` without a serial number. A name that another connected device has
    /// gets `@port` appended until nobody else has it: serial numbers repeat, and a device may choose its own
    /// so as to look like another's name.
    pub(super) fn identify(&mut self, reading: &Reading, out: &mut Vec<Change>) -> String {
        let Reading { port, vendor_id, product_id, .. } = reading;
        let serial = reading.serial_number.as_ref().map(|bytes| String::from_utf8_lossy(&bytes.0));
        let mut name = match serial.as_deref().map(str::trim).filter(|serial| !serial.is_empty()) {
            Some(serial) => format!("{vendor_id:04x}:{product_id:04x}:{serial}"),
            None => format!("{vendor_id:04x}:{product_id:04x}@{port}"),
        };
        while self.is_taken(&name, *port) {
            name = format!("{name}@{port}");
        }
        // Whoever had the name and is gone must be known to be gone before its name comes back.
        for other in self.published_as(&name, *port) {
            if self.is_held {
                self.detach_held(other, out);
            } else {
                self.close_window(other, out);
            }
        }
        name
    }

    fn is_taken(&self, name: &str, by_other_than: Port) -> bool {
        self.ports.iter().any(|(port, state)| {
            *port != by_other_than && state.present.as_ref().is_some_and(|device| device.device_id == name)
        })
    }

    fn published_as(&self, name: &str, by_other_than: Port) -> Vec<Port> {
        let named = self.ports.iter().filter(|(port, state)| {
            **port != by_other_than && state.published.as_ref().is_some_and(|device| device.device_id == name)
        });
        named.map(|(port, _)| *port).collect()
    }
}
