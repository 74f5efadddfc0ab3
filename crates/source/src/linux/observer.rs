//! Messages and sysfs in, observations out.
//!
//! Observations leave in the order of their messages: a device that is being read holds up those behind it,
//! for at most [`READ_LIMIT`]. Scans take part in that order. A scan begins once the socket was found empty
//! and everything before was taken in, and ends the same way: the ports that had an edge in between are left
//! out of its verdict, so it neither overtakes an edge nor contradicts one.

use std::collections::{BTreeSet, VecDeque};
use std::thread;
use std::time::{Duration, Instant};

use autoweave_usb_device::{Moment, Observation, Observed, Port, Reading, SourceName};

use super::log::{Content, RawMessage};
use super::netlink;
use super::readers::{Done, Job, Readers};
use super::receiver::Receiver;
use super::slot::{Fallback, Pending, Place, Slot};
use super::sysfs::{Sysfs, Unread};
use super::uevent::{self, Uevent};
use crate::schedule::Schedule;
use crate::started::{Closed, Started};
use crate::{Counters, Position, SourceError, Wire, clock, kill_point};

/// How long an attach waits for its device to be readable.
const READ_LIMIT: Duration = Duration::from_millis(200);

/// How long a scan waits for the next device to be read.
const SCAN_READ_LIMIT: Duration = Duration::from_secs(1);

/// Messages being held back by reads, at most; further ones stay in the ring.
const SLOTS_MAX: usize = 64;

/// A scan gives the reading threads this many devices at a time, so that it does not hold up an attach.
const SCAN_READS_MAX: usize = 4;

/// Turns messages into observations until its receiver fails or nobody wants them any longer.
pub struct Observer {
    started: Started,
    sysfs: Sysfs,
    readers: Readers,
    receiver: Receiver,
    slots: VecDeque<Slot>,
    /// The ticket of the first slot.
    first_ticket: u64,
    scan: Scan,
    schedule: Schedule,
    /// Something happened that only a scan begun after it can tell.
    is_scan_wanted: bool,
    /// The ticket of the drain after which to end, once asked to finish.
    last_drain: Option<u64>,
    socket_inode: u64,
    /// What need not be told: a daemon before this one did.
    told: Position,
}

enum Scan {
    Idle,
    /// Waiting for the edges before it.
    Opening {
        ticket: u64,
    },
    Reading(Listing),
    /// Waiting for the edges that came meanwhile.
    Closing {
        ticket: u64,
        listing: Listing,
    },
}

#[derive(Default)]
struct Listing {
    to_read: Vec<Port>,
    being_read: BTreeSet<Port>,
    readings: Vec<Reading>,
    /// Ports that had an edge since the scan began.
    touched: BTreeSet<Port>,
    /// Ports with a device that could not be read.
    unread: BTreeSet<Port>,
    deadline: Option<Instant>,
}

impl Observer {
    /// An observer whose first act is a scan.
    pub fn new(
        started: Started,
        sysfs: Sysfs,
        readers: Readers,
        receiver: Receiver,
        socket_inode: u64,
        told: Position,
    ) -> Self {
        Self {
            schedule: Schedule::new(started.interval),
            started,
            sysfs,
            readers,
            receiver,
            slots: VecDeque::new(),
            first_ticket: 0,
            scan: Scan::Idle,
            is_scan_wanted: false,
            last_drain: None,
            socket_inode,
            told,
        }
    }

    /// Runs on the thread that the receiver and the readers unpark.
    pub fn run(mut self) {
        while !self.started.is_stopped() {
            while let Some(done) = self.readers.done() {
                self.read(done);
            }
            let is_ring_empty = self.take_messages();
            self.step_scan();
            if self.release().is_err() {
                return;
            }
            if is_ring_empty && self.slots.is_empty() && self.has_ended() {
                return;
            }
            // With every slot taken, the first one waits for a reader, which unparks.
            if is_ring_empty || self.slots.len() >= SLOTS_MAX {
                thread::park_timeout(self.idle_time());
            }
        }
    }

    /// Whether everything there will be was handed on: the receiver has failed, or this was asked to finish
    /// and the socket was found empty since.
    fn has_ended(&mut self) -> bool {
        if let Some(error) = self.receiver.ring.failure() {
            let _ = self.started.wire.send(Wire::Failed(SourceError::Receive(error)));
            return true;
        }
        if !self.started.is_finishing() {
            return false;
        }
        match self.last_drain {
            None => self.last_drain = Some(self.ask_drain()),
            Some(ticket) if self.receiver.ring.drained(ticket) => {
                let _ = self.started.wire.send(Wire::Ended);
                return true;
            }
            Some(_) => {}
        }
        false
    }

