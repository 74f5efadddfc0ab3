//! What is on the bus, as sysfs shows it.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use autoweave_usb_device::{Port, Reading};
use nix::sys::statfs::{SYSFS_MAGIC, statfs};
use rusb::Context;

use crate::Counters;
use crate::linux::{Job, Readers, Sysfs, Unread};

/// How long an attach waits for its device to be readable.
const READ_LIMIT: Duration = Duration::from_millis(200);

/// How long a scan waits for a device. One that takes longer is not asked again before it answers.
const SCAN_READ_LIMIT: Duration = Duration::from_secs(1);

/// Makes sure that libusb will read devices from sysfs. Where `/sys` is not one, it opens their nodes instead
/// (`op_init` in os/linux_usbfs.c), which can wake them.
///
/// # Errors
/// It would open them.
pub fn check() -> io::Result<()> {
    if statfs("/sys")?.filesystem_type() == SYSFS_MAGIC {
        return Ok(());
    }
    Err(io::Error::other("/sys is not a sysfs, so libusb would open devices"))
}

/// Reads devices on threads of its own; they wake the thread it was opened on.
pub struct Bus {
    sysfs: Sysfs,
    readers: Readers,
    counters: Arc<Counters>,
    ticket: u64,
    /// Devices that were told of before they could be read.
    late: Vec<Reading>,
}

impl Bus {
    /// # Errors
    /// No more threads can be had.
    pub fn open(_: &Context, counters: &Arc<Counters>) -> io::Result<Self> {
        let sysfs = Sysfs::new("/sys");
        let readers = Readers::spawn(&sysfs, &thread::current())?;
        Ok(Self { sysfs, readers, counters: counters.clone(), ticket: 0, late: Vec::new() })
    }

    /// Reads the device that libusb knows as `bare`; where that cannot be done in time, it stays as it is.
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

    /// Devices that could be read after they were told of.
    pub fn late(&mut self) -> Vec<Reading> {
        while self.readers_done(|_| false).is_some() {}
        std::mem::take(&mut self.late)
    }

    /// Every device, hubs first, and the ports with one that could not be read.
    ///
    /// # Errors
    /// The bus cannot be listed.
    pub fn list(&mut self) -> io::Result<(Vec<Reading>, BTreeSet<Port>)> {
        let (mut readings, mut unread) = (Vec::new(), BTreeSet::new());
        for port in self.sysfs.ports()? {
            let is_it = |job: &Job| matches!(job, Job::Listed { port: of } if *of == port);
            let is_asked = self.readers.listed(port);
            match is_asked.then(|| self.wait_for(is_it, Instant::now() + SCAN_READ_LIMIT)).flatten() {
                Some(Ok(reading)) => readings.push(reading),
                Some(Err(Unread::Gone)) => {}
                Some(Err(Unread::NotReady)) | None => drop(unread.insert(port)),
            }
        }
        Ok((readings, unread))
    }

    fn wait_for(
        &mut self,
        is_it: impl Fn(&Job) -> bool,
        deadline: Instant,
    ) -> Option<Result<Reading, Unread>> {
        loop {
            while let Some(done) = self.readers_done(&is_it) {
                if done.is_some() {
                    return done;
                }
            }
            let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
            thread::park_timeout(left);
        }
    }

    /// The outcome of the next job that is done, if it is the one; what others found is kept.
    fn readers_done(&mut self, is_it: impl Fn(&Job) -> bool) -> Option<Option<Result<Reading, Unread>>> {
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
