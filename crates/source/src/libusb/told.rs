//! What libusb's callbacks told, beside what a scan finds. libusb does not say what it lost; this does.

use std::collections::{BTreeMap, BTreeSet};

use autoweave_usb_device::{Port, Reading};

/// Scans in a row that found what libusb did not tell, without one callback since the first of them, that it takes for
/// libusb to count as broken.
const SILENT_MAX: u32 = 3;

/// Bus and address, by which libusb tells devices apart.
pub type Place = (u8, u8);

/// The devices that are there by the callbacks. At most one for each place.
#[derive(Debug, Default)]
pub struct Told {
    devices: BTreeMap<Place, Option<Port>>,
    /// Differences that the scan before found.
    suspected: BTreeSet<Place>,
    /// Differences that were counted.
    counted: BTreeSet<Place>,
    /// Scans in a row that found some to count.
    silent: u32,
}

/// What libusb did not tell.
#[derive(Debug, PartialEq, Eq)]
pub struct Untold {
    /// Devices that came or went.
    pub lost: u64,
    /// Whether libusb has said nothing for so long that it will not any more.
    pub is_broken: bool,
}

impl Told {
    /// A callback said that a device came.
    pub fn arrived(&mut self, place: Place, port: Option<Port>) {
        self.devices.insert(place, port);
        self.silent = 0;
    }

    /// A callback said that a device went.
    pub fn left(&mut self, place: Place) {
        self.devices.remove(&place);
        self.silent = 0;
    }

    /// Compares with a scan that says nothing about the ports in `except`. What differs in two scans in a row was not
    /// merely late.
    pub fn compare(&mut self, readings: &[Reading], except: &BTreeSet<Port>) -> Untold {
        let there: BTreeMap<Place, Port> =
            readings.iter().map(|reading| ((reading.port.bus, reading.address), reading.port)).collect();
        let is_said = |port: Option<&Port>| port.is_none_or(|port| !except.contains(port));
        let untold =
            there.iter().filter(|(place, port)| !self.devices.contains_key(place) && is_said(Some(port)));
        let ghosts =
            self.devices.iter().filter(|(place, port)| !there.contains_key(place) && is_said(port.as_ref()));
        let different: BTreeSet<Place> =
            untold.map(|(place, _)| *place).chain(ghosts.map(|(place, _)| *place)).collect();

        let certain: BTreeSet<Place> = different.intersection(&self.suspected).copied().collect();
        let lost = certain.difference(&self.counted).count() as u64;
        if lost > 0 {
            self.silent += 1;
        }
        (self.suspected, self.counted) = (different, certain);
        Untold { lost, is_broken: self.silent >= SILENT_MAX }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(port: &str, address: u8) -> Reading {
        Reading::bare(port.parse().expect("a port"), address, 1, 2, None)
    }

    fn lost(told: &mut Told, there: &[Reading]) -> u64 {
        told.compare(there, &BTreeSet::new()).lost
    }

    #[test]
    fn what_was_told_is_not_lost() {
        let mut told = Told::default();
        told.arrived((1, 2), None);
        told.arrived((1, 3), None);
        told.left((1, 3));
        assert_eq!([0; 3], [(); 3].map(|()| lost(&mut told, &[reading("1-1", 2)])));
    }

    #[test]
    fn what_is_told_late_is_not_lost() {
        let mut told = Told::default();
        assert_eq!(lost(&mut told, &[reading("1-1", 2)]), 0);
        told.arrived((1, 2), None);
        assert_eq!(lost(&mut told, &[reading("1-1", 2)]), 0);
        assert_eq!(lost(&mut told, &[]), 0);
        told.left((1, 2));
        assert_eq!(lost(&mut told, &[]), 0);
    }

    #[test]
    fn what_was_not_told_is_counted_once() {
        let mut told = Told::default();
        told.arrived((1, 9), None);
        let there = [reading("1-1", 2)];
        assert_eq!([0, 2, 0, 0], [(); 4].map(|()| lost(&mut told, &there)));
    }

    #[test]
    fn a_port_that_the_scan_could_not_read_is_no_difference() {
        let mut told = Told::default();
        let port = reading("1-1", 2).port;
        told.arrived((1, 2), Some(port));
        for _ in 0..3 {
            assert_eq!(told.compare(&[], &BTreeSet::from([port])).lost, 0);
        }
    }

    #[test]
    fn only_silence_is_taken_for_broken() {
        let mut told = Told::default();
        let there: Vec<_> = (1..=5).map(|port| reading(&format!("1-{port}"), port + 1)).collect();
        let is_broken = |told: &mut Told, count: usize| {
            told.compare(&there[..count], &BTreeSet::new());
            told.compare(&there[..count], &BTreeSet::new()).is_broken
        };
        assert!(!is_broken(&mut told, 1));
        assert!(!is_broken(&mut told, 2));
        told.arrived((2, 2), None);
        told.left((2, 2));
        assert_eq!([false, false], [is_broken(&mut told, 3), is_broken(&mut told, 4)]);
        assert!(is_broken(&mut told, 5), "and it says no more");
    }
}
