//! The thread that listens, lists, and hands on observations in order.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use ::nusb::DeviceId;
use ::nusb::hotplug::{HotplugEvent, HotplugWatch};
use autoweave_usb_device::{Observation, Observed, Port, Reading, SourceName};
use futures_core::Stream as _;

use super::{Listed, list, reading};
use crate::started::{Closed, Started};
use crate::{Counters, Wire, clock};

/// Edges that are kept while the bus is listed; with more, the list is worth nothing, and made anew.
const EDGES_MAX: usize = 1024;

/// A device that a list lacks is looked for again after so long before it is taken for gone: nusb leaves out what it
/// cannot read at the moment, and does not say so.
const CONFIRM: Duration = Duration::from_millis(500);

/// Runs until the source is dropped or has finished.
pub fn run(started: Started, watch: HotplugWatch) {
    let unpark = Waker::from(Arc::new(Unpark(thread::current())));
    let mut observer = Observer {
        started,
        watch,
        unpark,
        known: HashMap::new(),
        missed: HashSet::new(),
        scan_due: Instant::now(),
        number: 0,
    };
    // An error means that nobody wants to hear of it any longer.
    let _ = observer.run();
}

struct Observer {
    started: Started,
    watch: HotplugWatch,
    unpark: Waker,
    /// Where the devices are, and their addresses: a departure names neither.
    known: HashMap<DeviceId, (Port, u8)>,
    /// Those of them that the last list lacked.
    missed: HashSet<DeviceId>,
    scan_due: Instant,
    number: u64,
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl Observer {
    fn run(&mut self) -> Result<(), Closed> {
        while !self.started.is_stopped() {
            // Looked at before the edges are: what came before the order is handed on.
            let is_finishing = self.started.is_finishing();
            while let Some(edge) = self.next_edge() {
                self.tell_edge(edge)?;
            }
            if is_finishing {
                break;
            }
            if self.scan_due <= Instant::now() {
                self.scan()?;
            }
            thread::park_timeout(self.scan_due.saturating_duration_since(Instant::now()));
        }
        self.started.wire.send(Wire::Ended)
    }

    fn next_edge(&mut self) -> Option<HotplugEvent> {
        match Pin::new(&mut self.watch).poll_next(&mut Context::from_waker(&self.unpark)) {
            Poll::Ready(edge) => edge,
            Poll::Pending => None,
        }
    }

    /// Lists the bus. What has an edge meanwhile is left out of the verdict, and the edge told behind it.
    fn scan(&mut self) -> Result<(), Closed> {
        self.scan_due = Instant::now() + self.started.interval;
        let listed = list();
        let mut edges = Vec::new();
        while let Some(edge) = self.next_edge() {
            edges.push(edge);
            if edges.len() == EDGES_MAX {
                self.scan_due = Instant::now();
                return edges.into_iter().try_for_each(|edge| self.tell_edge(edge));
            }
        }
        match listed {
            Ok(listed) => self.tell_scan(listed, &edges)?,
            Err(error) => self.tell_failure(error)?,
        }
        edges.into_iter().try_for_each(|edge| self.tell_edge(edge))
    }

    fn tell_scan(&mut self, listed: Vec<Listed>, edges: &[HotplugEvent]) -> Result<(), Closed> {
        let mut readings: Vec<(DeviceId, Reading)> = Vec::with_capacity(listed.len());
        for (id, reading) in listed {
            match reading {
                Some(reading) => readings.push((id, reading)),
                None => Counters::add(&self.started.counters.unreadable, 1),
            }
        }
        readings.sort_by_key(|(_, reading)| reading.port);
        let there: HashMap<_, _> = readings.iter().map(|(id, reading)| (*id, place(reading))).collect();
        let mut except: BTreeSet<Port> = edges.iter().filter_map(|edge| self.port_of(edge, &there)).collect();
        let lacking: Vec<_> = self.known.iter().filter(|(id, _)| !there.contains_key(id)).collect();
        let newly_missed = lacking.iter().filter(|(id, _)| !self.missed.contains(id));
        let unconfirmed: BTreeSet<Port> = newly_missed.map(|(_, (port, _))| *port).collect();
        if !unconfirmed.is_empty() {
            self.scan_due = self.scan_due.min(Instant::now() + CONFIRM);
        }
        // A port that has another device now needs no confirmation.
        except.extend(unconfirmed.into_iter().filter(|port| there.values().all(|(taken, _)| taken != port)));
        self.missed = lacking.into_iter().map(|(id, _)| *id).collect();
        self.known.retain(|id, (port, _)| there.contains_key(id) || except.contains(port));
        self.known.extend(there);
        let told = readings.into_iter().map(|(_, reading)| reading);
        let readings = told.filter(|reading| !except.contains(&reading.port)).collect();
        self.tell(Observation::Scan { readings, except })
    }

    fn tell_failure(&mut self, error: io::Error) -> Result<(), Closed> {
        Counters::add(&self.started.counters.scans_failed, 1);
        self.started.wire.send(Wire::ScanFailed(error))
    }

    fn port_of(&self, edge: &HotplugEvent, there: &HashMap<DeviceId, (Port, u8)>) -> Option<Port> {
        match edge {
            HotplugEvent::Connected(info) => reading::read(info).map(|reading| reading.port),
            HotplugEvent::Disconnected(id) => there.get(id).or(self.known.get(id)).map(|(port, _)| *port),
        }
    }

    fn tell_edge(&mut self, edge: HotplugEvent) -> Result<(), Closed> {
        match edge {
            HotplugEvent::Connected(info) => match reading::read(&info) {
                Some(reading) => {
                    self.known.insert(info.id(), place(&reading));
                    self.missed.remove(&info.id());
                    self.tell(Observation::Arrived { reading: Box::new(reading) })
                }
                None => self.look_again(),
            },
            HotplugEvent::Disconnected(id) => match self.known.remove(&id) {
                Some((port, address)) => self.tell(Observation::Left { port, address: Some(address) }),
                // It was gone before nusb could read it, so nobody heard that it came.
                None => self.look_again(),
            },
        }
    }

    /// After an edge that cannot be placed.
    fn look_again(&mut self) -> Result<(), Closed> {
        Counters::add(&self.started.counters.malformed, 1);
        self.scan_due = Instant::now();
        Ok(())
    }

    fn tell(&mut self, observation: Observation) -> Result<(), Closed> {
        self.number += 1;
        self.started.wire.send(Wire::Observed(Observed {
            number: self.number,
            seqnum: None,
            at: clock::now(),
            source: SourceName::Nusb,
            observation,
        }))
    }
}

fn place(reading: &Reading) -> (Port, u8) {
    (reading.port, reading.address)
}
