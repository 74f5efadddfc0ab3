//! The loader: a directory of packages in, events to the plugins that asked for them out.
//!
//! [`Loader::dispatch`] hands an event to each plugin that hears it and returns at once; [`Pending::wait`] says how
//! it went with all of them. For one device a plugin hears in the order of the calls, over retries as well; events
//! of different devices go side by side. A plugin that starts hears `onUSBAttach` for what is connected as of the
//! last dispatched event, then what follows.

mod follower;
mod registry;
mod watch;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, PipeWriter};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use autoweave_usb_device::Event;
use thiserror::Error;

use crate::pool::{Ending, Outcome, Tallies};
use crate::report::Sink;
use follower::Follower;
use registry::{Plugin, Registry};
use watch::{Watch, Woken};

pub use follower::{Options, notes};

/// Why there is no loader.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the fields are named by the messages")]
pub enum OpenFault {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: others may write it, and so decide what runs: chmod o-w", .0.display())]
    WritableByOthers(PathBuf),
}

/// A plugin as it is.
#[derive(Debug, Clone)]
pub struct Status {
    /// Its name.
    pub plugin: String,
    /// Its version.
    pub version: String,
    /// The digest of its package.
    pub digest: String,
    /// The directory it was loaded from.
    pub directory: PathBuf,
    /// Numbers.
    pub tallies: Tallies,
    /// Why a worker of it last crashed; empty if none did.
    pub last_error: String,
}

/// Runs the plugins of a directory. Dropped, it ends them without waiting.
pub struct Loader {
    follower: Arc<Follower>,
    /// Closed to end the thread.
    stop: Mutex<Option<PipeWriter>>,
    /// Says when all there was is loaded; disconnected when the thread has ended.
    watching: Mutex<Receiver<()>>,
}

/// An event on its way to plugins.
#[derive(Debug)]
pub struct Pending {
    outcomes: Receiver<Outcome>,
    arrived: Vec<Outcome>,
    expected: usize,
}

