//! The loader: a directory of packages in, events to the plugins that asked for them out.
//!
//! [`Loader::dispatch`] hands an event to each plugin that hears it and returns at once; [`Pending::wait`] says how
//! it went with all of them. For one device a plugin hears in the order of the calls, over retries as well; events
//! of different devices go side by side. A plugin that starts hears `onUSBAttach` for what is connected as of the
//! last dispatched event, then what follows.

mod watch;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{self, PipeWriter};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use autoweave_usb_device::{Action, Event, Reason};
use thiserror::Error;

use crate::launch::{Host, Launch};
use crate::manifest::Permissions;
use crate::package::{Package, PackageFault, fingerprint};
use crate::pool::{Ending, Gate, Outcome, Outside, Policy, Pool, Tallies, Version};
use crate::report::{Report, Sink};
use crate::sandbox::landlock_abi;
use watch::{Watch, Woken};

/// Connected devices that are remembered for plugins that start later.
const CONNECTED_MAX: usize = 65_536;

/// The first ABI of Landlock that limits TCP ports.
const ABI_TCP: u32 = 4;

/// What a loader needs to know.
#[derive(Clone)]
pub struct Options {
    /// One package in each of its directories; those that begin with a dot are passed over.
    pub directory: PathBuf,
    /// Where packages are copied to before they run; made if it is not there, and emptied. Has to be reachable
    /// for the plugins' user, and is the loader's alone.
    pub store: PathBuf,
    /// Whether a package without a signature is refused.
    pub require_signature: bool,
    /// How plugins are treated.
    pub policy: Policy,
    /// Who runs them, and what they never get.
    pub host: Host,
    /// Asked before each delivery: while it says no, events wait. What is dispatched meanwhile and finds no room ends as
    /// [`Ending::Left`].
    pub gate: Gate,
}

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
    inner: Arc<Inner>,
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

/// Why a package is not run.
enum Refusal {
    /// It, or this machine, would have to be changed.
    Unfit(String),
    /// That was told.
    NotStarted,
}

struct Inner {
    options: Options,
    report: Sink,
    registry: Mutex<Registry>,
}

#[derive(Default)]
struct Registry {
    plugins: BTreeMap<String, Plugin>,
    /// The last attach of each device that is connected, by producer and `device_id`.
    connected: HashMap<(String, String), Arc<Event>>,
    /// Directories that are no plugin that can be run, and how many events went by since.
    unfit: BTreeMap<PathBuf, u64>,
    /// No plugin is to be added any more.
    closing: bool,
}

struct Plugin {
    pool: Arc<Pool>,
    directory: PathBuf,
    /// Of the version before: a worker of it may still be at an event.
    previous: Option<PathBuf>,
}

