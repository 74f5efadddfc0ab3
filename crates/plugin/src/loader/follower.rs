//! The plugins that run follow what is in the directory.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::registry::{Plugin, Registry, Unfit};
use crate::launch::{Host, Launch};
use crate::manifest::Permissions;
use crate::package::{Package, PackageFault, fingerprint};
use crate::pool::{Ending, Gate, Outside, Policy, Pool, Version};
use crate::report::{Report, Sink};
use crate::sandbox::landlock_abi;

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

/// Why a package is not run.
enum Refusal {
    /// It, or this machine, would have to be changed.
    Unfit(String),
    /// That was told.
    NotStarted,
}

pub(super) struct Follower {
    pub options: Options,
    pub report: Sink,
    pub registry: Mutex<Registry>,
}

impl Follower {
    pub fn lock(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, report: Report) {
        (self.report)(report);
    }

    /// Loads what is new or has changed since `seen`, and removes what is gone.
    pub fn look(self: &Arc<Self>, seen: &mut BTreeMap<PathBuf, u64>) {
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
            let mut registry = self.lock();
            let missed = registry.unfit.get(package).map_or(0, |unfit| unfit.missed);
            registry.unfit.insert(package.to_owned(), Unfit { error: error.clone(), missed });
        }
        self.tell(Report::Refused { package: package.to_owned(), error });
    }

    fn is_no_longer_unfit(&self, package: PathBuf) {
        let unfit = self.lock().unfit.remove(&package);
        self.tell_missed(package, unfit.map_or(0, |unfit| unfit.missed));
    }

    pub fn tell_missed(&self, package: PathBuf, events: u64) {
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
