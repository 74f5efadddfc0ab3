//! A source of observations, whichever it is.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::Thread;
use std::time::Duration;

use autoweave_usb_device::{Observed, SourceName};
use thiserror::Error;

#[cfg(target_os = "linux")]
use crate::Reception;
use crate::{Counters, Position, RecordingError, Simulation, nusb, poll, recording, simulate};

/// Observations waiting to be taken, at most; further ones wait where they come from.
const WAITING_MAX: usize = 1024;

/// Which source to open.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// The best there is here: uevents, or polling where they cannot be had.
    Auto,
    /// Kernel uevents and sysfs (Linux).
    Uevent,
    /// The operating system's notifications, through the library nusb.
    Nusb,
    /// Enumeration at [`Options::interval`].
    Poll,
    /// A recording, as fast as it is taken, on the clock it was recorded by.
    Replay(PathBuf),
    /// Synthetic devices.
    Simulate(Simulation),
}

/// How to open a source.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which one.
    pub kind: Kind,
    /// The time between two scans of the whole bus.
    pub interval: Duration,
    /// The receive buffer to ask the kernel for, in bytes. It may grant less.
    pub receive_buffer_bytes: usize,
}

/// An open source.
#[derive(Debug)]
pub struct Source {
    name: SourceName,
    description: String,
    wire: Receiver<Wire>,
    interrupter: Interrupter,
    stop: Arc<Stop>,
    wake: Option<Thread>,
    counters: Arc<Counters>,
    #[cfg(target_os = "linux")]
    observing: Option<crate::linux::Observing>,
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
    /// Somebody wants the taker's attention; see [`Source::take_interrupt`].
    Interrupted,
    /// The source cannot go on.
    Failed(SourceError),
    /// The recording or the simulation is over.
    Ended,
}

/// Wakes whoever takes from a source.
#[derive(Debug, Clone)]
pub struct Interrupter {
    is_asked: Arc<AtomicBool>,
    wire: SyncSender<Wire>,
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
    /// This operating system has no such source.
    #[error("there is no {0} source on this operating system")]
    Unavailable(SourceName),
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

/// Why a source cannot go on.
#[derive(Debug, Error)]
pub enum SourceError {
    /// The uevent socket broke.
    #[error("the uevent socket failed: {0}")]
    Receive(io::Error),
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
pub struct WireSender(SyncSender<Wire>);

impl Default for Options {
    /// What the daemon's configuration defaults to.
    fn default() -> Self {
        Self { kind: Kind::Auto, interval: Duration::from_secs(5), receive_buffer_bytes: 128 << 20 }
    }
}

impl Kind {
    /// What this operating system has, the best first.
    pub fn system() -> Vec<Self> {
        if cfg!(target_os = "linux") { vec![Self::Uevent, Self::Poll] } else { vec![Self::Nusb, Self::Poll] }
    }
}

impl Source {
    /// Opens a source. From now on nothing is missed; nothing is told before [`Self::start`]. Its first act is a scan,
    /// so that what was there before is known.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(options: &Options) -> Result<Self, OpenError> {
        let (mut source, started) = Self::new(options.interval);
        match &options.kind {
            #[cfg(target_os = "linux")]
            Kind::Auto => match Reception::open(options.receive_buffer_bytes) {
                Ok(reception) => source.start_uevent(started, reception)?,
                Err(error) => {
                    source.start_poll(started)?;
                    source.description += &format!(" (kernel uevents cannot be received: {error})");
                }
            },
            #[cfg(target_os = "linux")]
            Kind::Uevent => {
                let reception = Reception::open(options.receive_buffer_bytes);
                source.start_uevent(started, reception.map_err(OpenError::Uevent)?)?;
            }
            #[cfg(not(target_os = "linux"))]
            Kind::Uevent => return Err(OpenError::Unavailable(SourceName::Uevent)),
            #[cfg(not(target_os = "linux"))]
            Kind::Auto => match nusb::listen() {
                Ok(watch) => source.start_nusb(started, watch)?,
                Err(error) => {
                    source.start_poll(started)?;
                    source.description += &format!(" ({error})");
                }
            },
            Kind::Nusb => source.start_nusb(started, nusb::listen()?)?,
            Kind::Poll => source.start_poll(started)?,
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
    pub fn with_reception(reception: Reception, interval: Duration) -> Result<Self, OpenError> {
        let (mut source, started) = Self::new(interval);
        source.start_uevent(started, reception)?;
        Ok(source)
    }

    fn new(interval: Duration) -> (Self, Started) {
        let (sender, wire) = mpsc::sync_channel(WAITING_MAX);
        let stop = Arc::new(Stop::default());
        let counters = Arc::new(Counters::default());
        let started = Started {
            wire: WireSender(sender.clone()),
            counters: counters.clone(),
            interval,
            stop: stop.clone(),
        };
        let source = Self {
            name: SourceName::Poll,
            description: String::new(),
            wire,
            interrupter: Interrupter { is_asked: Arc::default(), wire: sender },
            stop,
            wake: None,
            counters,
            #[cfg(target_os = "linux")]
            observing: None,
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

    /// What it has counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Whether its observations are of now, and not of the time of a recording.
    pub fn is_live(&self) -> bool {
        self.is_live
    }

    /// What wakes the taker, from any thread or when a signal came.
    pub fn interrupter(&self) -> Interrupter {
        self.interrupter.clone()
    }

    /// Whether [`Interrupter::interrupt`] was called; asked once.
    pub fn take_interrupt(&self) -> bool {
        self.interrupter.is_asked.swap(false, Ordering::SeqCst)
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

impl Interrupter {
    /// Wakes the taker, without ever waiting.
    pub fn interrupt(&self) {
        self.is_asked.store(true, Ordering::SeqCst);
        // It is awake if its channel is full.
        let _ = self.wire.try_send(Wire::Interrupted);
    }
}

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
        self.0.send(wire).map_err(|_| Closed)
    }
}

#[cfg(target_os = "linux")]
fn binary_size(bytes: usize) -> String {
    match bytes {
        0..=1_048_575 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}
