//! Devices read from sysfs for whoever can wait for them a little: a read that takes too long goes on without them.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use autoweave_usb_device::{Port, Reading};

use super::readers::{Job, Readers};
use super::sysfs::{Sysfs, Unread};
use crate::Counters;

/// How long an attach waits for its device to be readable.
const READ_LIMIT: Duration = Duration::from_millis(200);

/// How long a scan waits for a device. One that takes longer is not asked again before it answers.
const SCAN_READ_LIMIT: Duration = Duration::from_secs(1);

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
        match is_asked.then(|| self.wait_for(is_it, deadline)).flatten() {
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
        while self.next_done(|_| false).is_some() {}
        std::mem::take(&mut self.late)
    }

    /// Every device, hubs first, and the ports with one that could not be read.
    ///
    /// # Errors
    /// The bus cannot be listed.
    pub fn list(&mut self) -> io::Result<(Vec<Reading>, BTreeSet<Port>)> {
        let (mut readings, mut unread) = (Vec::new(), BTreeSet::new());
        for port in self.sysfs.ports()? {
            match self.listed(port, SCAN_READ_LIMIT) {
                Some(Ok(reading)) => readings.push(reading),
                Some(Err(Unread::Gone)) => {}
                Some(Err(Unread::NotReady)) | None => drop(unread.insert(port)),
            }
        }
        Ok((readings, unread))
    }

    fn listed(&mut self, port: Port, limit: Duration) -> Option<Result<Reading, Unread>> {
        let is_it = |job: &Job| matches!(job, Job::Listed { port: of } if *of == port);
        self.readers.listed(port).then(|| self.wait_for(is_it, Instant::now() + limit)).flatten()
    }

    fn wait_for(
        &mut self,
        is_it: impl Fn(&Job) -> bool,
        deadline: Instant,
    ) -> Option<Result<Reading, Unread>> {
        loop {
            while let Some(done) = self.next_done(&is_it) {
                if done.is_some() {
                    return done;
                }
            }
            let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
            thread::park_timeout(left);
        }
    }

    /// The outcome of the next job that is done, if it is the one; what others found is kept.
    fn next_done(&mut self, is_it: impl Fn(&Job) -> bool) -> Option<Option<Result<Reading, Unread>>> {
        let done = self.readers.done()?;
        if is_it(&done.job) {
            return Some(Some(done.outcome));
        }
        if let (Job::Announced { .. }, Ok(reading)) = (done.job, done.outcome) {
            self.late.push(reading);
        }
        Some(None)
    }
}
