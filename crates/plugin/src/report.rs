//! What a loader tells while it runs: for the log, the metrics and `/health`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use autoweave_usb_device::Event;

use crate::worker::LogLine;

/// Takes what a loader tells. Called from its threads, which wait meanwhile.
pub type Sink = Arc<dyn Fn(Report) + Send + Sync>;

/// Something that happened.
#[derive(Debug)]
#[allow(missing_docs, reason = "the fields are named by what they are of")]
pub enum Report {
    /// A plugin is there and ready. `notes` say what its permissions come to, for the log.
    Loaded { plugin: String, version: String, notes: Vec<String> },
    /// A plugin is there and did not become ready: its events wait, as after [`Report::CircuitOpened`].
    NotStarted { plugin: String, version: String, error: String },
    /// Another version of a plugin took its place.
    Swapped { plugin: String, version: String, notes: Vec<String> },
    /// A new version did not become ready: the one before goes on.
    RolledBack { plugin: String, version: String, error: String },
    /// A directory is no plugin that can be run. One that was loaded from it before goes on.
    Refused { package: PathBuf, error: String },
    /// While this directory was no plugin that could be run, so many events went by.
    Missed { package: PathBuf, events: u64 },
    /// A plugin's directory is gone, and so is the plugin; `unheard` events still waited for it.
    Removed { plugin: String, unheard: usize },
    /// A plugin gave up what was there when it started: of that there is no dead letter.
    ColdplugGivenUp { plugin: String, event: Arc<Event>, deliveries: u32, error: String },
    /// A plugin answered a delivery, as it is counted in [`Tallies::durations`](crate::pool::Tallies::durations).
    Answered { plugin: String, took: Duration },
    /// A plugin's line for the log.
    Log { plugin: String, line: LogLine },
    /// A worker is ready; `restart` tells whether one crashed before.
    Started { plugin: String, process: u32, restart: bool },
    /// A worker crashed, hung or broke the protocol; the next is started after `wait`.
    Crashed { plugin: String, error: String, wait: Duration },
    /// It crashed too often in a row: nothing is started for `wait`, and events wait.
    CircuitOpened { plugin: String, error: String, wait: Duration },
    /// It answered again.
    CircuitClosed { plugin: String },
    /// It did not end as it was asked to.
    ShutdownFailed { plugin: String, error: String },
    /// The plugin directory cannot be watched or read; it is tried again.
    DirectoryFailed { directory: PathBuf, error: String },
}
