//! Devices that arrive below a hub which nobody has told of yet.
//!
//! At the start, and after messages were lost, a device may be heard of before the scan that tells of its hub, or
//! that tells of another hub in the place of the one that is known. The hub's attach has to go out first, so the
//! device waits for that scan; not longer than it is connected. A scan that could say nothing of the hub is
//! followed by another one, which is the last that is waited for.

use std::collections::BTreeSet;

use super::{Cause, Change, DeviceTable, Port, State};

impl DeviceTable {
    /// A scan follows, and tells of what was there before. Until it is taken in, or [`Self::forgo_scan`] says
    /// that it cannot be had, devices wait for hubs that are not known.
    pub fn expect_scan(&mut self) {
        self.is_scan_due = true;
        self.is_rescan_due = false;
        // A root hub is as old as its bus.
        for (_, state) in self.ports.iter_mut().filter(|(port, _)| port.parent().is_some()) {
            state.is_doubtful = true;
        }
    }

    /// There is no scan to be had: what waits for one is published.
    pub fn forgo_scan(&mut self) -> Vec<Change> {
        let mut out = Vec::new();
        self.release_all_but(&BTreeSet::new(), &mut out);
        out
    }

    /// A scan was taken in that says nothing about the ports in `except`.
    pub(super) fn release_orphans(&mut self, except: &BTreeSet<Port>, out: &mut Vec<Change>) {
        let none = BTreeSet::new();
        let is_last = std::mem::replace(&mut self.is_rescan_due, true);
        self.release_all_but(if is_last { &none } else { except }, out);
    }

    /// Publishes what waits, but for what is below the `hubs` or below another device that goes on waiting.
    fn release_all_but(&mut self, hubs: &BTreeSet<Port>, out: &mut Vec<Change>) {
        let mut waiting = BTreeSet::new();
        let waits = |(port, state): (&Port, &State)| state.orphan.map(|_| *port);
        let orphans: Vec<Port> = self.ports.iter().filter_map(waits).collect();
        for port in orphans {
            let hub = port.parent();
            if hub.is_some_and(|hub| hubs.contains(&hub) && !self.is_known(hub) || waiting.contains(&hub)) {
                waiting.insert(port);
            } else {
                self.release_orphan(port, out);
            }
        }
        self.is_scan_due = !waiting.is_empty();
    }

    /// Publishes the device in `port` if it waits: it leaves, or its hub is known now.
    pub(super) fn release_orphan(&mut self, port: Port, out: &mut Vec<Change>) {
        let arrival = self.ports.get_mut(&port).and_then(|state| state.orphan.take());
        if let Some(cause) = arrival {
            self.edge(port, cause, out);
        }
    }

    /// A scan found that what was in `hub` has gone. What waits came after that, and is below its successor.
    pub(super) fn replaced(&mut self, hub: Port, cause: Cause, out: &mut Vec<Change>) {
        for child in self.below(hub).into_iter().rev() {
            let has_left = |state: &State| state.present.is_some() && state.orphan.is_none();
            if self.ports.get(&child).is_some_and(has_left) {
                self.take_out(child, cause, out);
            }
        }
        self.take_out(hub, cause, out);
    }

    /// Whether a device that arrives in `port` has to wait: its hub is not known for sure, and will be soon.
    pub(super) fn must_wait(&self, port: Port) -> bool {
        self.is_scan_due && port.parent().is_some_and(|hub| !self.is_known(hub))
    }

    fn is_known(&self, hub: Port) -> bool {
        let is_known = |hub: &State| hub.present.is_some() && hub.orphan.is_none() && !hub.is_doubtful;
        self.ports.get(&hub).is_some_and(is_known)
    }
}
