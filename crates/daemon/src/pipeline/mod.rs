//! The whole way of an event, in order: source, table, journal, stream. One thread owns the first three; the
//! publisher reads the journal and says how far the stream has it.
//!
//! Events and the device table they lead to are written in one transaction, and only then does anyone hear of
//! them and may the source forget what they came from. After a crash the table is restored from the journal
//! and the first scan finds the difference.

mod backlog;
mod commit;
mod group;
mod publish;
mod quiet;
mod receipts;
mod spool;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use autoweave_usb_device::{Device, DeviceTable, Event, Policy, Reason};
use autoweave_usb_journal::{Commit, Journal};
use autoweave_usb_source::{Batch, Notices, Supervisor, Watch, kill_point};
use autoweave_usb_stream::Settings;
use jiff::Timestamp;
use tracing::{error, info};

use crate::exit::Failure;
use crate::held::Watchdog;
use crate::http::{Monitor, Severity};
use crate::signals::Requests;
use crate::stamp::{self, Stamp};
use crate::system;

pub use commit::tell_set_aside;
pub use group::Group;
pub use publish::settings;

use backlog::Backlog;
use publish::Publishing;
use quiet::Quiet;
use receipts::Receipts;

/// The machine's boot, as [`system::boot_id`] calls it. Persisted name.
const META_BOOT_ID: &str = "boot_id";

/// What the next first scan's differences are for. Persisted name.
const META_NEXT_SCAN_REASON: &str = "next_scan_reason";

/// How far the journal has what the source received. Persisted name.
const META_RECEIVED: &str = "received";

/// How often the kernel said that it had dropped uevents, since the journal was made. Persisted name.
pub const META_OVERRUNS: &str = "overruns";

/// When it last did, in milliseconds since the Unix epoch. Persisted name.
pub const META_OVERRUN_AT: &str = "overrun_at";

/// The highest of the kernel's numbers among the events of this boot. Persisted name.
const META_SEQNUM: &str = "seqnum";

/// The producer id that events are published under, where it is not the journal's own. Persisted name.
const META_STREAM_PRODUCER: &str = "stream_producer";

/// Who says in the health report that edges are held back.
const BACKLOG: &str = "backlog";

/// Who says in the health report that the journal keeps nothing more for the plugins.
const GROUP: &str = "plugins' group";

/// How soon edges that are held are to be told once the stream has caught up.
const HELD_PATIENCE: Duration = Duration::from_millis(100);

/// What a pipeline is made of.
pub struct Parts {
    /// Where observations come from.
    pub sources: Supervisor,
    /// Where the udev helper's notices arrive, if they do.
    pub notices: Option<Arc<Notices>>,
    /// Where they are written down.
    pub journal: Journal,
    /// What it ends with.
    pub restored: Restored,
    /// The directory of the journal.
    pub directory: PathBuf,
    /// Bound of the journal.
    pub max_events: u64,
    /// Where events are published to; `None`: the journal itself is the stream.
    pub redis: Option<Settings>,
    /// The group of this host's plugins, if it runs any.
    pub group: Option<Group>,
    /// Which of them.
    pub policy: Policy,
    /// The name of this machine in them.
    pub host: String,
    /// What the outside asks for.
    pub requests: Arc<Requests>,
    /// What the outside is told.
    pub monitor: Arc<Monitor>,
}

