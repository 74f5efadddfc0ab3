//! Callbacks in, observations out, in order. A scan begins when every callback so far was handed on, and leaves out
//! the ports of those that came while it was under way.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use autoweave_usb_device::{Moment, Observation, Observed, Port, SourceName};
use rusb::{Context, UsbContext};

use super::Bus;
use super::heard::{Heard, Place};
use crate::source::Closed;
use crate::{Counters, SourceError, Started, Wire, clock};

/// Ports that a scan said nothing about are scanned again after this long, then after twice as long, and so on
/// up to the interval.
const RESCAN_PAUSE: Duration = Duration::from_millis(100);

/// Interfaces and their drivers come after the device, and libusb does not say when: so long after the last arrival
/// the bus is scanned for them.
const SETTLED: Duration = Duration::from_secs(1);

/// Turns callbacks into observations.
pub struct Observer {
    started: Arc<Started>,
    context: Context,
    heard: Receiver<Heard>,
    /// What was said during a scan.
    waiting: VecDeque<Heard>,
    missed: Arc<AtomicU64>,
    /// Where devices are that came, or were scanned: libusb may have forgotten that when they go.
    places: BTreeMap<Place, Port>,
    bus: Bus,
    number: u64,
    next_scan: Instant,
    settled: Option<Instant>,
    rescan_pause: Duration,
    is_finishing: bool,
}

impl Observer {
    /// An observer whose first act is a scan.
    pub fn new(
        started: Arc<Started>,
        context: Context,
        heard: Receiver<Heard>,
        missed: Arc<AtomicU64>,
        bus: Bus,
    ) -> Self {
        Self {
            started,
            context,
            heard,
            waiting: VecDeque::new(),
            missed,
            places: BTreeMap::new(),
            bus,
            number: 0,
            next_scan: Instant::now(),
            settled: None,
            rescan_pause: RESCAN_PAUSE,
            is_finishing: false,
        }
    }

    /// Runs until libusb fails, all is handed on, or nobody wants it any longer.
    pub fn run(mut self) {
        // Nobody takes any longer, or libusb failed and was said to have.
        let _ = self.observe();
        self.context.interrupt_handle_events();
    }

    fn observe(&mut self) -> Result<(), Closed> {
        while !self.started.is_stopped() {
            if self.started.is_finishing() && !self.is_finishing {
                self.is_finishing = true;
                self.context.interrupt_handle_events();
            }
            match self.next() {
                Ok(heard) => self.tell(heard)?,
                Err(TryRecvError::Empty) => self.idle()?,
                Err(TryRecvError::Disconnected) => {
                    self.tell_missed()?;
                    return self.started.wire.send(Wire::Ended);
                }
            }
        }
        Ok(())
    }

    fn next(&mut self) -> Result<Heard, TryRecvError> {
        self.waiting.pop_front().map_or_else(|| self.heard.try_recv(), Ok)
    }

    fn tell(&mut self, heard: Heard) -> Result<(), Closed> {
        match heard {
            Heard::Arrived { at, place, bare } => {
                let reading = match bare {
                    Some(bare) => self.bus.read(bare),
                    None => match self.bus.find(place) {
                        Some(reading) => reading,
                        None => return self.unplaced(),
                    },
                };
                self.places.insert(place, reading.port);
                self.settled = Some(Instant::now() + SETTLED);
                self.send(at, Observation::Arrived { reading })
            }
            Heard::Left { at, place, port } => {
                let Some(port) = self.places.remove(&place).or(port) else { return self.unplaced() };
                self.send(at, Observation::Left { port, address: Some(place.1) })
            }
            Heard::Failed(error) => {
                let _ = self.started.wire.send(Wire::Failed(SourceError::Libusb(io::Error::other(error))));
                Err(Closed)
            }
        }
    }

    /// Something came or went, and nobody knows where: the scan finds out.
    fn unplaced(&mut self) -> Result<(), Closed> {
        Counters::add(&self.started.counters.malformed, 1);
        self.next_scan = Instant::now();
        Ok(())
    }

    /// Every callback so far was handed on.
    fn idle(&mut self) -> Result<(), Closed> {
        for reading in self.bus.late() {
            self.send(clock::now(), Observation::Refreshed { reading: Box::new(reading) })?;
        }
        self.tell_missed()?;
        let scan_at = self.settled.map_or(self.next_scan, |settled| settled.min(self.next_scan));
        let pause = scan_at.saturating_duration_since(Instant::now());
        if self.is_finishing {
            thread::park();
        } else if pause.is_zero() {
            self.scan()?;
        } else {
            thread::park_timeout(pause);
        }
        Ok(())
    }

    fn tell_missed(&mut self) -> Result<(), Closed> {
        let lost = self.missed.swap(0, Ordering::SeqCst);
        if lost == 0 {
            return Ok(());
        }
        Counters::add(&self.started.counters.overruns, 1);
        Counters::add(&self.started.counters.lost, lost);
        self.next_scan = Instant::now();
        self.send(clock::now(), Observation::Overrun { lost: Some(lost) })
    }

    fn scan(&mut self) -> Result<(), Closed> {
        let interval = self.started.interval;
        self.settled = None;
        let listed = self.bus.list();
        self.next_scan = Instant::now() + interval;
        let (readings, mut except) = match listed {
            Ok(listed) => listed,
            Err(error) => {
                Counters::add(&self.started.counters.scans_failed, 1);
                return self.started.wire.send(Wire::ScanFailed(error));
            }
        };
        Counters::add(&self.started.counters.unreadable, except.len() as u64);
        self.waiting.extend(self.heard.try_iter());
        except.extend(self.waiting.iter().filter_map(Heard::port));
        if except.is_empty() {
            self.rescan_pause = RESCAN_PAUSE;
        } else {
            self.next_scan = Instant::now() + self.rescan_pause.min(interval);
            self.rescan_pause = self.rescan_pause.saturating_mul(2).min(interval);
        }
        self.places.retain(|_, port| except.contains(port));
        self.places
            .extend(readings.iter().map(|reading| ((reading.port.bus, reading.address), reading.port)));
        self.send(clock::now(), Observation::Scan { readings, except })
    }

    fn send(&mut self, at: Moment, observation: Observation) -> Result<(), Closed> {
        self.number += 1;
        let (number, source) = (self.number, SourceName::Libusb);
        self.started.wire.send(Wire::Observed(Observed { number, seqnum: None, at, source, observation }))
    }
}

impl Heard {
    fn port(&self) -> Option<Port> {
        match self {
            Self::Arrived { bare, .. } => bare.as_ref().map(|bare| bare.port),
            Self::Left { port, .. } => *port,
            Self::Failed(_) => None,
        }
    }
}
