//! What the daemon tells the outside, in one place: the core writes it, HTTP reads it.

use std::fmt;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use autoweave_usb_device::Device;
use tokio::sync::watch;

use super::counters::Metrics;
use super::status::{PluginsStatus, Status};
use crate::telemetry::Recorder;

/// See the module's description. Nothing here waits for a client, so that none can hold up an event.
pub struct Monitor {
    /// Counters.
    pub metrics: Metrics,
    status: RwLock<Status>,
    committed: watch::Sender<Committed>,
    plugins: OnceLock<PluginsProbe>,
    /// Records what becomes of events, for a collector.
    pub recorder: Recorder,
}

/// Says how the plugins are.
pub type PluginsProbe = Box<dyn Fn() -> PluginsStatus + Send + Sync>;

/// The journal's end and the device table as of there.
#[derive(Clone, Default)]
pub(super) struct Committed {
    pub(super) last_seq: u64,
    pub(super) devices: Arc<[Arc<Device>]>,
}

impl fmt::Debug for Committed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} devices after event {}", self.devices.len(), self.last_seq)
    }
}

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Monitor").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Monitor {
    /// Nothing is committed yet.
    pub fn new(status: Status) -> Self {
        let committed = watch::Sender::default();
        Self {
            metrics: Metrics::default(),
            status: RwLock::new(status),
            committed,
            plugins: OnceLock::new(),
            recorder: Recorder::default(),
        }
    }

    /// The same, with a recorder.
    pub fn with_recorder(self, recorder: Recorder) -> Self {
        Self { recorder, ..self }
    }

    /// Up to `last_seq` all is in the journal, and `devices` is what is connected then. To be called after
    /// each commit, also after one without events, and once at the start.
    pub fn committed<'a>(&self, last_seq: u64, devices: impl Iterator<Item = &'a Arc<Device>>) {
        self.committed.send_replace(Committed { last_seq, devices: devices.cloned().collect() });
    }

    /// From now on this is asked for the plugins. Once.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "only Linux has plugins"))]
    pub fn set_plugins(&self, probe: PluginsProbe) {
        // There is one loader in a process.
        let _ = self.plugins.set(probe);
    }

    /// The plugins.
    pub(super) fn plugins(&self) -> PluginsStatus {
        self.plugins.get().map(|probe| probe()).unwrap_or_default()
    }

    /// Changes what a part of the daemon says of itself; `change` must not wait.
    pub fn update(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.status.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Looks at what the parts of the daemon say of themselves; `look` must not wait.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Status) -> T) -> T {
        look(&self.status.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn snapshot(&self) -> Committed {
        self.committed.borrow().clone()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Committed> {
        self.committed.subscribe()
    }
}
