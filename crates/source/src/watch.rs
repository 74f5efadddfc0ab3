//! Sources and the device table behind them: observations in, batches of changes out.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use autoweave_usb_device::{Change, DeviceTable, Observation, Observed, Policy, Port, Reason};

use crate::{Position, SourceError, Supervisor, Switch, Wire, clock};

/// Observations in a batch, at most. They are written down together, so this bounds what a crash can take
/// back and how long a commit takes.
const BATCH_MAX: usize = 512;

/// See the module's description.
#[derive(Debug)]
pub struct Watch {
    source: Supervisor,
    table: DeviceTable,
    scan_reason: Reason,
    /// Where an earlier watch of the same receiver ended.
    resumed: Position,
    /// See [`Self::resumes`].
    resumes: bool,
    /// The last observation that was taken in.
    processed: u64,
    /// The source in use has scanned.
    has_scanned: bool,
    /// What [`Self::catch_up`] has told: the newest number of the kernel's of each port.
    caught_up: BTreeMap<Port, u64>,
    /// Why the source cannot go on; told once what it saw before was returned.
    failure: Option<SourceError>,
}

/// What happened since the batch before.
#[derive(Debug, Default)]
pub struct Batch {
    /// What has to be written down and told, in order.
    pub changes: Vec<Change>,
    /// Whether a scan was among the observations: from the first one on, the table is what is there.
    pub scanned: bool,
    /// For each overrun, how many messages were lost, where the operating system says.
    pub overruns: Vec<Option<u64>>,
    /// Scans that could not list the bus.
    pub scan_failures: Vec<io::Error>,
    /// Changes of the source, in order.
    pub switches: Vec<Switch>,
    /// Whether [`crate::Interrupter::interrupt`] was called.
    pub interrupted: bool,
    /// Whether the source is at its end, as a recording or a simulation is.
    pub ended: bool,
}

impl Watch {
    /// Watches `source` with a `table` of what is known from before, which ends at `resumed`. What the first scan finds
    /// different is said to be for `first_scan_reason`.
    pub fn new(
        source: Supervisor,
        mut table: DeviceTable,
        first_scan_reason: Reason,
        resumed: Position,
    ) -> Self {
        if source.source().is_live() {
            table.expect_scan();
        }
        let receiver = source.source().receiver();
        let is_same = resumed.receiver == receiver;
        let resumes = is_same && !receiver.is_empty();
        let resumed = if is_same {
            resumed
        } else {
            // What came while another source told may have been told: the scan tells the rest.
            let has_told = resumed != Position::default();
            let number = if has_told { source.source().forget() } else { 0 };
            Position { receiver, number, ..Position::default() }
        };
        source.start(resumed.clone());
        Self {
            source,
            table,
            scan_reason: first_scan_reason,
            resumed,
            resumes,
            processed: 0,
            has_scanned: false,
            caught_up: BTreeMap::new(),
            failure: None,
        }
    }

