//! A plugin directory and a loader on it.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use autoweave_usb_device::Event;
use autoweave_usb_plugin::launch::Host;
use autoweave_usb_plugin::loader::{Loader, Options, Pending};
use autoweave_usb_plugin::pool::{Ending, Policy};
use autoweave_usb_plugin::report::{Report, Sink};
use tempfile::TempDir;

use crate::support::{self, DEADLINES, SHELL, attach, until};

pub const ALL: &str = r#"{"usb": {"vendor_ids": ["*"]}}"#;

/// A plugin directory, a loader on it, and what it tells.
pub struct Bed {
    pub directory: TempDir,
    /// Where plugins write to.
    pub output: TempDir,
    pub store: TempDir,
    pub told: Arc<Mutex<Vec<String>>>,
    pub processes: Arc<Mutex<Vec<u32>>>,
    pub policy: Policy,
    pub gate: Arc<AtomicBool>,
}

impl Bed {
    pub fn new() -> Self {
        let (directory, output, store) = (support::directory(), support::directory(), support::directory());
        std::os::unix::fs::chown(output.path(), Some(65534), None).unwrap_or_default();
        let policy = Policy { deadlines: DEADLINES, deliveries_max: 3, patience: Duration::from_secs(5) };
        let (told, processes, gate) = (Arc::default(), Arc::default(), Arc::new(AtomicBool::new(true)));
        Self { directory, output, store, told, processes, policy, gate }
    }

    pub fn package(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A plugin in `sh`; `$out` is a file of its own it may write, `$seq` and `$action` are the event's.
    pub fn shell(&self, name: &str, on_event: &str, more: &str) {
        let (out, permissions) = (self.output.path().join(name), self.permissions(more));
        let code = format!(
            "{SHELL}out={}\nready\nwhile hear; do case $line in *shutdown*) exit 0;; esac\n\
             seq=${{line#*'\"seq\":'}}; seq=${{seq%%,*}}; action=${{line#*'\"action\":\"'}}; action=${{action%%'\"'*}}\n\
             reason=${{line#*'\"reason\":\"'}}; reason=${{reason%%'\"'*}}; delivery=${{line#*'\"delivery\":'}}; delivery=${{delivery%%,*}}\n\
             {on_event}\ndone\n",
            out.display()
        );
        support::write(&self.package(name), name, "run", &code, &permissions);
    }

    pub fn permissions(&self, more: &str) -> String {
        let output = fs::canonicalize(self.output.path()).unwrap();
        format!(
            r#"{{"usb": {{"vendor_ids": ["*"]}}, "filesystem": [{{"path": "{}", "mode": "readwrite"}}]{more}}}"#,
            output.display()
        )
    }

    pub fn open(&self, connected: Vec<Arc<Event>>) -> Loader {
        let (told, processes) = (Arc::clone(&self.told), Arc::clone(&self.processes));
        let gate = Arc::clone(&self.gate);
        let report: Sink = Arc::new(move |report| {
            if let Report::Started { process, .. } = &report {
                processes.lock().unwrap().push(*process);
            }
            told.lock().unwrap().push(format!("{report:?}"));
        });
        let options = Options {
            directory: self.directory.path().to_owned(),
            store: self.store.path().join("packages"),
            require_signature: false,
            policy: self.policy,
            host: Host { sysfs: self.output.path().to_owned(), ..support::host() },
            gate: Arc::new(move || gate.load(Ordering::SeqCst)),
        };
        let loader = Loader::open(options, connected, report).unwrap();
        assert!(loader.wait_until_loaded(Duration::from_secs(60)));
        loader
    }

    pub fn told(&self, what: &str) -> bool {
        self.told.lock().unwrap().iter().any(|told| told.contains(what))
    }

    pub fn wait_for(&self, what: &str) {
        until(&format!("{what} in {:#?}", self.told.lock().unwrap()), || self.told(what));
    }

    pub fn heard(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.output.path().join(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

pub const NOTE: &str = "echo $seq $action $reason $delivery >>$out; ok";

pub fn endings(pending: Pending) -> Vec<(String, u32, Ending)> {
    let outcomes = pending.wait().into_iter();
    let mut endings: Vec<_> =
        outcomes.map(|outcome| (outcome.plugin, outcome.deliveries, outcome.ending)).collect();
    endings.sort_by(|a, b| a.0.cmp(&b.0));
    endings
}

pub fn done(name: &str) -> (String, u32, Ending) {
    (name.to_owned(), 1, Ending::Done)
}

pub fn send(loader: &Loader, number: u64) -> Vec<(String, u32, Ending)> {
    endings(loader.dispatch(&Arc::new(attach(number)), 1))
}
