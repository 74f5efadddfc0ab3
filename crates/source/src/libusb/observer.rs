//! Callbacks in, observations out, in order. A scan begins when every callback so far was handed on, and leaves out
//! the ports of those that came while it was under way.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::thread;
use std::time::Instant;

use autoweave_usb_device::{Moment, Observation, Observed, Port, SourceName};
use rusb::{Context, UsbContext};

use super::Bus;
use super::heard::{Heard, Place};
use crate::schedule::Schedule;
use crate::started::{Closed, Started};
use crate::{Counters, SourceError, Wire, clock};

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
    schedule: Schedule,
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
            schedule: Schedule::new(started.interval),
            started,
            context,
            heard,
            waiting: VecDeque::new(),
            missed,
            places: BTreeMap::new(),
            bus,
            number: 0,
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
                self.schedule.arrived();
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
        self.schedule.hasten();
        Ok(())
    }

    /// Every callback so far was handed on.
    fn idle(&mut self) -> Result<(), Closed> {
        for reading in self.bus.late() {
            self.send(clock::now(), Observation::Refreshed { reading: Box::new(reading) })?;
        }
        self.tell_missed()?;
        let pause = self.schedule.next().saturating_duration_since(Instant::now());
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
        self.schedule.hasten();
        self.send(clock::now(), Observation::Overrun { lost: Some(lost) })
    }

    fn scan(&mut self) -> Result<(), Closed> {
        let (readings, mut except) = match self.bus.list() {
            Ok(listed) => listed,
            Err(error) => {
                self.schedule.failed();
                Counters::add(&self.started.counters.scans_failed, 1);
                return self.started.wire.send(Wire::ScanFailed(error));
            }
        };
        Counters::add(&self.started.counters.unreadable, except.len() as u64);
        self.waiting.extend(self.heard.try_iter());
        except.extend(self.waiting.iter().filter_map(Heard::port));
        self.schedule.scanned(except.is_empty());
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