    /// Waits for something to happen, at most for `patience`, and returns it with whatever else has happened
    /// by then.
    ///
    /// # Errors
    /// The source cannot go on. What it saw before has been returned.
    pub fn next_batch(&mut self, patience: Duration) -> Result<Batch, SourceError> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let mut batch = Batch::default();
        let mut wait = self.time_to_deadline(patience);
        for _ in 0..BATCH_MAX {
            let Some(wire) = self.source.next(wait) else {
                self.advance(&mut batch);
                break;
            };
            self.take(wire, &mut batch);
            if batch.ended || self.failure.is_some() {
                break;
            }
            wait = Duration::ZERO;
        }
        batch.interrupted = self.source.take_interrupt();
        Ok(batch)
    }

    /// The batches so far are written down.
    pub fn journaled(&self) {
        let Position { number, pending, .. } = self.position();
        let first_pending = pending.into_values().min();
        self.source
            .journaled(first_pending.map_or(number, |first| number.min(first.saturating_sub(1))), number);
    }

    /// What has been taken in and told, once the batches so far are written down.
    pub fn position(&self) -> Position {
        let mut pending = self.table.pending();
        if self.processed < self.resumed.number {
            // Of what an earlier watch left waiting, this much has not been seen again yet.
            for (port, first) in &self.resumed.pending {
                let rest = (*first).max(self.processed + 1);
                pending.entry(*port).and_modify(|first| *first = rest.min(*first)).or_insert(rest);
            }
        }
        let number = self.processed.max(self.resumed.number);
        Position { receiver: self.resumed.receiver.clone(), number, pending }
    }

    /// Publishes by `policy` from now on; what that changes.
    pub fn set_policy(&mut self, policy: Policy) -> Vec<Change> {
        self.table.set_policy(policy, clock::now(), self.source.source().name())
    }

    /// Joins edges per port into their net effect for as long as `is_held`.
    pub fn hold(&mut self, is_held: bool) {
        self.table.hold(is_held);
    }

    /// Takes in what others saw while nobody watched, before anything of the source's; what that changes. Every debounce
    /// window ends with it. Not for a watch that [`Self::resumes`].
    pub fn catch_up(&mut self, observed: &[Observed]) -> Vec<Change> {
        let mut changes = Vec::new();
        for observed in observed {
            changes.extend(self.table.observe(observed, self.scan_reason));
            if let Some((port, seqnum)) = edge_port(&observed.observation).zip(observed.seqnum) {
                self.caught_up.insert(port, seqnum);
            }
        }
        changes.extend(self.table.flush());
        changes
    }

    /// Whether the source received all the while since the watch that the table is from.
    pub fn resumes(&self) -> bool {
        self.resumes
    }

    /// The machine was booted since the table was written down; what that changes.
    pub fn reboot(&mut self) -> Vec<Change> {
        self.table.reboot(clock::now(), self.source.source().name())
    }

    /// Ends every debounce window now; what that changes. What is held is left to the next start's scan.
    pub fn flush(&mut self) -> Vec<Change> {
        self.table.flush()
    }

    /// What is connected, as far as it was told.
    pub fn table(&self) -> &DeviceTable {
        &self.table
    }

    /// The sources.
    pub fn sources(&self) -> &Supervisor {
        &self.source
    }

    /// Has the source hand on what it has received by now, and then say that it ended.
    pub fn finish(&mut self) {
        self.source.finish();
    }

    fn take(&mut self, wire: Wire, batch: &mut Batch) {
        match wire {
            Wire::Observed(mut observed) => {
                if self.has_caught_up_with(&observed) {
                    let Some(known) = known(observed.observation) else { return };
                    observed.observation = known;
                }
                self.processed = self.processed.max(observed.number);
                let found_before = self.table.tallies().found;
                batch.changes.extend(self.table.observe(&observed, self.scan_reason));
                match observed.observation {
                    Observation::Scan { .. } => {
                        batch.scanned = true;
                        self.scan_reason = Reason::Reconcile;
                        let found = self.table.tallies().found - found_before;
                        // The first one of a source is there to find something.
                        self.source.scanned(if std::mem::replace(&mut self.has_scanned, true) {
                            found
                        } else {
                            0
                        });
                    }
                    Observation::Overrun { lost } => batch.overruns.push(lost),
                    _ => {}
                }
            }
            Wire::ScanFailed(error) => {
                batch.changes.extend(self.table.forgo_scan());
                batch.scan_failures.push(error);
            }
            Wire::Interrupted => {}
            Wire::Ended => {
                batch.ended = true;
                batch.changes.extend(self.table.flush());
            }
            Wire::Failed(error) => self.failure = Some(error),
            Wire::Switched(switch) => {
                batch.changes.extend(self.switched());
                batch.switches.push(switch);
            }
        }
    }

    /// Goes on with another source, whose numbers begin anew. It scans first, and that tells what nobody heard.
    fn switched(&mut self) -> Vec<Change> {
        // Nothing may wait under a number of the source before.
        let changes = self.table.flush();
        self.table.expect_scan();
        self.scan_reason = Reason::Reconcile;
        let receiver = self.source.source().receiver();
        self.resumed = Position { receiver, ..Position::default() };
        (self.processed, self.resumes, self.has_scanned) = (0, false, false);
        self.caught_up.clear();
        changes
    }

    /// Whether [`Self::catch_up`] has told this edge.
    fn has_caught_up_with(&self, observed: &Observed) -> bool {
        let newest = edge_port(&observed.observation).and_then(|port| self.caught_up.get(&port));
        newest.zip(observed.seqnum).is_some_and(|(newest, seqnum)| seqnum <= *newest)
    }

    /// A recording's windows end by the recording's clock, with its next observation.
    fn advance(&mut self, batch: &mut Batch) {
        if self.source.source().is_live() {
            batch.changes.extend(self.table.advance(clock::now().mono_ms));
        }
    }

    fn time_to_deadline(&self, patience: Duration) -> Duration {
        let deadline = self.table.next_deadline().filter(|_| self.source.source().is_live());
        let left = |deadline: u64| Duration::from_millis(deadline.saturating_sub(clock::now().mono_ms));
        deadline.map_or(patience, |deadline| patience.min(left(deadline)))
    }
}

