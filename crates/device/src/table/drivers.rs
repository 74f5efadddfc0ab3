//! Which driver has which interface. The kernel takes the drivers off a device before it says that the device has left
//! (`usb_disconnect`, drivers/usb/core/hub.c): the detach tells which they were all the same.

use super::{Change, DeviceTable};
use crate::{Device, Moment, Port};

/// How long before a departure drivers let go because of it, in milliseconds: the kernel waits for each in turn.
const LEAVING_MS: u64 = 5_000;

/// A driver that let go of an interface.
#[derive(Debug)]
pub(super) struct Released {
    interface: u8,
    driver: String,
    at_ms: u64,
}

impl DeviceTable {
    /// A driver took an interface, or let go of it.
    pub(super) fn bound(
        &mut self,
        (port, interface): (Port, u8),
        driver: Option<&str>,
        at: Moment,
        out: &mut Vec<Change>,
    ) {
        let Some(state) = self.ports.get_mut(&port) else { return };
        state.released.retain(|released| released.interface != interface);
        let known = state.present.iter().flat_map(|device| &device.interfaces);
        let had = known.filter(|known| known.number == interface).find_map(|known| known.driver.clone());
        if let (Some(had), None) = (had, driver) {
            state.released.push(Released { interface, driver: had, at_ms: at.mono_ms });
        }
        self.update(port, |device| with_driver(device, interface, driver), out);
    }

    /// The device in `port` leaves: what let go because of that was its driver to the end. Of this its detach tells.
    pub(super) fn restore_drivers(&mut self, port: Port, at: Moment) {
        let released = std::mem::take(&mut self.state(port).released);
        let since = at.mono_ms.saturating_sub(LEAVING_MS);
        for Released { interface, driver, .. } in released.into_iter().filter(|one| one.at_ms >= since) {
            self.update(port, |device| with_driver(device, interface, Some(&driver)), &mut Vec::new());
        }
    }
}

fn with_driver(device: &Device, interface: u8, driver: Option<&str>) -> Device {
    let mut device = device.clone();
    for known in device.interfaces.iter_mut().filter(|known| known.number == interface) {
        known.driver = driver.map(str::to_owned);
    }
    device
}
