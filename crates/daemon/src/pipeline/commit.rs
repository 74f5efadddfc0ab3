//! Writing down: changes become events, and events and the table they lead to one transaction.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use autoweave_usb_device::{Action, Change, Device, Event, Port};
use autoweave_usb_journal::{Commit, CommitError, Journal, NewEvent};
use autoweave_usb_source::kill_point;
use tracing::{error, info};

use super::backlog::Backlog;
use super::group::Group;
use super::{META_RECEIVED, META_SEQNUM, Pipeline};
use crate::exit::Failure;
use crate::http::{Severity, SourceStatus};

/// Who says in the health report that the journal cannot be written.
const JOURNAL: &str = "journal";

/// How long to wait before trying a failed journal again.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

impl Pipeline {
    pub(super) fn commit(&mut self, changes: Vec<Change>) -> Result<Vec<Event>, Failure> {
        self.commit_with(changes, Commit::default())
    }

    /// Writes down changes, and what else `commit` holds already.
    pub(super) fn commit_with(
        &mut self,
        changes: Vec<Change>,
        mut commit: Commit,
    ) -> Result<Vec<Event>, Failure> {
        let (mut events, mut observed_us, mut spans) = (Vec::new(), Vec::new(), Vec::new());
        // A flapping port changes many times in a batch; only its last state is a row.
        let mut rows: BTreeMap<Port, Option<Arc<Device>>> = BTreeMap::new();
        for change in changes {
            match change {
                Change::Refreshed(device) => {
                    rows.insert(device.port(), Some(device));
                }
                Change::Edge(edge) => {
                    let mut event = self.stamp.event(&edge);
                    spans.extend(self.monitor.recorder.observed(&mut event, edge.observed_us));
                    commit.events.push(NewEvent { event_id: event.event_id.clone(), event: json(&event)? });
                    events.push(event);
                    observed_us.push(edge.observed_us);
                    let is_connected = edge.action == Action::Attach;
                    rows.insert(edge.device.port(), is_connected.then_some(edge.device));
                }
            }
        }
        for (port, device) in rows {
            commit.devices.push((port.to_string(), device.map(|device| json(&*device)).transpose()?));
        }
        if !events.is_empty() {
            commit.meta.extend(self.backlog.iter_mut().flat_map(Backlog::save));
            commit.meta.extend(self.group.as_mut().and_then(Group::save));
        }
        if let Some(seqnum) =
            events.iter().filter_map(|event| event.seqnum).max().filter(|newest| *newest > self.seqnum)
        {
            self.seqnum = seqnum;
            commit.meta.push((META_SEQNUM, seqnum.to_string()));
        }
        if commit != Commit::default() {
            commit.first_seq = self.journal.last_seq() + 1;
            if self.backlog.is_some() {
                // Before the publisher can find them.
                events.iter().zip(&observed_us).for_each(|(event, us)| self.receipts.keep(event.seq, *us));
            }
            // With the events, so that whoever finds the same messages again takes none twice.
            commit.meta.push((META_RECEIVED, self.watch.position().to_string()));
            kill_point("committing");
            let began = self.monitor.recorder.clock();
            self.write(&commit)?;
            self.monitor.recorder.journaled(spans, began);
            kill_point("committed");
            if let Some(group) = &self.group {
                group.cursor().wake();
            }
            self.mind_backlog();
            self.count(&events, &observed_us);
            self.tell_monitor();
        }
        Ok(events)
    }

    /// What is committed is what the outside may see, and in the embedded log it is acknowledged with that.
    fn count(&self, events: &[Event], observed_us: &[u64]) {
        for (event, observed_us) in events.iter().zip(observed_us) {
            self.monitor.metrics.event(event);
            if self.backlog.is_none() {
                self.monitor.metrics.acknowledged_now(*observed_us);
                self.monitor.recorder.acknowledged(*observed_us);
            }
        }
    }

    /// Tells how the source, the table and the journal are.
    pub(super) fn tell_monitor(&self) {
        let table = self.watch.table();
        self.monitor.metrics.tallies(&table.tallies());
        let sources = self.watch.sources();
        let overruns = sources.counters().overruns.load(Ordering::Relaxed);
        let (active, failovers) = (sources.source().name(), sources.failovers());
        let bytes = self.journal.bytes();
        self.monitor.update(|status| {
            status.source = Some(SourceStatus { active: Some(active), failovers, overruns });
            status.journal.bytes = bytes;
        });
        self.monitor.committed(self.journal.last_seq(), table.devices());
    }

    /// Writes until it is written: meanwhile the source keeps what comes, and the kernel what the source
    /// cannot keep.
    pub(super) fn write(&mut self, commit: &Commit) -> Result<(), Failure> {
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
            // A new daemon could not write either.
            self.watchdog.tell();
            if self.requests.wait_for_stop(REOPEN_PAUSE) {
                let events = commit.events.len();
                return Err(Failure::io(format!("{events} events could not be written: {problem}")));
            }
            match self.journal.reopen() {
                Ok(()) if self.journal.producer() != self.stamp.producer() => {
                    tell_set_aside(&self.journal);
                    return Err(Failure::io(format!(
                        "{problem}; a new journal was begun, start again with it"
                    )));
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

fn json<T: serde::Serialize>(value: &T) -> Result<String, Failure> {
    serde_json::to_string(value)
        .map_err(|error| Failure::io(format!("an event cannot be written as JSON: {error}")))
}
