//! Which plugins there are, and what is connected.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use autoweave_usb_device::{Action, Event, Reason};

use crate::pool::Pool;

/// Connected devices that are remembered for plugins that start later.
const CONNECTED_MAX: usize = 65_536;

#[derive(Default)]
pub(super) struct Registry {
    pub plugins: BTreeMap<String, Plugin>,
    /// The last attach of each device that is connected, by producer and `device_id`.
    connected: HashMap<(String, String), Arc<Event>>,
    /// Directories that are no plugin that can be run.
    pub unfit: BTreeMap<PathBuf, Unfit>,
    /// No plugin is to be added any more.
    pub closing: bool,
}

/// Why a directory is no plugin that can be run, and how many events went by since it is none.
pub(super) struct Unfit {
    pub error: String,
    pub missed: u64,
}

pub(super) struct Plugin {
    pub pool: Arc<Pool>,
    pub directory: PathBuf,
    /// Of the version before: a worker of it may still be at an event.
    pub previous: Option<PathBuf>,
}

impl Registry {
    pub fn note(&mut self, event: &Arc<Event>) {
        let key = (event.producer.clone(), event.device.device_id.clone());
        match event.action {
            Action::Attach if self.connected.len() < CONNECTED_MAX || self.connected.contains_key(&key) => {
                self.connected.insert(key, Arc::clone(event));
            }
            Action::Attach => {}
            Action::Detach => drop(self.connected.remove(&key)),
        }
    }

    /// What a plugin that starts hears first, hubs before what is behind them.
    pub fn coldplug(&self) -> impl Iterator<Item = Arc<Event>> {
        let mut events: Vec<_> = self.connected.values().cloned().collect();
        let place = |event: &Event| (event.seq, event.device.port());
        events.sort_by(|a, b| (&a.producer, place(a)).cmp(&(&b.producer, place(b))));
        events.into_iter().map(|event| Arc::new(Event { reason: Reason::Coldplug, ..Event::clone(&event) }))
    }
}
