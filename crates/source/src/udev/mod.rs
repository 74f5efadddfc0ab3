//! The udev helper's notices as a source: they say what came and went, sysfs says what it is.
//!
//! udev is late: a scan may see first what a notice then says. The table takes an arrival of what is there and a
//! departure of what is gone for what they are. An arrival that scans told, of what is gone by now, is not told again.

mod backlog;
mod notices;
mod socket;
mod spool;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, mpsc};
use std::thread::{self, Thread};
use std::time::Instant;

use autoweave_usb_device::{Moment, Observation, Observed, Port, Reading, SourceName};

pub use backlog::Backlog;
pub use notices::Notices;

use crate::linux::Devices;
use crate::schedule::Schedule;
use crate::started::{Closed, Started};
use crate::{Counters, Notice, NoticeAction, SourceError, Wire, clock};
use notices::Heard;

/// Ports whose newest number is remembered, at most. There are not so many; whoever may invent them may do more.
const PORTS_MAX: usize = 10_000;

/// Takes notices from now on.
///
/// # Errors
/// No more threads can be had.
pub fn spawn(started: Started, notices: Arc<Notices>) -> io::Result<Thread> {
    let (sender, opened) = mpsc::sync_channel(1);
    let thread =
        thread::Builder::new().name("usb-observe".to_owned()).spawn(move || {
            match Devices::open(&started.counters) {
                Ok(devices) => {
                    notices.subscribe();
                    let _ = sender.send(Ok(()));
                    Observer::new(started, notices, devices).run();
                }
                Err(error) => drop(sender.send(Err(error))),
            }
        })?;
    opened.recv().unwrap_or_else(|_| Err(io::Error::other("the observer ended at once")))?;
    Ok(thread.thread().clone())
}

/// What a notice says, with what `devices` can read of an arrival. None where that is not enough to know a device by.
fn observation(notice: &Notice, devices: Option<&mut Devices>) -> Option<Observation> {
    let port = notice.port;
    match notice.action {
        NoticeAction::Remove => Some(Observation::Left { port, address: notice.address }),
        NoticeAction::Add => {
            let reading = match (bare(notice), devices) {
                (Some(bare), Some(devices)) => devices.read(bare),
                (Some(bare), None) => bare,
                (None, Some(devices)) => devices.read_port(port)?,
                (None, None) => return None,
            };
            Some(Observation::Arrived { reading })
        }
    }
}

fn bare(notice: &Notice) -> Option<Box<Reading>> {
    let Notice { port, address, vendor_id, product_id, class, .. } = *notice;
    Some(Box::new(Reading::bare(port, address?, vendor_id?, product_id?, class)))
}

/// Turns notices into observations. Its first act is a scan.
struct Observer {
    started: Started,
    notices: Arc<Notices>,
    devices: Devices,
    /// The newest number of each port: what comes with a lower one is out of date.
    newest: BTreeMap<Port, u64>,
    /// The port of each bus and address that scans have told, until a notice says that the device is gone: an address
    /// is one device's at a time.
    scanned: BTreeMap<(u8, u8), Port>,
    number: u64,
    schedule: Schedule,
}

impl Observer {
    fn new(started: Started, notices: Arc<Notices>, devices: Devices) -> Self {
        Self {
            schedule: Schedule::new(started.interval),
            started,
            notices,
            devices,
            newest: BTreeMap::new(),
            scanned: BTreeMap::new(),
            number: 0,
        }
    }

    /// Runs until helpers do not reach the socket, all is handed on, or nobody wants it any longer.
    fn run(mut self) {
        // The source is dropped when it is closed.
        let _ = self.observe();
        self.notices.unsubscribe();
    }