impl Loader {
    /// Begins to load what is in the directory, and watches it from then on. `connected` are the attaches of the
    /// devices that are there. What is dispatched before [`Loader::wait_until_loaded`] says yes, plugins miss that are
    /// not loaded yet.
    ///
    /// # Errors
    /// One of the directories cannot be used. A package that cannot be run is no error but a [`crate::report::Report`].
    pub fn open(options: Options, connected: Vec<Arc<Event>>, report: Sink) -> Result<Self, OpenFault> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenFault::Io { path, source }
        };
        let mode = fs::metadata(&options.directory).map_err(failed(&options.directory))?.permissions().mode();
        if mode & 0o002 != 0 {
            return Err(OpenFault::WritableByOthers(options.directory));
        }
        empty(&options.store).map_err(failed(&options.store))?;
        let (reader, stop) = io::pipe().map_err(failed(&options.directory))?;
        let watch = Watch::new(reader);
        watch.cover(&options.directory);
        let mut registry = Registry::default();
        connected.iter().for_each(|event| registry.note(event));
        let follower = Arc::new(Follower { options, report, registry: Mutex::new(registry) });
        let (watched, (loaded, watching)) = (Arc::clone(&follower), channel());
        thread::Builder::new()
            .name("plugin-watch".to_owned())
            .spawn(move || {
                let mut seen = BTreeMap::new();
                watched.look(&mut seen);
                // Nobody may want to know.
                let _ = loaded.send(());
                while watch.wait() == Woken::Look {
                    watch.cover(&watched.options.directory);
                    watched.look(&mut seen);
                }
            })
            .map_err(failed(&follower.options.directory))?;
        Ok(Self { follower, stop: Mutex::new(Some(stop)), watching: Mutex::new(watching) })
    }

    /// Waits until each plugin that was there at first is ready or not, at most for `patience`; says whether that is
    /// so. To be asked until it says yes.
    pub fn wait_until_loaded(&self, patience: Duration) -> bool {
        self.watching.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(patience).is_ok()
    }

    /// Hands an event to the plugins that hear it. `delivery` is the number of its first delivery: more than 1
    /// where one before this loader may have delivered it. Waits for room where many events wait already.
    pub fn dispatch(&self, event: &Arc<Event>, delivery: u32) -> Pending {
        let mut registry = self.follower.lock();
        registry.note(event);
        registry.unfit.values_mut().for_each(|unfit| unfit.missed += 1);
        let pools: Vec<_> = registry.plugins.values().map(|plugin| Arc::clone(&plugin.pool)).collect();
        drop(registry);
        let (reply, outcomes) = channel();
        let expected = pools.iter().filter(|pool| pool.submit(event, delivery, reply.clone())).count();
        Pending { outcomes, arrived: Vec::new(), expected }
    }

    /// The plugins, by name.
    pub fn plugins(&self) -> Vec<Status> {
        let status = |(name, plugin): (&String, &Plugin)| {
            let package = plugin.pool.version().package.clone();
            Status {
                plugin: name.clone(),
                version: package.manifest.version.to_string(),
                digest: package.digest,
                directory: plugin.directory.clone(),
                tallies: plugin.pool.tallies(),
                last_error: plugin.pool.last_error(),
            }
        };
        self.follower.lock().plugins.iter().map(status).collect()
    }

    /// The packages that cannot be run, each with the reason, by path. One whose former version runs on is not among them.
    pub fn refused(&self) -> Vec<(PathBuf, String)> {
        let registry = self.follower.lock();
        registry.unfit.iter().map(|(package, unfit)| (package.clone(), unfit.error.clone())).collect()
    }

    /// Delivers no more: what waits, and whatever is dispatched from now on, ends as [`Ending::Left`].
    pub fn begin_to_close(&self) {
        *self.stop.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let mut registry = self.follower.lock();
        registry.closing = true;
        for plugin in registry.plugins.values() {
            plugin.pool.begin_to_close(Ending::Left);
        }
    }

    /// Ends all plugins: they finish what they are at within `grace`, and what waits ends as [`Ending::Left`].
    pub fn close(&self, grace: Duration) {
        let end = Instant::now() + grace;
        self.begin_to_close();
        let watching = self.watching.lock().unwrap_or_else(PoisonError::into_inner);
        // It may be waiting for a plugin to get ready, which it ends itself then.
        while watching.recv_timeout(end.saturating_duration_since(Instant::now())).is_ok() {}
        let mut registry = self.follower.lock();
        let (plugins, unfit) = (std::mem::take(&mut registry.plugins), std::mem::take(&mut registry.unfit));
        drop(registry);
        unfit.into_iter().for_each(|(package, unfit)| self.follower.tell_missed(package, unfit.missed));
        plugins.values().for_each(|plugin| plugin.pool.close(end));
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.close(Duration::ZERO);
    }
}

impl Pending {
    /// Waits until every plugin is done with the event, or has given it up. Nobody heard it: none. Ends within
    /// the deliveries' deadlines and waits, and [`crate::pool::Policy::patience`]. A plugin whose thread ended
    /// without a word has left the event, under no name.
    pub fn wait(mut self) -> Vec<Outcome> {
        let left = self.expected.saturating_sub(self.arrived.len());
        self.arrived.extend(self.outcomes.iter().take(left));
        let silent = || Outcome { plugin: String::new(), deliveries: 0, ending: Ending::Left, hook: None };
        self.arrived.resize_with(self.expected.max(self.arrived.len()), silent);
        self.arrived
    }

    /// Whether [`Pending::wait`] would return at once.
    pub fn is_done(&mut self) -> bool {
        self.arrived.extend(self.outcomes.try_iter());
        self.arrived.len() >= self.expected
    }
}

fn empty(store: &Path) -> io::Result<()> {
    match fs::remove_dir_all(store) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::create_dir_all(store)?;
    fs::set_permissions(store, fs::Permissions::from_mode(0o755))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_that_never_says_how_it_went_left_the_event() {
        let (reply, outcomes) = channel();
        let done = Outcome { plugin: "well".to_owned(), deliveries: 1, ending: Ending::Done, hook: None };
        reply.send(done.clone()).unwrap();
        drop(reply);
        let waited = Pending { outcomes, arrived: Vec::new(), expected: 2 }.wait();
        assert_eq!((&waited[0], &waited[1].ending, waited.len()), (&done, &Ending::Left, 2));
    }
}
