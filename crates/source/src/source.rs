//! A source of observations, whichever it is.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::Thread;
use std::time::Duration;

use autoweave_usb_device::SourceName;

use crate::interrupter::Nudge;
use crate::options::{Kind, Options};
use crate::started::{Started, Stop, WireSender};
#[cfg(target_os = "linux")]
use crate::{Notices, Reception};
use crate::{OpenError, Position, Wire, nusb, poll, recording, simulate};

/// Observations waiting to be taken, at most; further ones wait where they come from.
const WAITING_MAX: usize = 1024;

/// An open source.
#[derive(Debug)]
pub struct Source {
    name: SourceName,
    description: String,
    wire: Receiver<Wire>,
    sender: SyncSender<Wire>,
    stop: Arc<Stop>,
    wake: Option<Thread>,
    #[cfg(target_os = "linux")]
    observing: Option<crate::linux::Observing>,
    /// Whose notices it takes.
    #[cfg(target_os = "linux")]
    notices: Option<Arc<Notices>>,
    receive_buffer_bytes: usize,
    is_live: bool,
}

impl Source {
    /// Opens a source. From now on nothing is missed; nothing is told before [`Self::start`]. Its first act is a scan,
    /// so that what was there before is known.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(kind: &Kind, options: &Options) -> Result<Self, OpenError> {
        Self::open_beside(kind, options, None)
    }

    /// Opens a source beside another, which is nudged whenever this one has something to tell.
    pub(crate) fn open_beside(
        kind: &Kind,
        options: &Options,
        nudge: Option<Nudge>,
    ) -> Result<Self, OpenError> {
        let (mut source, started) = Self::new(kind.name(), options, nudge);
        match kind {
            #[cfg(target_os = "linux")]
            Kind::Uevent => {
                let reception = Reception::open(options.receive_buffer_bytes);
                source.start_uevent(started, reception.map_err(OpenError::Uevent)?)?;
            }
            #[cfg(not(target_os = "linux"))]
            Kind::Uevent => return Err(OpenError::Unavailable(SourceName::Uevent)),
            #[cfg(feature = "libusb")]
            Kind::Libusb => {
                source.description = crate::libusb::description();
                source.wake = Some(crate::libusb::spawn(started)?);
            }
            #[cfg(not(feature = "libusb"))]
            Kind::Libusb => return Err(OpenError::NotBuilt(SourceName::Libusb)),
            Kind::Nusb => source.start_nusb(started, nusb::listen()?)?,
            Kind::Poll => source.start_poll(started)?,
            #[cfg(target_os = "linux")]
            Kind::Udev => {
                source.start_udev(started, options.notices.as_ref().ok_or(OpenError::NoNotices)?)?;
            }
            #[cfg(not(target_os = "linux"))]
            Kind::Udev => return Err(OpenError::Unavailable(SourceName::Udev)),
            Kind::Replay(file) => {
                source.is_live = false;
                source.description = format!("the recording {}", file.display());
                recording::spawn(started, file)?;
            }
            Kind::Simulate(simulation) => {
                source.description = format!("{} simulated devices", simulation.devices);
                simulate::spawn(started, *simulation).map_err(OpenError::Thread)?;
            }
        }
        Ok(source)
    }

    /// Opens the source of kernel uevents on a reception that somebody holds.
    ///
    /// # Errors
    /// See [`OpenError`].
    #[cfg(target_os = "linux")]
    pub fn with_reception(reception: Reception, options: &Options) -> Result<Self, OpenError> {
        let (mut source, started) = Self::new(SourceName::Uevent, options, None);
        source.start_uevent(started, reception)?;
        Ok(source)
    }

    fn new(name: SourceName, options: &Options, nudge: Option<Nudge>) -> (Self, Started) {
        let (sender, wire) = mpsc::sync_channel(WAITING_MAX);
        let stop = Arc::new(Stop::default());
        let started = Started {
            wire: WireSender { wire: sender.clone(), nudge },
            counters: options.counters.clone(),
            interval: options.interval,
            stop: stop.clone(),
        };
        let source = Self {
            name,
            description: String::new(),
            wire,
            sender,
            stop,
            wake: None,
            #[cfg(target_os = "linux")]
            observing: None,
            #[cfg(target_os = "linux")]
            notices: None,
            receive_buffer_bytes: 0,
            is_live: true,
        };
        (source, started)
    }

    #[cfg(target_os = "linux")]
    fn start_uevent(&mut self, started: Started, reception: Reception) -> Result<(), OpenError> {
        let granted = reception.buffer_bytes().map_err(OpenError::Uevent)?;
        let observing = crate::linux::spawn(started, reception).map_err(OpenError::Uevent)?;
        (self.wake, self.receive_buffer_bytes) = (Some(observing.thread.clone()), granted);
        self.observing = Some(observing);
        self.description = format!("kernel uevents, with a receive buffer of {}", binary_size(granted));
        Ok(())
    }

    #[cfg(target_os = "linux")]
    fn start_udev(&mut self, started: Started, notices: &Arc<Notices>) -> Result<(), OpenError> {
        self.wake = Some(crate::udev::spawn(started, notices.clone()).map_err(OpenError::Thread)?);
        self.description = format!("the udev helper's notices on {}", notices.path().display());
        self.notices = Some(notices.clone());
        Ok(())
    }

    fn start_nusb(&mut self, started: Started, watch: nusb::Watch) -> Result<(), OpenError> {
        nusb::DESCRIPTION.clone_into(&mut self.description);
        self.wake = Some(nusb::spawn(started, watch).map_err(OpenError::Thread)?);
        Ok(())
    }

    fn start_poll(&mut self, started: Started) -> Result<(), OpenError> {
        self.description = format!("the bus, every {} ms", started.interval.as_millis());
        self.wake = Some(poll::spawn(started).map_err(OpenError::Thread)?);
        Ok(())
    }

    /// Begins to tell what is not told up to `position`, which is this receiver's. Once.
    #[cfg_attr(not(target_os = "linux"), allow(unused_variables, reason = "only uevents are received so"))]
    pub fn start(&self, position: Position) {
        #[cfg(target_os = "linux")]
        if let Some(observing) = &self.observing {
            // It fails when the thread has ended, which it tells itself.
            let _ = observing.start.send(position);
        }
    }

    /// The name of what receives, of which [`Position`]s are; empty where nothing is received.
    pub fn receiver(&self) -> String {
        #[cfg(target_os = "linux")]
        if let Some(observing) = &self.observing {
            return observing.ring.id();
        }
        String::new()
    }

    /// Leaves out what its receiver was left with while another source told, and returns the number of the last of it.
    /// Before [`Self::start`].
    pub(crate) fn forget(&self) -> u64 {
        #[cfg(target_os = "linux")]
        if let Some(observing) = &self.observing {
            return observing.forget();
        }
        0
    }

    /// Which source it is.
    pub fn name(&self) -> SourceName {
        self.name
    }

    /// What it listens to, in words.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// The receive buffer the kernel granted, in bytes as it counts them (twice what was asked for); 0 for a
    /// source without one.
    pub fn receive_buffer_bytes(&self) -> usize {
        self.receive_buffer_bytes
    }

    /// Whether its observations are of now, and not of the time of a recording.
    pub fn is_live(&self) -> bool {
        self.is_live
    }

    /// Whoever takes from it is to be woken through this.
    pub(crate) fn sender(&self) -> SyncSender<Wire> {
        self.sender.clone()
    }

    /// Has the source hand on what it has received by now, and then say [`Wire::Ended`].
    pub fn finish(&self) {
        self.stop.finish();
        self.unpark();
    }

    fn unpark(&self) {
        if let Some(thread) = &self.wake {
            thread.unpark();
        }
    }

    /// What came of observations up to `written` is written down, and need not be kept for a daemon that would have to
    /// take them in again; what came of those up to `processed` is, or its net effect would be found by a scan.
    #[cfg_attr(not(target_os = "linux"), allow(unused_variables, reason = "only uevents are kept so long"))]
    pub fn journaled(&self, written: u64, processed: u64) {
        #[cfg(target_os = "linux")]
        if let Some(observing) = &self.observing {
            observing.ring.journaled(written, processed);
        }
        #[cfg(target_os = "linux")]
        if let Some(notices) = &self.notices {
            notices.journaled(written);
        }
    }

    /// The next thing out of the source, or nothing within `timeout`.
    pub fn next(&self, timeout: Duration) -> Option<Wire> {
        // The source holds a sender itself, so the channel cannot be disconnected.
        if timeout.is_zero() { self.wire.try_recv().ok() } else { self.wire.recv_timeout(timeout).ok() }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.stop.abandon();
        self.unpark();
    }
}

#[cfg(target_os = "linux")]
fn binary_size(bytes: usize) -> String {
    match bytes {
        0..=1_048_575 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}