    fn observe(&mut self) -> Result<(), Closed> {
        while !self.started.is_stopped() {
            match self.notices.next() {
                Some(Heard::Told(notice, file)) => self.tell(&notice, file)?,
                Some(Heard::Unclear) => self.schedule.hasten(),
                Some(Heard::Failed(error)) => {
                    return self.started.wire.send(Wire::Failed(SourceError::Notices(error)));
                }
                None if self.started.is_finishing() => return self.started.wire.send(Wire::Ended),
                None => self.idle()?,
            }
        }
        Ok(())
    }

    fn tell(&mut self, notice: &Notice, file: Option<String>) -> Result<(), Closed> {
        let observation = if self.is_newest(notice) { self.observation(notice) } else { None };
        self.number += u64::from(observation.is_some());
        if let Some(file) = file {
            self.notices.told(self.number, file);
        }
        let Some(observation) = observation else { return Ok(()) };
        if matches!(observation, Observation::Arrived { .. }) {
            self.schedule.arrived();
        }
        let at = Moment { wall_us: notice.timestamp.saturating_mul(1_000), ..clock::now() };
        self.send(at, notice.seqnum, observation)
    }

    /// None where there is nothing new to tell.
    fn observation(&mut self, notice: &Notice) -> Option<Observation> {
        let observation = observation(notice, Some(&mut self.devices));
        if observation.is_none() {
            // Something is said to have come that is not there, or cannot be read.
            Counters::add(&self.started.counters.malformed, 1);
            self.schedule.hasten();
        }
        observation.filter(|observation| !self.was_scanned(observation))
    }

    fn was_scanned(&mut self, observation: &Observation) -> bool {
        match observation {
            Observation::Arrived { reading } => {
                // What can be read is there: the table knows whether it was told.
                let is_gone = reading.descriptors.0.is_empty();
                is_gone && self.scanned.get(&(reading.port.bus, reading.address)) == Some(&reading.port)
            }
            Observation::Left { port, address: Some(address) } => {
                self.scanned.remove(&(port.bus, *address));
                false
            }
            _ => false,
        }
    }

    fn is_newest(&mut self, notice: &Notice) -> bool {
        let Some(seqnum) = notice.seqnum else { return true };
        let is_newest = self.newest.get(&notice.port).is_none_or(|newest| seqnum > *newest);
        if is_newest {
            if self.newest.len() >= PORTS_MAX {
                self.newest.clear();
            }
            self.newest.insert(notice.port, seqnum);
        }
        is_newest
    }

    /// Every notice so far was handed on.
    fn idle(&mut self) -> Result<(), Closed> {
        for reading in self.devices.late() {
            self.observed(Observation::Refreshed { reading: Box::new(reading) })?;
        }
        let pause = self.schedule.next().saturating_duration_since(Instant::now());
        if pause.is_zero() {
            self.scan()?;
        } else {
            thread::park_timeout(pause);
        }
        Ok(())
    }

    fn scan(&mut self) -> Result<(), Closed> {
        let (readings, mut except) = match self.devices.list() {
            Ok(listed) => listed,
            Err(error) => {
                self.schedule.failed();
                Counters::add(&self.started.counters.scans_failed, 1);
                return self.started.wire.send(Wire::ScanFailed(error));
            }
        };
        Counters::add(&self.started.counters.unreadable, except.len() as u64);
        except.extend(self.notices.ports());
        self.schedule.scanned(except.is_empty());
        let told = readings.iter().filter(|reading| !except.contains(&reading.port));
        self.scanned.extend(told.map(|reading| ((reading.port.bus, reading.address), reading.port)));
        self.observed(Observation::Scan { readings, except })
    }

    /// Tells what no notice said, but a look at sysfs.
    fn observed(&mut self, observation: Observation) -> Result<(), Closed> {
        self.number += 1;
        self.send(clock::now(), None, observation)
    }

    fn send(&self, at: Moment, seqnum: Option<u64>, observation: Observation) -> Result<(), Closed> {
        let (number, source) = (self.number, SourceName::Udev);
        self.started.wire.send(Wire::Observed(Observed { number, seqnum, at, source, observation }))
    }
}