impl Loader {
    /// Begins to load what is in the directory, and watches it from then on. `connected` are the attaches of the
    /// devices that are there. What is dispatched before [`Loader::wait_until_loaded`] says yes, plugins miss that are
    /// not loaded yet.
    ///
    /// # Errors
    /// One of the directories cannot be used. A package that cannot be run is no error but a [`Report`].
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
        let inner = Arc::new(Inner { options, report, registry: Mutex::new(registry) });
        let (watched, (loaded, watching)) = (Arc::clone(&inner), channel());
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
            .map_err(failed(&inner.options.directory))?;
        Ok(Self { inner, stop: Mutex::new(Some(stop)), watching: Mutex::new(watching) })
    }

    /// Waits until each plugin that was there at first is ready or not, at most for `patience`; says whether that is
    /// so. To be asked until it says yes.
    pub fn wait_until_loaded(&self, patience: Duration) -> bool {
        self.watching.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(patience).is_ok()
    }

    /// Hands an event to the plugins that hear it. `delivery` is the number of its first delivery: more than 1
    /// where one before this loader may have delivered it. Waits for room where many events wait already.
    pub fn dispatch(&self, event: &Arc<Event>, delivery: u32) -> Pending {
        let mut registry = self.inner.lock();
        registry.note(event);
        registry.unfit.values_mut().for_each(|missed| *missed += 1);
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
        self.inner.lock().plugins.iter().map(status).collect()
    }

    /// Delivers no more: what waits, and whatever is dispatched from now on, ends as [`Ending::Left`].
    pub fn begin_to_close(&self) {
        *self.stop.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let mut registry = self.inner.lock();
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
        let mut registry = self.inner.lock();
        let (plugins, unfit) = (std::mem::take(&mut registry.plugins), std::mem::take(&mut registry.unfit));
        drop(registry);
        unfit.into_iter().for_each(|(package, missed)| self.inner.tell_missed(package, missed));
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
    /// the deliveries' deadlines and waits, and [`Policy::patience`]. A plugin whose thread ended without a word has left
    /// the event, under no name.
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

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, report: Report) {
        (self.report)(report);
    }

    /// Loads what is new or has changed since `seen`, and removes what is gone.
    fn look(self: &Arc<Self>, seen: &mut BTreeMap<PathBuf, u64>) {
        let directory = &self.options.directory;
        let packages = match packages(directory) {
            Ok(packages) => packages,
            Err(error) => {
                let error = error.to_string();
                return self.tell(Report::DirectoryFailed { directory: directory.clone(), error });
            }
        };
        let gone: Vec<_> = self
            .lock()
            .plugins
            .iter()
            .filter(|(_, plugin)| !packages.contains(&plugin.directory))
            .map(|(name, _)| name.clone())
            .collect();
        gone.iter().for_each(|name| self.remove(name));
        seen.retain(|path, _| packages.contains(path));
        let unfit: Vec<_> =
            self.lock().unfit.keys().filter(|path| !packages.contains(*path)).cloned().collect();
        unfit.into_iter().for_each(|package| self.is_no_longer_unfit(package));
        for package in packages {
            if self.lock().closing {
                return;
            }
            // One that cannot be looked through is loaded nevertheless, which says why not.
            let before = fingerprint(&package).ok();
            if before.is_some() && before == seen.get(&package).copied() {
                continue;
            }
            let loaded = self.load(&package);
            // One that is as it should be and did not start may do so at the next look.
            let is_final = !matches!(loaded, Err(Refusal::NotStarted));
            match loaded {
                Err(Refusal::Unfit(error)) => self.refuse(&package, error),
                Ok(()) | Err(Refusal::NotStarted) => self.is_no_longer_unfit(package.clone()),
            }
            // Changed while it was read: the change has woken the watch, and it is looked at again.
            seen.remove(&package);
            let is_same = |before: &u64| is_final && fingerprint(&package).ok() == Some(*before);
            if let Some(before) = before.filter(is_same) {
                seen.insert(package, before);
            }
        }
        self.prune();
    }

    fn refuse(&self, package: &Path, error: String) {
        if self.name_of(package).is_none() {
            self.lock().unfit.entry(package.to_owned()).or_insert(0);
        }
        self.tell(Report::Refused { package: package.to_owned(), error });
    }

    fn is_no_longer_unfit(&self, package: PathBuf) {
        let missed = self.lock().unfit.remove(&package);
        self.tell_missed(package, missed.unwrap_or(0));
    }

    fn tell_missed(&self, package: PathBuf, events: u64) {
        if events > 0 {
            self.tell(Report::Missed { package, events });
        }
    }

    fn load(self: &Arc<Self>, directory: &Path) -> Result<(), Refusal> {
        let unfit = |fault: PackageFault| Refusal::Unfit(fault.to_string());
        let package =
            Package::stage(directory, &self.options.store, self.options.require_signature).map_err(unfit)?;
        let launch =
            Launch::plan(&package, &self.options.host).map_err(|fault| Refusal::Unfit(fault.to_string()))?;
        let name = package.manifest.name.clone();
        let (version, notes) = (package.manifest.version.to_string(), notes(&package.manifest.permissions));
        let old_name = self.name_of(directory).filter(|old| *old != name);
        let registry = self.lock();
        let existing =
            registry.plugins.get(&name).map(|plugin| (Arc::clone(&plugin.pool), plugin.directory.clone()));
        drop(registry);
        match existing {
            Some((_, other)) if other != directory => {
                return Err(Refusal::Unfit(format!(
                    "{}: {} is a plugin named {name:?} already: rename one",
                    directory.display(),
                    other.display()
                )));
            }
            Some((pool, _)) if pool.has_started() && pool.version().package.digest == package.digest => {
                return Ok(());
            }
            Some((pool, _)) => self.swap(&pool, Version { package, launch }, version, notes)?,
            None => self.add(directory, Version { package, launch }, version, notes)?,
        }
        old_name.iter().for_each(|old| self.remove(old));
        Ok(())
    }

    fn outside(&self) -> Outside {
        Outside { report: Arc::clone(&self.report), gate: Arc::clone(&self.options.gate) }
    }

    /// A plugin that did not become ready is there all the same: what it should hear waits for it.
    fn add(
        &self,
        directory: &Path,
        new: Version,
        version: String,
        notes: Vec<String>,
    ) -> Result<(), Refusal> {
        let plugin = new.package.manifest.name.clone();
        let pool = Pool::open(new, self.options.policy, self.outside()).map_err(|error| {
            Refusal::Unfit(format!("{}: {plugin}: no thread can be started: {error}", directory.display()))
        })?;
        let started = pool.start();
        let mut registry = self.lock();
        if registry.closing {
            drop(registry);
            pool.begin_to_close(Ending::Left);
            pool.close(Instant::now());
            return Ok(());
        }
        pool.submit_first(registry.coldplug());
        let added = Plugin { pool: Arc::new(pool), directory: directory.to_owned(), previous: None };
        registry.plugins.insert(plugin.clone(), added);
        drop(registry);
        match started {
            Ok(()) => self.tell(Report::Loaded { plugin, version, notes }),
            Err(error) => return Err(self.not_started(plugin, version, error)),
        }
        Ok(())
    }

    fn swap(
        self: &Arc<Self>,
        pool: &Pool,
        new: Version,
        version: String,
        notes: Vec<String>,
    ) -> Result<(), Refusal> {
        let (plugin, previous) = (new.package.manifest.name.clone(), pool.version().package.root.clone());
        let is_first = !pool.has_started();
        let watched = Arc::clone(self);
        match pool.swap(new, Box::new(move || watched.lock().coldplug().collect())) {
            Ok(()) => {
                let mut registry = self.lock();
                if let Some(plugin) = registry.plugins.get_mut(&plugin) {
                    plugin.previous = Some(previous);
                }
                drop(registry);
                self.tell(match is_first {
                    true => Report::Loaded { plugin, version, notes },
                    false => Report::Swapped { plugin, version, notes },
                });
            }
            Err(error) if is_first => return Err(self.not_started(plugin, version, error)),
            Err(error) => self.tell(Report::RolledBack { plugin, version, error }),
        }
        Ok(())
    }

    fn not_started(&self, plugin: String, version: String, error: String) -> Refusal {
        self.tell(Report::NotStarted { plugin, version, error });
        Refusal::NotStarted
    }

    fn name_of(&self, directory: &Path) -> Option<String> {
        let registry = self.lock();
        registry
            .plugins
            .iter()
            .find(|(_, plugin)| plugin.directory == directory)
            .map(|(name, _)| name.clone())
    }

    fn remove(&self, name: &str) {
        let removed = self.lock().plugins.remove(name);
        if let Some(plugin) = removed {
            let deadlines = self.options.policy.deadlines;
            let unheard = plugin.pool.begin_to_close(Ending::Removed);
            plugin.pool.close(Instant::now() + deadlines.event + deadlines.shutdown);
            self.tell(Report::Removed { plugin: name.to_owned(), unheard });
        }
    }

    /// Removes the copies that nobody runs any more. What cannot be removed now can be at the next change.
    fn prune(&self) {
        let registry = self.lock();
        let used = |plugin: &Plugin| {
            [Some(plugin.pool.version().package.root.clone()), plugin.previous.clone()]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
        };
        let used: Vec<PathBuf> = registry.plugins.values().flat_map(used).collect();
        drop(registry);
        let Ok(copies) = fs::canonicalize(&self.options.store).and_then(fs::read_dir) else { return };
        for copy in copies.flatten().map(|entry| entry.path()).filter(|path| !used.contains(path)) {
            let _ = fs::remove_dir_all(copy);
        }
    }
}