/// The source, the table, the journal and the publisher.
pub struct Pipeline {
    watch: Watch,
    journal: Journal,
    stamp: Stamp,
    requests: Arc<Requests>,
    monitor: Arc<Monitor>,
    watchdog: Watchdog,
    /// What has to be kept for the stream; `None`: the journal itself is the stream.
    backlog: Option<Backlog>,
    publishing: Option<Publishing>,
    receipts: Arc<Receipts>,
    group: Option<Group>,
    is_held: bool,
    has_scanned: bool,
    quiet: Quiet,
    /// Overruns since the journal was made.
    overruns: u64,
    /// See [`META_SEQNUM`].
    seqnum: u64,
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
    pub fn open(parts: Parts) -> Result<(Self, Vec<Event>), Failure> {
        let Parts {
            sources,
            notices,
            journal,
            restored,
            directory,
            max_events,
            redis,
            group,
            policy,
            host,
            requests,
            monitor,
        } = parts;
        let meta = |key| journal.meta(key).map_err(Failure::io);
        let boot = BootId::read();
        let rebooted = meta(META_BOOT_ID)?.zip(boot.0.as_ref()).is_some_and(|(then, now)| then != *now);
        let reason = match meta(META_NEXT_SCAN_REASON)?.map(|word| word.parse()) {
            _ if rebooted => Reason::Reboot,
            Some(Ok(reason)) => reason,
            Some(Err(_)) | None => Reason::Coldplug,
        };
        let received = meta(META_RECEIVED)?.and_then(|text| text.parse().ok()).unwrap_or_default();
        let overruns = meta(META_OVERRUNS)?.and_then(|text| text.parse().ok()).unwrap_or(0);
        let seqnum = meta(META_SEQNUM)?.filter(|_| !rebooted).and_then(|text| text.parse().ok()).unwrap_or(0);
        let backlog = redis.is_some().then(|| Backlog::restore(&journal, max_events)).transpose();
        let backlog = backlog.map_err(Failure::io)?;
        let mut watch = Watch::new(sources, DeviceTable::restore(restored.devices), reason, received);
        let mut changes = if rebooted { watch.reboot() } else { Vec::new() };
        changes.extend(watch.set_policy(policy));
        let left = notices.as_deref().map(|notices| {
            let unnumbered = if rebooted { HashSet::new() } else { spool::unnumbered(&directory) };
            spool::catch_up(notices, (seqnum, unnumbered), &mut watch, &mut changes)
        });
        let stamp = Stamp::new(journal.producer().to_owned(), host, journal.last_seq());
        let mut pipeline = Self {
            watch,
            journal,
            stamp,
            requests,
            monitor,
            watchdog: Watchdog::from_environment(),
            backlog,
            publishing: None,
            receipts: Arc::default(),
            group,
            is_held: false,
            has_scanned: false,
            quiet: Quiet::default(),
            overruns,
            seqnum,
        };
        pipeline.mind_backlog();
        let boot_id = boot.0.map(|id| (META_BOOT_ID, id));
        let place = [(META_NEXT_SCAN_REASON, reason.to_string()), (META_SEQNUM, seqnum.to_string())];
        // In one transaction with what the reboot changed: a crash must not leave the one without the other.
        let published = pipeline.backlog.iter_mut().flat_map(Backlog::save);
        let group = group::place(pipeline.group.as_mut(), &pipeline.journal).map_err(Failure::io)?;
        let meta = boot_id.into_iter().chain(place).chain(published).chain(group).collect();
        let devices = restored.damaged.into_iter().map(|port| (port, None)).collect();
        let events = pipeline.commit_with(changes, Commit { meta, devices, ..Commit::default() })?;
        if let Some((notices, left)) = notices.as_deref().zip(left) {
            spool::begin(notices, left);
        }
        if let Some(settings) = redis {
            let producer = pipeline.stream_producer()?;
            let interrupter = pipeline.watch.sources().interrupter();
            let told = (pipeline.monitor.clone(), pipeline.receipts.clone());
            pipeline.publishing = Some(Publishing::start(settings, &directory, producer, told, interrupter)?);
        }
        Ok((pipeline, events))
    }

    /// Waits for something to happen, at most for `patience`, writes it down and has it published.
    ///
    /// # Errors
    /// The source cannot go on, or the journal cannot be written and the daemon was asked to stop.
    pub fn step(&mut self, patience: Duration) -> Result<Step, Failure> {
        let patience = if self.is_held { patience.min(HELD_PATIENCE) } else { patience };
        let patience = self.quiet.bound(patience, Instant::now());
        self.watchdog.tell();
        let mut batch = self.watch.next_batch(self.watchdog.bound(patience)).map_err(Failure::unavailable)?;
        let changes = std::mem::take(&mut batch.changes);
        // From the first scan on, a later start that finds something different has missed it.
        let is_first_scan = batch.scanned && !std::mem::replace(&mut self.has_scanned, true);
        let meta = is_first_scan.then(|| (META_NEXT_SCAN_REASON, Reason::Reconcile.to_string()));
        let group = self.group.as_mut().and_then(Group::save_when_due);
        let meta = meta.into_iter().chain(self.take_overruns(&batch)).chain(group).collect();
        let commit = Commit { meta, ..Commit::default() };
        let events = self.commit_with(changes, commit)?;
        if batch.scanned {
            self.tell_monitor();
        } else {
            // An edge that became no event led to no commit, which tells them otherwise.
            self.monitor.metrics.tallies(&self.watch.table().tallies());
        }
        self.watch.journaled();
        kill_point("forgotten");
        self.attend_to_stream()?;
        self.rest(events.len());
        Ok(Step { events, batch })
    }

