//! What the daemon has to do with plugins.

mod alone;
mod connected;
mod copies;
pub mod exec;
mod session;
mod tell;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use autoweave_usb_device::Event;
use autoweave_usb_journal::Journal;
use autoweave_usb_plugin::launch::Host;
use autoweave_usb_plugin::loader::{Loader, Options};
use autoweave_usb_plugin::pool::Policy;
use autoweave_usb_plugin::sandbox::Identity;
use autoweave_usb_plugin::worker::Deadlines;
use autoweave_usb_stream::Consumer;

use crate::config::{Config, Loaded, Password, Plugins as Settings};
use crate::exit::Failure;
use crate::http::{Monitor, PluginsProbe};
use crate::pipeline::Group;
use crate::telemetry::Consumption;
use crate::{stamp, state_dir};

pub use alone::run_alone;
pub use connected::connected;
pub use copies::Copies;

/// How long a plugin may take.
pub const DEADLINES: Deadlines = Deadlines {
    ready: Duration::from_secs(10),
    event: Duration::from_secs(30),
    shutdown: Duration::from_secs(5),
};

/// How long an event waits for a plugin that crashes again and again.
const PATIENCE: Duration = Duration::from_secs(60);

/// Before a loader that cannot be opened is tried again.
const OPEN_AGAIN: Duration = Duration::from_secs(5);

/// The plugins of a daemon, fed from its journal.
pub struct Plugins {
    control: Arc<Control>,
    thread: JoinHandle<()>,
}

/// How a session is told to end, and who it runs.
#[derive(Default)]
pub struct Control {
    stop: AtomicBool,
    /// Until when plugins may finish what they are at.
    deadline: Mutex<Option<Instant>>,
    loader: Mutex<Option<Arc<Loader>>>,
}

/// The group that this host's plugins are in the journal, if there are to be any.
///
/// # Errors
/// The journal cannot be read, or there is no plugin directory.
pub fn group(config: &Config, journal: &Journal) -> Result<Option<Group>, Failure> {
    let Some(settings) = &config.plugins else { return Ok(None) };
    directory(settings)?;
    Group::restore(journal, &settings.group, config.journal.max_events).map(Some).map_err(Failure::io)
}

impl Plugins {
    /// Starts to feed them what the journal in `state_dir` has behind the group's place. `connected` are the attaches of
    /// what is connected as of there.
    ///
    /// # Errors
    /// There is no place for copies of the packages, or the system has no thread.
    pub fn start(
        loaded: &Loaded,
        state_dir: &Path,
        group: &Group,
        connected: Vec<Arc<Event>>,
        monitor: &Arc<Monitor>,
    ) -> Result<Self, Failure> {
        let Some(settings) = &loaded.config.plugins else {
            return Err(Failure::usage("plugins.dir names no directory"));
        };
        let copies = Copies::make(state_dir)?;
        let control = Arc::<Control>::default();
        monitor.set_plugins(control.probe());
        let listener = tell::listener(monitor.clone());
        let consumer =
            Consumer::journal(state_dir, group.cursor().clone(), settings.max_deliveries, listener);
        let options = options(loaded, settings, state_dir, &copies.path(), Arc::new(|| true));
        let (mine, told) = (control.clone(), monitor.clone());
        let consumption = Consumption::new(monitor.recorder.clone(), "journal", "journal", &settings.group);
        let feed = move || {
            let mut consumer = consumer;
            session::run(&mine, &mut consumer, &connected, &options, &told, &consumption);
            drop(copies);
        };
        let thread = thread::Builder::new()
            .name("plugins".to_owned())
            .spawn(feed)
            .map_err(|error| Failure::unavailable(format!("plugins cannot be run: {error}")))?;
        Ok(Self { control, thread })
    }

    /// Delivers no more; plugins finish what they are at until `deadline`.
    pub fn begin_to_stop(&self, deadline: Instant) {
        self.control.begin_to_stop(deadline);
    }

    /// Waits until they have ended, after [`Plugins::begin_to_stop`].
    pub fn stop(self) {
        // It panicked: what it did not settle is delivered again.
        let _ = self.thread.join();
    }
}

impl Control {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn begin_to_stop(&self, deadline: Instant) {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) = Some(deadline);
        self.stop.store(true, Ordering::SeqCst);
        if let Some(loader) = self.loader() {
            loader.begin_to_close();
        }
    }

    /// How long plugins may still take.
    fn grace(&self) -> Duration {
        let deadline = *self.deadline.lock().unwrap_or_else(PoisonError::into_inner);
        deadline.map_or(Duration::ZERO, |deadline| deadline.saturating_duration_since(Instant::now()))
    }

    fn loader(&self) -> Option<Arc<Loader>> {
        self.loader.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_loader(&self, loader: Option<Arc<Loader>>) {
        *self.loader.lock().unwrap_or_else(PoisonError::into_inner) = loader;
    }

    /// What health and metrics ask.
    fn probe(self: &Arc<Self>) -> PluginsProbe {
        let control = Arc::clone(self);
        Box::new(move || control.loader().map(|loader| tell::all(&loader)).unwrap_or_default())
    }
}

/// How the plugins that `settings` name are run.
fn options(
    loaded: &Loaded,
    settings: &Settings,
    state_dir: &Path,
    copies: &Path,
    gate: autoweave_usb_plugin::pool::Gate,
) -> Options {
    let policy = Policy { deadlines: DEADLINES, deliveries_max: settings.max_deliveries, patience: PATIENCE };
    Options {
        directory: settings.dir.clone(),
        store: copies.to_owned(),
        require_signature: settings.require_signature,
        policy,
        host: host(loaded, settings.without_landlock.clone(), state_dir),
        gate,
    }
}

/// Who runs plugins, and what they never get.
pub fn host(loaded: &Loaded, without_landlock: Vec<String>, state_dir: &Path) -> Host {
    let secret_file = |secret: Option<&Password>| match secret {
        Some(Password::File(path)) => Some(path.clone()),
        _ => None,
    };
    let password_file = secret_file(loaded.config.redis.as_ref().and_then(|redis| redis.password.as_ref()));
    let token_file = secret_file(loaded.config.monitoring.token.as_ref());
    let etc = Some(PathBuf::from("/etc/autoweave"));
    // Who writes packages, or what was copied of them, decides what runs, and with which permissions.
    let packages = loaded.config.plugins.as_ref().map(|settings| settings.dir.clone());
    let copies = Some(copies::parent(state_dir));
    let more = [state_dir::runtime(), loaded.file.clone(), password_file, token_file, etc, packages, copies];
    Host {
        // The program as it runs, whatever has become of its file.
        launcher: PathBuf::from("/proc/self/exe"),
        launcher_arguments: vec![exec::COMMAND.into()],
        identity: Identity::default_for_loader(),
        without_landlock,
        name: stamp::host(loaded.config.host.as_ref()),
        sysfs: PathBuf::from("/sys"),
        protected: more.into_iter().flatten().chain([state_dir.to_owned()]).collect(),
    }
}

fn directory(settings: &Settings) -> Result<(), Failure> {
    let dir = &settings.dir;
    match std::fs::metadata(dir) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(Failure::unavailable(format!("plugins.dir: {} is no directory", dir.display()))),
        Err(error) => Err(Failure::unavailable(format!(
            "plugins.dir: {}: {error}; make it, or leave the key empty",
            dir.display()
        ))),
    }
}