/// The port that a device came to or left, if this is an edge.
fn edge_port(observation: &Observation) -> Option<Port> {
    match observation {
        Observation::Arrived { reading } => Some(reading.port),
        Observation::Left { port, .. } => Some(*port),
        _ => None,
    }
}

/// What is left of an edge that was told: more may be known of the device now.
fn known(edge: Observation) -> Option<Observation> {
    match edge {
        Observation::Arrived { reading } => Some(Observation::Refreshed { reading }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use autoweave_usb_device::{Moment, Reading, SourceName};

    use super::*;
    use crate::{Kind, Options, Recorder};

    #[test]
    fn an_edge_that_was_caught_up_with_is_not_told_again() {
        let port: Port = "usb1".parse().unwrap();
        let address = Some(5);
        let observed = |number, source, observation| Observed {
            number,
            seqnum: Some(number),
            at: Moment { wall_us: number, mono_ms: number },
            source,
            observation,
        };
        let arrived = |configuration| {
            let reading = Reading { configuration, ..Reading::bare(port, 5, 0x046d, 0xc52b, None) };
            Observation::Arrived { reading: Box::new(reading) }
        };
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("recording");
        let mut recorder = Recorder::create(&file).unwrap();
        for (number, observation) in [
            (1, arrived(Some(1))),
            (2, Observation::Left { port, address }),
            (3, arrived(Some(1))),
            (4, Observation::Left { port, address }),
        ] {
            recorder.record(&observed(number, SourceName::Uevent, observation)).unwrap();
        }

        let options = Options { chain: vec![Kind::Replay(file)], ..Options::default() };
        let source = Supervisor::open(options).unwrap();
        let mut watch = Watch::new(source, DeviceTable::default(), Reason::Coldplug, Position::default());
        let spooled = [
            observed(1, SourceName::Udev, arrived(None)),
            observed(2, SourceName::Udev, Observation::Left { port, address }),
            observed(3, SourceName::Udev, arrived(None)),
        ];
        let mut changes = watch.catch_up(&spooled);
        loop {
            let batch = watch.next_batch(Duration::from_secs(10)).unwrap();
            changes.extend(batch.changes);
            if batch.ended {
                break;
            }
        }
        let told: Vec<_> = changes
            .iter()
            .filter_map(|change| match change {
                Change::Edge(edge) => Some((edge.seqnum, edge.source)),
                Change::Refreshed(_) => None,
            })
            .collect();
        let (udev, replay) = (SourceName::Udev, SourceName::Replay);
        assert_eq!(told, [(Some(1), udev), (Some(2), udev), (Some(3), udev), (Some(4), replay)]);
    }
}
