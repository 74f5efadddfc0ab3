//! The whole way of an event, in order: source, table, journal. One thread owns all three.
//!
//! Events and the device table they lead to are written in one transaction, and only then does anyone hear of
//! them and may the source forget what they came from. After a crash the table is restored from the journal
//! and the first scan finds the difference.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use autoweave_usb_device::{Action, Change, Device, DeviceTable, Event, Policy, Port, Reason};
use autoweave_usb_journal::{Commit, CommitError, Journal, NewEvent};
use autoweave_usb_source::{Batch, Source, Watch};
use tracing::{error, info};

use crate::exit::Failure;
use crate::http::{Monitor, Severity, SourceStatus};
use crate::signals::Requests;
use crate::stamp::{self, Stamp};

/// The machine's boot, `/proc/sys/kernel/random/boot_id` on Linux. Persisted name.
const META_BOOT_ID: &str = "boot_id";

/// What the next first scan's differences are for. Persisted name.
const META_NEXT_SCAN_REASON: &str = "next_scan_reason";

/// The producer id that events are published under, where it is not the journal's own. Persisted name.
const META_STREAM_PRODUCER: &str = "stream_producer";

/// Who says in the health report that the journal cannot be written.
const JOURNAL: &str = "journal";

/// How long to wait before trying a failed journal again.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// The source, the table and the journal.
#[derive(Debug)]
pub struct Pipeline {
    watch: Watch,
    journal: Journal,
    stamp: Stamp,
    requests: Arc<Requests>,
    monitor: Arc<Monitor>,
    /// Whether the journal itself is the stream.
    is_embedded: bool,
}

/// What one step brought.
#[derive(Debug, Default)]
pub struct Step {
    /// Written down and to be told, in order.
    pub events: Vec<Event>,
    /// What else happened.
    pub batch: Batch,
}

impl Pipeline {
    /// Takes up where the journal ends: restores the table and tells what a reboot or another policy changed.
    ///
    /// # Errors
    /// The journal cannot be read or written.
    pub fn open(
        journal: Journal,
        source: Source,
        policy: Policy,
        host: String,
        requests: Arc<Requests>,
        monitor: Arc<Monitor>,
    ) -> Result<(Self, Vec<Event>), Failure> {
        let meta = |key| journal.meta(key).map_err(Failure::io);
        let boot = BootId::read();
        let rebooted = meta(META_BOOT_ID)?.zip(boot.0.as_ref()).is_some_and(|(then, now)| then != *now);
        let reason = match meta(META_NEXT_SCAN_REASON)?.map(|word| word.parse()) {
            _ if rebooted => Reason::Reboot,
            Some(Ok(reason)) => reason,
            Some(Err(_)) | None => Reason::Coldplug,
        };
        let (devices, damaged) = restore(&journal)?;
        let table = DeviceTable::restore(devices);
        let mut watch = Watch::new(source, table, reason);
        let mut changes = if rebooted { watch.reboot() } else { Vec::new() };
        changes.extend(watch.set_policy(policy));
        let stamp = Stamp::new(journal.producer().to_owned(), host, journal.last_seq());
        let is_embedded = monitor.is_embedded();
        let mut pipeline = Self { watch, journal, stamp, requests, monitor, is_embedded };
        let boot_id = boot.0.map(|id| (META_BOOT_ID, id));
        let scan_reason = (META_NEXT_SCAN_REASON, reason.to_string());
        // In one transaction with what the reboot changed: a crash must not leave the one without the other.
        let meta = boot_id.into_iter().chain([scan_reason]).collect();
        let devices = damaged.into_iter().map(|port| (port, None)).collect();
        let events = pipeline.commit_with(changes, Commit { meta, devices, ..Commit::default() })?;
        Ok((pipeline, events))
    }

    /// Waits for something to happen, at most for `patience`, and writes it down.
    ///
    /// # Errors
    /// The source cannot go on, or the journal cannot be written and the daemon was asked to stop.
    pub fn step(&mut self, patience: Duration) -> Result<Step, Failure> {
        let mut batch = self.watch.next_batch(patience).map_err(Failure::unavailable)?;
        let changes = std::mem::take(&mut batch.changes);
        // From the first scan on, a later start that finds something different has missed it.
        let meta = batch.scanned.then(|| (META_NEXT_SCAN_REASON, Reason::Reconcile.to_string()));
        let commit = Commit { meta: meta.into_iter().collect(), ..Commit::default() };
        let events = self.commit_with(changes, commit)?;
        self.watch.journaled();
        Ok(Step { events, batch })
    }

