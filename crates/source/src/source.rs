//! A source of observations, whichever it is.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::Thread;
use std::time::Duration;
use std::{fmt, io};

use autoweave_usb_device::{Observed, SourceName};
use thiserror::Error;

#[cfg(target_os = "linux")]
use crate::Reception;
use crate::supervisor::{Nudge, Switch};
use crate::{Counters, Notices, Position, RecordingError, Simulation, nusb, poll, recording, simulate};

/// Observations waiting to be taken, at most; further ones wait where they come from.
const WAITING_MAX: usize = 1024;

/// Which source to open.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// Kernel uevents and sysfs (Linux).
    Uevent,
    /// libusb's hot-plug callbacks, where the cargo feature `libusb` is on.
    Libusb,
    /// The operating system's notifications, through the library nusb.
    Nusb,
    /// Enumeration at [`Options::interval`].
    Poll,
    /// The notices of the udev helper, [`Options::notices`], and sysfs (Linux).
    Udev,
    /// A recording, as fast as it is taken, on the clock it was recorded by.
    Replay(PathBuf),
    /// Synthetic devices.
    Simulate(Simulation),
}

/// Which sources to use, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// The sources to choose from, the best first.
    pub chain: Vec<Kind>,
    /// The time between two scans of the whole bus.
    pub interval: Duration,
    /// The receive buffer to ask the kernel for, in bytes. It may grant less.
    pub receive_buffer_bytes: usize,
    /// Where the udev helper's notices arrive, if they do.
    pub notices: Option<Arc<Notices>>,
    /// What all of them count together.
    pub counters: Arc<Counters>,
}

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

/// What comes out of a source.
#[derive(Debug)]
pub enum Wire {
    /// Something was seen.
    Observed(Observed),
    /// A scan could not list the bus; what is known of it stands.
    ScanFailed(io::Error),
    /// Somebody wants the taker's attention; see [`crate::Supervisor::take_interrupt`].
    Interrupted,
    /// From here on, what comes is another source's.
    Switched(Switch),
    /// The source cannot go on.
    Failed(SourceError),
    /// The recording or the simulation is over.
    Ended,
}

/// What a source's thread is told.
#[derive(Debug, Default)]
struct Stop {
    /// Hand on what was received, and end.
    finish: AtomicBool,
    /// Nobody takes any longer.
    abandon: AtomicBool,
}

/// Why a source cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The uevent socket, or a thread, cannot be had.
    #[error("kernel uevents cannot be received: {0}")]
    Uevent(io::Error),
    /// Helpers do not reach this process.
    #[error("nobody serves the udev helper's socket (fallback.enable_udev; only `run` does)")]
    NoNotices,
    /// This operating system has no such source.
    #[error("there is no {0} source on this operating system")]
    Unavailable(SourceName),
    /// libusb cannot be used here.
    #[error("libusb does not start: {0}")]
    Libusb(io::Error),
    /// The source needs a cargo feature that is off.
    #[error("this program was built without the source {0}")]
    NotBuilt(SourceName),
    /// The operating system takes no listener.
    #[error("the operating system's notifications cannot be had: {0}")]
    Nusb(io::Error),
    /// No more threads can be had.
    #[error("a thread cannot be started: {0}")]
    Thread(io::Error),
    /// The recording cannot be read.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// It failed before its first scan.
    #[error(transparent)]
    Source(#[from] SourceError),
}

/// Why none of a chain's sources can be opened, in its order.
#[derive(Debug)]
pub struct OpenErrors(pub Vec<OpenError>);

/// Why a source cannot go on.
#[derive(Debug, Error)]
pub enum SourceError {
    /// The uevent socket broke.
    #[error("the uevent socket failed: {0}")]
    Receive(io::Error),
    /// libusb broke.
    #[error("libusb failed: {0}")]
    Libusb(io::Error),
    /// The udev helper does not reach the daemon any more.
    #[error("the udev helper's socket failed: {0}")]
    Notices(io::Error),
    /// Scans found what it should have told.
    #[error("it does not hear what scans find")]
    Deaf,
    /// It does not even scan any longer.
    #[error("nothing has come from it for {} ms", .0.as_millis())]
    Silent(Duration),
    /// Its thread has ended.
    #[error("it has ended")]
    Ended,
    /// The recording is damaged from here on.
    #[error(transparent)]
    Recording(#[from] RecordingError),
}

/// Nobody takes from the source any longer.
#[derive(Debug)]
pub struct Closed;

/// What a source's thread is given.
#[derive(Debug)]
pub struct Started {
    pub wire: WireSender,
    pub counters: Arc<Counters>,
    pub interval: Duration,
    stop: Arc<Stop>,
}

#[derive(Debug)]
pub struct WireSender {
    wire: SyncSender<Wire>,
    nudge: Option<Nudge>,
}

impl Default for Options {
    /// What the daemon's configuration defaults to.
    fn default() -> Self {
        Self {
            chain: Kind::system(),
            interval: Duration::from_secs(5),
            receive_buffer_bytes: 128 << 20,
            notices: None,
            counters: Arc::default(),
        }
    }
}

impl Kind {
    /// The sources of this operating system, the best first.
    pub fn system() -> Vec<Self> {
        if cfg!(target_os = "linux") {
            vec![Self::Uevent, Self::Libusb, Self::Udev, Self::Poll]
        } else if cfg!(windows) {
            vec![Self::Nusb, Self::Poll]
        } else {
            vec![Self::Nusb, Self::Libusb, Self::Poll]
        }
    }