    /// Takes messages while there is room. True if there were no more.
    fn take_messages(&mut self) -> bool {
        let room = SLOTS_MAX.saturating_sub(self.slots.len());
        for _ in 0..room {
            let Some(message) = self.receiver.ring.take() else { return true };
            kill_point("taken");
            self.take(message);
        }
        false
    }

    fn take(&mut self, RawMessage { number, at, content }: RawMessage) {
        let Content::Uevent(bytes) = &content else {
            if !self.told.covers(number, None) {
                self.overrun(number, at);
            }
            return;
        };
        let place = Place { number, seqnum: uevent::seqnum(bytes), at };
        match uevent::parse(bytes) {
            Ok(uevent) if self.told.covers(number, uevent.port()) => self.receiver.ring.discard(number),
            Ok(Uevent::Added { devpath, bare }) => {
                self.touch(bare.port);
                self.start_reading(place, devpath, bare, Fallback::Arrived);
            }
            Ok(Uevent::Changed { devpath, bare }) => {
                self.touch(bare.port);
                self.start_reading(place, devpath, bare, Fallback::Nothing);
            }
            Ok(Uevent::Removed { port, address }) => {
                self.touch(port);
                self.push(place, Pending::Ready(Observation::Left { port, address }));
            }
            Ok(Uevent::Bound { port, interface, driver }) => {
                self.touch(port);
                let driver = driver.map(str::to_owned);
                self.push(place, Pending::Ready(Observation::Bound { port, interface, driver }));
            }
            Ok(Uevent::Other) => self.receiver.ring.discard(number),
            Err(_) => {
                // It said that something happened on USB: the scan finds out what.
                Counters::add(&self.started.counters.malformed, 1);
                self.receiver.ring.discard(number);
                self.is_scan_wanted = true;
            }
        }
    }

    fn overrun(&mut self, number: u64, at: Moment) {
        // None lost is no reason to leave it out: the kernel wakes the reader before it counts (`netlink_overrun` in
        // net/netlink/af_netlink.c).
        let lost = netlink::drops(self.socket_inode).map(|drops| self.receiver.ring.lost(drops));
        Counters::add(&self.started.counters.overruns, 1);
        Counters::add(&self.started.counters.lost, lost.unwrap_or(0));
        self.push(Place { number, seqnum: None, at }, Pending::Ready(Observation::Overrun { lost }));
        // A scan that is under way began before the loss and may have missed what was lost.
        self.scan = Scan::Idle;
        self.is_scan_wanted = true;
    }

    fn start_reading(&mut self, place: Place, devpath: &str, bare: Box<Reading>, fallback: Fallback) {
        let ticket = self.first_ticket + self.slots.len() as u64;
        let deadline = Instant::now() + READ_LIMIT;
        let pending = Pending::Reading { bare, deadline, fallback };
        let Pending::Reading { bare, .. } = &pending else { return };
        let is_being_read = self.readers.announced(ticket, devpath, bare, deadline);
        self.push(place, if is_being_read { pending } else { self.unread(pending) });
    }

    /// The device could not be read although it is there.
    fn unread(&self, pending: Pending) -> Pending {
        if matches!(pending, Pending::Reading { fallback: Fallback::Arrived, .. }) {
            Counters::add(&self.started.counters.reads_timed_out, 1);
        }
        pending.without_reading()
    }

    fn push(&mut self, place: Place, content: Pending) {
        self.slots.push_back(Slot { place, content });
    }

    /// The place of what no message told, but a look at sysfs behind the last one.
    fn here(&self) -> Place {
        Place { number: self.receiver.ring.taken(), seqnum: None, at: clock::now() }
    }

    fn read(&mut self, done: Done) {
        match done.job {
            Job::Listed { port } => self.read_listed(port, done.outcome),
            Job::Announced { ticket, .. } => self.read_announced(ticket, done.outcome),
        }
    }

    fn read_announced(&mut self, ticket: u64, outcome: Result<Reading, Unread>) {
        let index = ticket.checked_sub(self.first_ticket).and_then(|index| usize::try_from(index).ok());
        let Some(slot) = index.and_then(|index| self.slots.get_mut(index)) else {
            // Too late to be told at the attach, but not to be known at the detach.
            if let Ok(reading) = outcome {
                let observation = Observation::Refreshed { reading: Box::new(reading) };
                self.push(self.here(), Pending::Ready(observation));
            }
            return;
        };
        if !matches!(slot.content, Pending::Reading { .. }) {
            return;
        }
        let pending = std::mem::replace(&mut slot.content, Pending::Nothing);
        let content = match (outcome, pending) {
            (Ok(reading), pending) => pending.with_reading(reading),
            (Err(Unread::NotReady), pending) => self.unread(pending),
            (Err(Unread::Gone), pending) => pending.without_reading(),
        };
        if let Some(slot) = index.and_then(|index| self.slots.get_mut(index)) {
            slot.content = content;
        }
    }