    /// Publishes by another policy from now on.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn set_policy(&mut self, policy: Policy) -> Result<Vec<Event>, Failure> {
        let changes = self.watch.set_policy(policy);
        self.commit(changes)
    }

    /// Writes down what still waits for the end of a debounce window, and closes the journal.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn finish(mut self) -> Result<Vec<Event>, Failure> {
        let changes = self.watch.flush();
        let events = self.commit(changes)?;
        self.watch.journaled();
        self.journal.close().map_err(Failure::io)?;
        Ok(events)
    }

    /// The producer id to publish under.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn stream_producer(&self) -> Result<String, Failure> {
        let chosen = self.journal.meta(META_STREAM_PRODUCER).map_err(Failure::io)?;
        Ok(chosen.unwrap_or_else(|| self.journal.producer().to_owned()))
    }

    /// Draws another producer id to publish under, and writes it down.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn new_stream_producer(&mut self) -> Result<String, Failure> {
        let producer = stamp::new_producer();
        let meta = vec![(META_STREAM_PRODUCER, producer.clone())];
        self.commit_with(Vec::new(), Commit { meta, ..Commit::default() })?;
        Ok(producer)
    }

    /// The source and the table.
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// The journal.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    fn commit(&mut self, changes: Vec<Change>) -> Result<Vec<Event>, Failure> {
        self.commit_with(changes, Commit::default())
    }

    /// Writes down changes, and what else `commit` holds already.
    fn commit_with(&mut self, changes: Vec<Change>, mut commit: Commit) -> Result<Vec<Event>, Failure> {
        let mut events = Vec::new();
        // A flapping port changes many times in a batch; only its last state is a row.
        let mut rows: BTreeMap<Port, Option<Arc<Device>>> = BTreeMap::new();
        for change in changes {
            match change {
                Change::Refreshed(device) => {
                    rows.insert(device.port(), Some(device));
                }
                Change::Edge(edge) => {
                    let event = self.stamp.event(&edge);
                    commit.events.push(NewEvent { event_id: event.event_id.clone(), event: json(&event)? });
                    events.push(event);
                    let is_connected = edge.action == Action::Attach;
                    rows.insert(edge.device.port(), is_connected.then_some(edge.device));
                }
            }
        }
        for (port, device) in rows {
            commit.devices.push((port.to_string(), device.map(|device| json(&*device)).transpose()?));
        }
        if commit != Commit::default() {
            commit.first_seq = self.journal.last_seq() + 1;
            self.write(&commit)?;
            self.tell_monitor(&events);
        }
        Ok(events)
    }

    /// What is committed is what the outside may see, and in the embedded log it is acknowledged with that.
    fn tell_monitor(&self, events: &[Event]) {
        let now = SystemTime::now();
        for event in events {
            self.monitor.metrics.event(event);
            let observed = UNIX_EPOCH + Duration::from_millis(event.timestamp);
            if self.is_embedded {
                self.monitor.metrics.acknowledged(now.duration_since(observed).unwrap_or_default());
            }
        }
        let table = self.watch.table();
        self.monitor.metrics.tallies(&table.tallies());
        let source = self.watch.source();
        let overruns = source.counters().overruns.load(Ordering::Relaxed);
        let bytes = self.journal.bytes();
        self.monitor.update(|status| {
            status.source = SourceStatus { active: Some(source.name()), failovers: 0, overruns };
            status.journal.bytes = bytes;
        });
        self.monitor.committed(self.journal.last_seq(), table.devices());
    }

    /// Writes until it is written: meanwhile the source keeps what comes, and the kernel what the source
    /// cannot keep.
    fn write(&mut self, commit: &Commit) -> Result<(), Failure> {
        let mut problem = String::new();
        loop {
            match self.journal.commit(commit) {
                Ok(()) => {
                    self.monitor.update(|status| status.clear(JOURNAL));
                    return Ok(());
                }
                Err(CommitError::Failed(error)) => problem = error.to_string(),
                // It could not be opened again: that is the problem.
                Err(CommitError::Closed) => {}
                Err(error @ (CommitError::Gap { .. } | CommitError::Conflict { .. })) => {
                    return Err(Failure::io(format!("the journal was changed by someone else: {error}")));
                }
            }
            self.monitor.update(|status| status.raise(JOURNAL, Severity::Failed, problem.clone()));
            error!(waiting = commit.events.len(), "the journal cannot be written, trying again: {problem}");
            if self.requests.wait_for_stop(REOPEN_PAUSE) {
                let events = commit.events.len();
                return Err(Failure::io(format!("{events} events could not be written: {problem}")));
            }
            match self.journal.reopen() {
                Ok(()) if self.journal.set_aside().is_some() => {
                    tell_set_aside(&self.journal);
                    return Err(Failure::io(
                        "the journal was damaged while it was open; start again with a new one",
                    ));
                }
                Ok(()) => info!("the journal is open again"),
                Err(error) => problem = error.to_string(),
            }
        }
    }
}

/// Says what was found in the journal's place, if anything was.
pub fn tell_set_aside(journal: &Journal) {
    if let Some(set_aside) = journal.set_aside() {
        let path = set_aside.path.display();
        error!(
            "journal.db was no usable journal ({}); it is kept as {path} and a new one begun",
            set_aside.why
        );
    }
}

/// The devices that were connected when the journal was last written, and the rows that are damaged.
fn restore(journal: &Journal) -> Result<(Vec<Device>, Vec<String>), Failure> {
    let (mut devices, mut damaged) = (Vec::new(), Vec::new());
    for (row, json) in journal.restore().map_err(Failure::io)? {
        match serde_json::from_str::<Device>(&json) {
            Ok(device) if device.port().to_string() == row => devices.push(device),
            _ => {
                error!(
                    "the journal's row of the device in {row:?} is damaged; the device is taken for unplugged"
                );
                damaged.push(row);
            }
        }
    }
    Ok((devices, damaged))
}

fn json<T: serde::Serialize>(value: &T) -> Result<String, Failure> {
    serde_json::to_string(value)
        .map_err(|error| Failure::io(format!("an event cannot be written as JSON: {error}")))
}

struct BootId(Option<String>);

impl BootId {
    fn read() -> Self {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
        Self(id.map(|id| id.trim().to_owned()).filter(|id| !id.is_empty()))
    }
}
