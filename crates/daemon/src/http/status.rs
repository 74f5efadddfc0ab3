//! How the daemon is, as `/health` tells it.

use std::collections::BTreeMap;
use std::time::Instant;

use autoweave_usb_device::SourceName;
use serde::Serialize;

/// What the daemon's parts say of themselves. Each part changes only what is its own.
#[derive(Clone, Debug)]
pub struct Status {
    /// When the daemon started.
    pub started: Instant,
    /// How far the daemon has come.
    pub phase: Phase,
    /// Where observations come from; `None`: only plugins are run, and no bus is watched.
    pub source: Option<SourceStatus>,
    /// The durable log.
    pub journal: JournalStatus,
    /// Where events are published to.
    pub stream: StreamStatus,
    /// What is wrong now, by the part that says so.
    problems: BTreeMap<&'static str, Problem>,
}

/// How far the daemon has come; `/ready` answers 200 in the middle one only, and only while nothing has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The first scan is not in the journal yet.
    Starting,
    /// The device table is what is connected.
    Ready,
    /// The daemon was asked to stop.
    Stopping,
}

/// Where observations come from.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct SourceStatus {
    /// The source in use; `None` while none works.
    pub active: Option<SourceName>,
    /// How often another source had to take over, since the start.
    pub failovers: u64,
    /// How often the operating system dropped messages, since the start.
    pub overruns: u64,
}

/// The durable log.
#[derive(Clone, Copy, Debug, Default)]
pub struct JournalStatus {
    /// Events that the stream has not acknowledged; 0 where the journal itself is the stream.
    pub unpublished: u64,
    /// Its size on disk.
    pub bytes: u64,
}

/// Where events are published to.
#[derive(Clone, Debug, Serialize)]
pub struct StreamStatus {
    /// What it is.
    pub kind: StreamKind,
    /// Whether it takes events.
    pub state: StreamState,
    /// What went wrong last, though it may have passed.
    pub last_error: Option<String>,
}

/// What events are published to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StreamKind {
    /// The journal itself.
    Embedded,
    /// A Redis stream.
    Redis,
}

/// Whether the stream takes events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StreamState {
    /// The first connection is being made.
    Connecting,
    /// It takes events.
    Up,
    /// It does not; the journal keeps them.
    Down,
}

/// The state of a plugin that crashed too often.
pub const RESTING: &str = "resting";

/// A plugin.
#[derive(Clone, Debug, Serialize)]
pub struct PluginStatus {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// `running` or [`RESTING`].
    pub state: &'static str,
    /// Processes that run.
    pub workers: usize,
    /// Events that wait for it.
    pub waiting: usize,
    /// Events it is done with.
    pub done: u64,
    /// Events that were given up.
    pub given_up: u64,
    /// Deliveries that failed.
    pub failed: u64,
    /// Workers that crashed, hung or broke the protocol.
    pub crashes: u64,
    /// Why the last of them did. May quote the plugin, and with it what is connected.
    pub last_error: Option<String>,
    /// How often it took up to each bound for an event; one more, for what took longer.
    #[serde(skip)]
    pub durations: Vec<u64>,
    /// The bounds, in microseconds.
    #[serde(skip)]
    pub bounds_us: &'static [u32],
    /// All it took, in microseconds.
    #[serde(skip)]
    pub sum_us: u64,
}

/// What there is in the plugin directory.
#[derive(Clone, Debug, Default)]
pub struct PluginsStatus {
    /// Those that run, by name.
    pub running: Vec<PluginStatus>,
    /// Those that cannot be run, by package.
    pub refused: Vec<RefusedPlugin>,
}

/// A package that cannot be run.
#[derive(Clone, Debug, Serialize)]
pub struct RefusedPlugin {
    /// Its directory.
    pub package: String,
    /// `refused`.
    pub state: &'static str,
    /// What would have to be changed.
    pub error: String,
}

/// How bad a problem is; the worst of them is the daemon's verdict on itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Something is missing, but no event is lost.
    Degraded,
    /// The daemon does not do its job.
    Failed,
}

#[derive(Clone, Debug)]
struct Problem {
    severity: Severity,
    message: String,
}

impl Status {
    /// A daemon that has just started.
    pub fn new(stream: StreamKind) -> Self {
        let state = match stream {
            StreamKind::Embedded => StreamState::Up,
            StreamKind::Redis => StreamState::Connecting,
        };
        Self {
            started: Instant::now(),
            phase: Phase::Starting,
            source: Some(SourceStatus::default()),
            journal: JournalStatus::default(),
            stream: StreamStatus { kind: stream, state, last_error: None },
            problems: BTreeMap::new(),
        }
    }

