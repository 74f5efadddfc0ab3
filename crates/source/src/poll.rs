//! The source that works wherever the bus can be listed: a scan at an interval. What comes and goes between two scans
//! is not seen.

use std::collections::BTreeSet;
use std::io;
use std::sync::mpsc;
use std::thread::{self, Thread};
use std::time::Instant;

use autoweave_usb_device::{Observation, Observed, Port, Reading, SourceName};

use crate::started::{Closed, Started};
use crate::{Counters, Wire, clock};

/// Reads every device that is connected now, hubs first, and says which ports have one that cannot be read.
///
/// # Errors
/// The bus cannot be listed. On Linux a machine without USB is no error.
pub fn enumerate() -> io::Result<(Vec<Reading>, BTreeSet<Port>)> {
    system::enumerate()
}

/// Whether this machine has USB at all.
pub fn has_usb() -> bool {
    system::has_usb()
}

/// The device nodes of the device in `port` that are there now, `/dev/bus/usb/001/005` and `/dev/ttyUSB0` for one;
/// where there is no sysfs, none.
pub fn nodes(port: Port) -> Vec<String> {
    system::nodes(port)
}

/// The descriptors of the device in `port` as they are now, at most 512 KiB, if it still has `address` (`devnum`); none
/// where there is no sysfs. May wait for the device's lock in the kernel.
pub fn descriptors(port: Port, address: u8) -> Option<Vec<u8>> {
    system::descriptors(port, address)
}

#[cfg(not(target_os = "linux"))]
use crate::nusb as system;

#[cfg(target_os = "linux")]
mod system {
    use super::*;
    pub use crate::linux::Devices as Bus;
    use crate::linux::{Sysfs, Unread};

    pub fn enumerate() -> io::Result<(Vec<Reading>, BTreeSet<Port>)> {
        let sysfs = Sysfs::new("/sys");
        let (mut readings, mut unread) = (Vec::new(), BTreeSet::new());
        for port in sysfs.ports()? {
            match sysfs.read(port) {
                Ok(reading) => readings.push(reading),
                Err(Unread::NotReady) => drop(unread.insert(port)),
                Err(Unread::Gone) => {}
            }
        }
        Ok((readings, unread))
    }

    pub fn nodes(port: Port) -> Vec<String> {
        Sysfs::new("/sys").nodes(port)
    }

    pub fn descriptors(port: Port, address: u8) -> Option<Vec<u8>> {
        Sysfs::new("/sys").descriptors(port, address)
    }

    pub fn has_usb() -> bool {
        Sysfs::new("/sys").has_bus()
    }
}

/// Starts polling.
pub fn spawn(started: Started) -> io::Result<Thread> {
    let (sender, opened) = mpsc::sync_channel(1);
    let thread =
        thread::Builder::new().name("usb-poll".to_owned()).spawn(move || {
            match system::Bus::open(&started.counters) {
                Ok(bus) => {
                    let _ = sender.send(Ok(()));
                    poll(&started, bus);
                }
                Err(error) => drop(sender.send(Err(error))),
            }
        })?;
    opened.recv().unwrap_or_else(|_| Err(io::Error::other("it ended at once")))?;
    Ok(thread.thread().clone())
}

fn poll(started: &Started, mut bus: system::Bus) {
    let mut number = 0;
    let mut next_scan = Instant::now();
    while !started.is_stopped() && !started.is_finishing() {
        let pause = next_scan.saturating_duration_since(Instant::now());
        if !pause.is_zero() {
            thread::park_timeout(pause);
            continue;
        }
        if scan(started, &mut bus, &mut number).is_err() {
            return;
        }
        next_scan = Instant::now() + started.interval;
    }
    let _ = started.wire.send(Wire::Ended);
}

fn scan(started: &Started, bus: &mut system::Bus, number: &mut u64) -> Result<(), Closed> {
    match bus.list() {
        Ok((readings, except)) => {
            *number += 1;
            Counters::add(&started.counters.unreadable, except.len() as u64);
            let observation = Observation::Scan { readings, except };
            let observed = Observed {
                number: *number,
                seqnum: None,
                at: clock::now(),
                source: SourceName::Poll,
                observation,
            };
            started.wire.send(Wire::Observed(observed))
        }
        Err(error) => {
            Counters::add(&started.counters.scans_failed, 1);
            started.wire.send(Wire::ScanFailed(error))
        }
    }
}
