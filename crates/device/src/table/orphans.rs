//! Devices that arrive below a hub which nobody has told of yet.
//!
//! At the start, and after messages were lost, a device may be heard of before the scan that tells of its hub.
//! The hub's attach has to go out first, so the device waits for that scan; not longer than it is connected.

use super::{Change, DeviceTable, Port};

impl DeviceTable {
    /// A scan follows, and tells of what was there before. Until it is taken in, or [`Self::forgo_scan`] says
    /// that it cannot be had, devices wait for hubs that are not known.
    pub fn expect_scan(&mut self) {
        self.is_scan_due = true;
    }

    /// There is no scan to be had: what waits for one is published.
    pub fn forgo_scan(&mut self) -> Vec<Change> {
        let mut out = Vec::new();
        self.release_orphans(&mut out);
        out
    }

    /// The scan was taken in. A hub that it could not tell of either does not hold up what is below it.
    pub(super) fn release_orphans(&mut self, out: &mut Vec<Change>) {
        self.is_scan_due = false;
        let waits = |(port, state): (&Port, &super::State)| state.orphan.map(|_| *port);
        let orphans: Vec<Port> = self.ports.iter().filter_map(waits).collect();
        for port in orphans {
            self.release_orphan(port, out);
        }
    }

    /// Publishes the device in `port` if it waits: it leaves, or its hub is known now.
    pub(super) fn release_orphan(&mut self, port: Port, out: &mut Vec<Change>) {
        let arrival = self.ports.get_mut(&port).and_then(|state| state.orphan.take());
        if let Some(cause) = arrival {
            self.edge(port, cause, out);
        }
    }

    /// Whether a device that arrives in `port` has to wait: its hub is not known, and may be soon.
    pub(super) fn must_wait(&self, port: Port) -> bool {
        let is_known =
            |hub: Port| self.ports.get(&hub).is_some_and(|hub| hub.present.is_some() && hub.orphan.is_none());
        self.is_scan_due && port.parent().is_some_and(|hub| !is_known(hub))
    }
}
