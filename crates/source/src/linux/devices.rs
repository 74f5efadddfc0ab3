//! Devices read from sysfs for whoever can wait for them a little: a read that takes too long goes on without them.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use autoweave_usb_device::{Port, Reading};

use super::readers::{Done, Job, Readers};
use super::sysfs::{Sysfs, Unread};
use crate::Counters;

/// How long an attach waits for its device to be readable.
const READ_LIMIT: Duration = Duration::from_millis(200);

/// How long a scan waits for the next device to be read. One that takes longer is not asked again before it answers.
const SCAN_READ_LIMIT: Duration = Duration::from_secs(1);

/// Devices that a scan has read at a time.
const READS_MAX: usize = 4;

/// Reads devices on threads of its own; they wake the thread it was opened on.
pub struct Devices {
    sysfs: Sysfs,
    readers: Readers,
    counters: Arc<Counters>,
    ticket: u64,
    /// Devices that were told of before they could be read.
    late: Vec<Reading>,
}

impl Devices {
    /// # Errors
    /// No more threads can be had.
    pub fn open(counters: &Arc<Counters>) -> io::Result<Self> {
        let sysfs = Sysfs::new("/sys");
        let readers = Readers::spawn(&sysfs, &thread::current())?;
        Ok(Self { sysfs, readers, counters: counters.clone(), ticket: 0, late: Vec::new() })
    }

    /// Reads the device known as `bare`, if its port still has that address; where that cannot be done in time, it
    /// stays as it is.
    pub fn read(&mut self, bare: Box<Reading>) -> Box<Reading> {
        self.ticket += 1;
        let (ticket, deadline) = (self.ticket, Instant::now() + READ_LIMIT);
        let devpath = format!("bus/usb/devices/{}", bare.port);
        let is_asked = self.readers.announced(ticket, &devpath, &bare, deadline);
        let is_it = |job: &Job| matches!(job, Job::Announced { ticket: of, .. } if *of == ticket);
        match is_asked.then(|| self.wait_for(is_it, deadline)).flatten().map(|done| done.outcome) {
            Some(Ok(reading)) => Box::new(reading),
            Some(Err(Unread::Gone)) => bare,
            Some(Err(Unread::NotReady)) | None => {
                Counters::add(&self.counters.reads_timed_out, 1);
                bare
            }
        }
    }

    /// Reads whatever is in `port` now; none where nothing is, or it cannot be read in time.
    pub fn read_port(&mut self, port: Port) -> Option<Box<Reading>> {
        self.listed(port, READ_LIMIT)?.ok().map(Box::new)
    }

    /// Reads the device with an address on a bus; none where there is none, or it cannot be read in time.
    #[cfg(feature = "libusb")]
    pub fn find(&mut self, (bus, address): (u8, u8)) -> Option<Box<Reading>> {
        let ports = self.sysfs.ports().ok()?;
        let mut on_bus = ports.into_iter().filter(|port| port.bus == bus);
        on_bus.find_map(|port| self.read_port(port).filter(|reading| reading.address == address))
    }

    /// Devices that could be read after they were told of.
    pub fn late(&mut self) -> Vec<Reading> {
        while let Some(done) = self.readers.done() {
            self.keep(done);
        }
        std::mem::take(&mut self.late)
    }

    /// Every device, hubs first, and the ports with one that could not be read: all that is left when none could for
    /// [`SCAN_READ_LIMIT`].
    ///
    /// # Errors
    /// The bus cannot be listed.
    pub fn list(&mut self) -> io::Result<(Vec<Reading>, BTreeSet<Port>)> {
        let (mut readings, mut unread) = (Vec::new(), BTreeSet::new());
        let (mut to_read, mut being_read) = (self.sysfs.ports()?.into_iter(), BTreeSet::new());
        let mut deadline = Instant::now() + SCAN_READ_LIMIT;
        loop {
            while being_read.len() < READS_MAX
                && let Some(port) = to_read.next()
            {
                if self.readers.listed(port) {
                    being_read.insert(port)
                } else {
                    unread.insert(port)
                };
            }
            if being_read.is_empty() {
                readings.sort_by_key(|reading: &Reading| reading.port);
                return Ok((readings, unread));
            }
            let is_it = |job: &Job| matches!(job, Job::Listed { port } if being_read.contains(port));
            match self.wait_for(is_it, deadline) {
                Some(Done { job: Job::Listed { port }, outcome }) => {
                    being_read.remove(&port);
                    match outcome {
                        Ok(reading) => readings.push(reading),
                        Err(Unread::NotReady) => drop(unread.insert(port)),
                        Err(Unread::Gone) => {}
                    }
                    deadline = Instant::now() + SCAN_READ_LIMIT;
                }
                _ => {
                    unread.extend(to_read.by_ref());
                    unread.append(&mut being_read);
                }
            }
        }
    }

    fn listed(&mut self, port: Port, limit: Duration) -> Option<Result<Reading, Unread>> {
        let is_it = |job: &Job| matches!(job, Job::Listed { port: of } if *of == port);
        let done = self.readers.listed(port).then(|| self.wait_for(is_it, Instant::now() + limit)).flatten();
        done.map(|done| done.outcome)
    }

    /// The first of the jobs that is done; what others found is kept.
    fn wait_for(&mut self, is_it: impl Fn(&Job) -> bool, deadline: Instant) -> Option<Done> {
        loop {
            while let Some(done) = self.readers.done() {
                if is_it(&done.job) {
                    return Some(done);
                }
                self.keep(done);
            }
            let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
            thread::park_timeout(left);
        }
    }

    fn keep(&mut self, done: Done) {
        if let (Job::Announced { .. }, Ok(reading)) = (done.job, done.outcome) {
            self.late.push(reading);
        }
    }
}