    /// Hands on what is ready, in order.
    fn release(&mut self) -> Result<(), Closed> {
        let is_waiting = |slot: &Slot| matches!(&slot.content, Pending::Reading { deadline, .. } if Instant::now() < *deadline);
        while self.slots.front().is_some_and(|slot| !is_waiting(slot)) {
            let Some(Slot { place, content }) = self.slots.pop_front() else { return Ok(()) };
            let Place { number, seqnum, at } = place;
            self.first_ticket += 1;
            match self.unread(content) {
                Pending::Ready(observation) => {
                    let source = SourceName::Uevent;
                    self.started.wire.send(Wire::Observed(Observed {
                        number,
                        seqnum,
                        at,
                        source,
                        observation,
                    }))?;
                }
                _ => self.receiver.ring.discard(number),
            }
        }
        Ok(())
    }

    fn touch(&mut self, port: Port) {
        if let Scan::Reading(listing) | Scan::Closing { listing, .. } = &mut self.scan {
            listing.touched.insert(port);
        }
    }

    fn step_scan(&mut self) {
        self.scan = match std::mem::replace(&mut self.scan, Scan::Idle) {
            Scan::Idle if self.is_scan_wanted || Instant::now() >= self.schedule.next() => {
                self.is_scan_wanted = false;
                Scan::Opening { ticket: self.ask_drain() }
            }
            Scan::Opening { ticket } if self.receiver.ring.drained(ticket) => self.list(),
            Scan::Reading(listing) => self.read_on(listing),
            Scan::Closing { ticket, listing } if self.receiver.ring.drained(ticket) => {
                self.close_scan(listing)
            }
            unchanged => unchanged,
        };
    }

    fn ask_drain(&self) -> u64 {
        let ticket = self.receiver.ring.ask_drain();
        self.receiver.wake();
        ticket
    }

    fn list(&mut self) -> Scan {
        match self.sysfs.ports() {
            Ok(mut to_read) => {
                to_read.reverse();
                let deadline = Some(Instant::now() + SCAN_READ_LIMIT);
                self.read_on(Listing { to_read, deadline, ..Listing::default() })
            }
            Err(error) => {
                Counters::add(&self.started.counters.scans_failed, 1);
                self.schedule.failed();
                let _ = self.started.wire.send(Wire::ScanFailed(error));
                Scan::Idle
            }
        }
    }

    fn read_on(&mut self, mut listing: Listing) -> Scan {
        if listing.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            listing.unread.extend(listing.to_read.drain(..));
            listing.unread.extend(std::mem::take(&mut listing.being_read));
        }
        while listing.being_read.len() < SCAN_READS_MAX
            && let Some(port) = listing.to_read.pop()
        {
            if self.readers.listed(port) {
                listing.being_read.insert(port);
            } else {
                listing.unread.insert(port);
            }
        }
        if listing.being_read.is_empty() {
            Scan::Closing { ticket: self.ask_drain(), listing }
        } else {
            Scan::Reading(listing)
        }
    }

    fn read_listed(&mut self, port: Port, outcome: Result<Reading, Unread>) {
        let Scan::Reading(listing) = &mut self.scan else { return };
        if !listing.being_read.remove(&port) {
            return;
        }
        match outcome {
            Ok(reading) => {
                listing.readings.push(reading);
                listing.deadline = Some(Instant::now() + SCAN_READ_LIMIT);
            }
            Err(Unread::NotReady) => drop(listing.unread.insert(port)),
            // It went between the listing and the reading, so its edge is on its way.
            Err(Unread::Gone) => {}
        }
    }

    fn close_scan(&mut self, listing: Listing) -> Scan {
        let Listing { readings, touched, mut unread, .. } = listing;
        Counters::add(&self.started.counters.unreadable, unread.len() as u64);
        self.schedule.scanned(touched.is_empty() && unread.is_empty());
        unread.extend(touched);
        let observation = Observation::Scan { readings, except: unread };
        self.push(self.here(), Pending::Ready(observation));
        Scan::Idle
    }

    fn idle_time(&self) -> Duration {
        let read = self.slots.front().and_then(|slot| match &slot.content {
            Pending::Reading { deadline, .. } => Some(*deadline),
            _ => None,
        });
        let scan = match &self.scan {
            Scan::Idle => Some(self.schedule.next()),
            Scan::Reading(listing) => listing.deadline,
            Scan::Opening { .. } | Scan::Closing { .. } => None,
        };
        let next = [read, scan].into_iter().flatten().min();
        next.map_or(Duration::MAX, |next| next.saturating_duration_since(Instant::now()))
    }
}