impl Registry {
    fn note(&mut self, event: &Arc<Event>) {
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
    fn coldplug(&self) -> impl Iterator<Item = Arc<Event>> {
        let mut events: Vec<_> = self.connected.values().cloned().collect();
        let place = |event: &Event| (event.seq, event.device.port());
        events.sort_by(|a, b| (&a.producer, place(a)).cmp(&(&b.producer, place(b))));
        events.into_iter().map(|event| Arc::new(Event { reason: Reason::Coldplug, ..Event::clone(&event) }))
    }
}

/// The directories in `directory`. Links are not followed.
fn packages(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut packages = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if !hidden && entry.file_type()?.is_dir() {
            packages.push(entry.path());
        }
    }
    packages.sort();
    Ok(packages)
}

fn empty(store: &Path) -> io::Result<()> {
    match fs::remove_dir_all(store) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::create_dir_all(store)?;
    fs::set_permissions(store, fs::Permissions::from_mode(0o755))
}

/// What an administrator should know of a plugin's permissions.
pub fn notes(permissions: &Permissions) -> Vec<String> {
    let abi = landlock_abi();
    let mut notes = Vec::new();
    if !permissions.usb.listed {
        notes.push("hears of no device: permissions.usb lists none".to_owned());
    }
    if !permissions.tcp_ports.is_empty() {
        let ports = &permissions.tcp_ports;
        notes.push(match abi {
            ABI_TCP.. => format!("may connect to any host on the TCP ports {ports:?}, and use UDP"),
            _ => format!(
                "may use the network: this kernel (Landlock ABI {abi}) cannot limit it to the ports {ports:?}"
            ),
        });
    }
    if abi == 0 {
        notes.push(
            "runs without Landlock, which this kernel does not offer: it reads and writes what its user may"
                .to_owned(),
        );
    }
    notes
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