    /// Gives memory back a while after the last of many events.
    fn rest(&mut self, events: usize) {
        let now = Instant::now();
        self.quiet.worked(events, now);
        if self.quiet.take(now) {
            self.journal.free_cache();
            system::give_back_memory();
        }
    }

    /// What the journal is to remember of the overruns in `batch`, if there are any. With the position behind them, so
    /// that each counts once.
    fn take_overruns(&mut self, batch: &Batch) -> Vec<(&'static str, String)> {
        if batch.overruns.is_empty() {
            return Vec::new();
        }
        self.overruns += batch.overruns.len() as u64;
        let now = Timestamp::now().as_millisecond();
        vec![(META_OVERRUNS, self.overruns.to_string()), (META_OVERRUN_AT, now.to_string())]
    }

    /// Wakes the publisher, and takes in how far it is.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn attend_to_stream(&mut self) -> Result<(), Failure> {
        let Some(publishing) = &mut self.publishing else { return Ok(()) };
        let published_seq = publishing.published_seq();
        let last_seq = self.journal.last_seq();
        publishing.step(self.backlog.as_ref().map_or(0, |backlog| backlog.unpublished(last_seq)));
        if publishing.take_producer_request() {
            let producer = self.new_stream_producer()?;
            if let Some(publishing) = &self.publishing {
                publishing.resume_as(producer);
            }
        }
        self.published(published_seq);
        Ok(())
    }

    /// Publishes what can be published until `deadline`, the last that is published.
    pub fn stop_publishing(&mut self, deadline: Instant) {
        if let Some(publishing) = self.publishing.take() {
            let published_seq = publishing.stop(deadline);
            self.published(published_seq);
        }
    }

    /// Publishes by other settings from now on, if it publishes.
    pub fn set_redis(&self, settings: Settings) {
        if let Some(publishing) = &self.publishing {
            publishing.reload(settings);
        }
    }

    /// Publishes by another policy from now on.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn set_policy(&mut self, policy: Policy) -> Result<Vec<Event>, Failure> {
        let changes = self.watch.set_policy(policy);
        self.commit(changes)
    }

    /// Keeps another number of events from now on.
    pub fn set_max_events(&mut self, max_events: u64) {
        self.journal.set_max_events(max_events);
        if let Some(backlog) = &mut self.backlog {
            backlog.set_max_events(max_events);
        }
        if let Some(group) = &mut self.group {
            group.set_max_events(max_events);
        }
        self.mind_backlog();
    }

    /// Writes down what still waits for the end of a debounce window.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn flush(&mut self) -> Result<Vec<Event>, Failure> {
        let changes = self.watch.flush();
        self.commit(changes)
    }

    /// Writes down what still waits, and closes the journal.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn finish(mut self) -> Result<Vec<Event>, Failure> {
        let events = self.flush()?;
        let published = self.backlog.iter_mut().flat_map(Backlog::save);
        let group = self.group.as_mut().and_then(Group::save);
        let meta: Vec<_> = published.into_iter().chain(group).collect();
        if !meta.is_empty() {
            self.write(&Commit { meta, ..Commit::default() })?;
        }
        self.watch.journaled();
        self.journal.close().map_err(Failure::io)?;
        Ok(events)
    }

    /// The producer id to publish under.
    fn stream_producer(&self) -> Result<String, Failure> {
        let chosen = self.journal.meta(META_STREAM_PRODUCER).map_err(Failure::io)?;
        Ok(chosen.unwrap_or_else(|| self.journal.producer().to_owned()))
    }

    /// Draws another producer id to publish under, and writes it down.
    fn new_stream_producer(&mut self) -> Result<String, Failure> {
        let producer = stamp::new_producer();
        let meta = vec![(META_STREAM_PRODUCER, producer.clone())];
        self.commit_with(Vec::new(), Commit { meta, ..Commit::default() })?;
        Ok(producer)
    }

    /// The stream has acknowledged the events up to `seq`: their rows may go when there are too many.
    fn published(&mut self, seq: Option<u64>) {
        if let (Some(backlog), Some(seq)) = (&mut self.backlog, seq) {
            let taken = backlog.published(seq);
            self.quiet.published(usize::try_from(taken).unwrap_or(usize::MAX), Instant::now());
            self.mind_backlog();
        }
    }

    /// How many events the stream has never acknowledged.
    pub fn unpublished(&self) -> u64 {
        self.backlog.as_ref().map_or(0, |backlog| backlog.unpublished(self.journal.last_seq()))
    }

    /// Whether edges wait for the stream to catch up.
    pub fn is_held(&self) -> bool {
        self.is_held
    }

    /// Why nothing can be published now, if so.
    pub fn publishing_problem(&self) -> Option<String> {
        self.publishing.as_ref().and_then(Publishing::problem)
    }

    /// Has the source hand on what it has received by now, and then say that it ended.
    pub fn finish_sources(&mut self) {
        self.watch.finish();
    }

    /// The sources and the table.
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// The journal.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Says when plugins are so far behind that the journal keeps nothing more for them.
    fn mind_group(&mut self) {
        let last_seq = self.journal.last_seq();
        match self.group.as_mut().and_then(|group| group.cut_off_changed(last_seq)) {
            None => {}
            Some(true) => {
                let why = "the plugins are as many events behind as the journal may hold (journal.max_events): the oldest \
                           go unheard";
                error!("{why}");
                self.monitor.update(|status| status.raise(GROUP, Severity::Degraded, why.to_owned()));
            }
            Some(false) => self.monitor.update(|status| status.clear(GROUP)),
        }
    }

    /// A journal full of events that the stream lacks takes no more: edges are held until there is room.
    fn mind_backlog(&mut self) {
        self.mind_group();
        let last_seq = self.journal.last_seq();
        let group = self.group.as_ref().and_then(|group| group.needed_after(last_seq));
        let needed = self.backlog.as_ref().map(Backlog::needed_after).into_iter().chain(group).min();
        self.journal.need_after(needed.unwrap_or(u64::MAX));
        let Some(backlog) = &self.backlog else { return };
        let is_full = backlog.is_full(self.journal.last_seq());
        if is_full == self.is_held {
            return;
        }
        self.is_held = is_full;
        self.watch.hold(is_full);
        if is_full {
            let why = "the journal is full of events that the stream lacks (journal.max_events): until it catches up, \
                       a port's edges are joined into their net effect";
            error!("{why}");
            self.monitor.update(|status| status.raise(BACKLOG, Severity::Degraded, why.to_owned()));
        } else {
            info!("the journal has room again: what happened meanwhile is written down as its net effect");
            self.monitor.update(|status| status.clear(BACKLOG));
        }
    }
}

/// What the journal ends with.
pub struct Restored {
    /// The devices that were connected when it was last written.
    devices: Vec<Device>,
    /// The rows that are damaged.
    damaged: Vec<String>,
}

impl Restored {
    /// The devices that were connected.
    pub fn devices(&self) -> Vec<Device> {
        self.devices.clone()
    }

    /// Tells those who ask before anything new is written.
    pub fn tell(&self, journal: &Journal, monitor: &Monitor) {
        let devices: Vec<Arc<Device>> = self.devices.iter().cloned().map(Arc::new).collect();
        monitor.committed(journal.last_seq(), devices.iter());
    }
}

/// Reads what the journal ends with.
///
/// # Errors
/// The journal cannot be read.
pub fn restore(journal: &Journal) -> Result<Restored, Failure> {
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
    Ok(Restored { devices, damaged })
}

struct BootId(Option<String>);

impl BootId {
    fn read() -> Self {
        Self(system::boot_id().ok().filter(|id| !id.is_empty()))
    }
}