    /// A daemon that has just started and only runs plugins, on what is in Redis.
    #[cfg_attr(not(any(target_os = "linux", test)), expect(dead_code, reason = "only Linux has plugins"))]
    pub fn of_loader() -> Self {
        Self { source: None, ..Self::new(StreamKind::Redis) }
    }

    /// The part named `part` has a problem; it replaces the one it had.
    pub fn raise(&mut self, part: &'static str, severity: Severity, message: String) {
        self.problems.insert(part, Problem { severity, message });
    }

    /// The part named `part` is well.
    pub fn clear(&mut self, part: &'static str) {
        self.problems.remove(part);
    }

    /// The worst there is; `None` when all is well.
    pub fn worst(&self) -> Option<Severity> {
        self.problems.values().map(|problem| problem.severity).max()
    }

    /// The body of `/health`.
    pub fn health(&self, last_seq: u64, connected: usize, plugins: PluginsStatus) -> Health<'_> {
        let PluginsStatus { running: plugins, refused: plugins_refused } = plugins;
        let resting: Vec<_> = plugins.iter().filter(|plugin| plugin.state == RESTING).collect();
        let status = match self.worst() {
            None if resting.is_empty() => "ok",
            None | Some(Severity::Degraded) => "degraded",
            Some(Severity::Failed) => "failed",
        };
        let problems = self.problems.iter().map(|(part, problem)| format!("{part}: {}", problem.message));
        let crashed = resting.iter().map(|plugin| {
            let why = plugin.last_error.iter().map(|error| format!(": {error}")).collect::<String>();
            format!("plugin {}: crashed too often, its events wait{why}", plugin.name)
        });
        let reasons = problems.chain(crashed).collect();
        Health {
            status,
            reasons,
            version: env!("CARGO_PKG_VERSION"),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            source: self.source,
            devices: Devices { connected },
            journal: Journal { last_seq, unpublished: self.journal.unpublished, bytes: self.journal.bytes },
            stream: &self.stream,
            plugins,
            plugins_refused,
        }
    }
}

/// The body of `/health`.
#[derive(Debug, Serialize)]
pub struct Health<'a> {
    status: &'static str,
    /// Why it is not `ok`, a sentence each.
    reasons: Vec<String>,
    version: &'static str,
    uptime_ms: u64,
    source: Option<SourceStatus>,
    devices: Devices,
    journal: Journal,
    stream: &'a StreamStatus,
    plugins: Vec<PluginStatus>,
    plugins_refused: Vec<RefusedPlugin>,
}

#[derive(Debug, Serialize)]
struct Devices {
    connected: usize,
}

#[derive(Debug, Serialize)]
struct Journal {
    last_seq: u64,
    unpublished: u64,
    bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_problem_is_the_verdict() {
        let mut status = Status::new(StreamKind::Redis);
        let verdict = |status: &Status| status.health(0, 0, PluginsStatus::default()).status;
        assert_eq!(verdict(&status), "ok");
        status.raise("stream", Severity::Degraded, "Redis does not answer".to_owned());
        assert_eq!(verdict(&status), "degraded");
        status.raise("journal", Severity::Failed, "the disk is full".to_owned());
        assert_eq!(verdict(&status), "failed");
        let health = status.health(0, 0, PluginsStatus::default());
        assert_eq!(health.reasons, ["journal: the disk is full", "stream: Redis does not answer"]);
        status.clear("journal");
        assert_eq!(verdict(&status), "degraded");
        status.clear("stream");
        assert_eq!(verdict(&status), "ok");
    }

    #[test]
    fn the_fields_are_those_of_the_contract() {
        let mut status = Status::new(StreamKind::Embedded);
        status.source = Some(SourceStatus { active: Some(SourceName::Uevent), failovers: 1, overruns: 2 });
        status.journal = JournalStatus { unpublished: 3, bytes: 4096 };
        let mut health = serde_json::to_value(status.health(42, 7, PluginsStatus::default())).unwrap();
        assert!(health["uptime_ms"].take().is_u64());
        let expected = serde_json::json!({
            "status": "ok", "reasons": [], "version": env!("CARGO_PKG_VERSION"), "uptime_ms": null,
            "source": {"active": "uevent", "failovers": 1, "overruns": 2},
            "devices": {"connected": 7},
            "journal": {"last_seq": 42, "unpublished": 3, "bytes": 4096},
            "stream": {"kind": "embedded", "state": "up", "last_error": null},
            "plugins": [], "plugins_refused": [],
        });
        assert_eq!(health, expected);
    }
}