    /// What its observations say where they are from.
    pub fn name(&self) -> SourceName {
        match self {
            Self::Uevent => SourceName::Uevent,
            Self::Libusb => SourceName::Libusb,
            Self::Nusb => SourceName::Nusb,
            Self::Poll => SourceName::Poll,
            Self::Udev => SourceName::Udev,
            Self::Replay(_) => SourceName::Replay,
            Self::Simulate(_) => SourceName::Simulate,
        }
    }

    /// Whether it tells of devices that are there, for as long as it is asked.
    pub(crate) fn is_of_the_bus(&self) -> bool {
        !matches!(self, Self::Replay(_) | Self::Simulate(_))
    }

    /// Whether it finds what has happened by looking, and hears of nothing.
    pub(crate) fn looks(&self) -> bool {
        *self == Self::Poll
    }

    /// Whether it may hear nothing although it can be opened: the kernel tells this namespace nothing, or no helper has
    /// been heard yet.
    #[cfg(target_os = "linux")]
    pub fn may_be_deaf(&self, options: &Options) -> bool {
        match self {
            Self::Uevent | Self::Libusb => !crate::linux::hears_uevents(),
            Self::Udev => options.notices.as_ref().is_some_and(|notices| !notices.has_heard()),
            _ => false,
        }
    }

    /// Whether it may hear nothing although it can be opened.
    #[cfg(not(target_os = "linux"))]
    pub fn may_be_deaf(&self, _: &Options) -> bool {
        false
    }
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
        let (mut source, started) = Self::new(options, nudge);
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
                source.name = SourceName::Libusb;
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
                (source.name, source.is_live) = (SourceName::Replay, false);
                source.description = format!("the recording {}", file.display());
                recording::spawn(started, file)?;
            }
            Kind::Simulate(simulation) => {
                source.name = SourceName::Simulate;
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
        let (mut source, started) = Self::new(options, None);
        source.start_uevent(started, reception)?;
        Ok(source)
    }

    fn new(options: &Options, nudge: Option<Nudge>) -> (Self, Started) {
        let (sender, wire) = mpsc::sync_channel(WAITING_MAX);
        let stop = Arc::new(Stop::default());
        let started = Started {
            wire: WireSender { wire: sender.clone(), nudge },
            counters: options.counters.clone(),
            interval: options.interval,
            stop: stop.clone(),
        };
        let source = Self {
            name: SourceName::Poll,
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
        self.name = SourceName::Uevent;
        self.description = format!("kernel uevents, with a receive buffer of {}", binary_size(granted));
        Ok(())
    }

    #[cfg(target_os = "linux")]
    fn start_udev(&mut self, started: Started, notices: &Arc<Notices>) -> Result<(), OpenError> {
        self.wake = Some(crate::udev::spawn(started, notices.clone()).map_err(OpenError::Thread)?);
        self.name = SourceName::Udev;
        self.description = format!("the udev helper's notices on {}", notices.path().display());
        self.notices = Some(notices.clone());
        Ok(())
    }

    fn start_nusb(&mut self, started: Started, watch: nusb::Watch) -> Result<(), OpenError> {
        (self.name, self.description) = (SourceName::Nusb, nusb::DESCRIPTION.to_owned());
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
        self.stop.finish.store(true, Ordering::SeqCst);
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
        self.stop.abandon.store(true, Ordering::SeqCst);
        self.unpark();
    }
}

impl From<OpenError> for OpenErrors {
    fn from(error: OpenError) -> Self {
        Self(vec![error])
    }
}

impl fmt::Display for OpenErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&each.join("\n"))
    }
}

impl Error for OpenErrors {}

impl Started {
    /// Whether the source was dropped.
    pub fn is_stopped(&self) -> bool {
        self.stop.abandon.load(Ordering::SeqCst)
    }

    /// Whether the source was asked to finish.
    pub fn is_finishing(&self) -> bool {
        self.stop.finish.load(Ordering::SeqCst)
    }
}

impl WireSender {
    /// Hands something on, waiting until there is room.
    pub fn send(&self, wire: Wire) -> Result<(), Closed> {
        self.wire.send(wire).map_err(|_| Closed)?;
        if let Some(nudge) = &self.nudge {
            nudge.give();
        }
        Ok(())
    }
}

#[cfg(target_os = "linux")]
fn binary_size(bytes: usize) -> String {
    match bytes {
        0..=1_048_575 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}
