//! Packages written where the plugins' user can read them, and events.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use autoweave_usb_device::{Action, Device, Event, Reading, Reason, SourceName};
use autoweave_usb_plugin::launch::{Host, Launch};
use autoweave_usb_plugin::package::Package;
use autoweave_usb_plugin::sandbox::Identity;
use autoweave_usb_plugin::worker::{Deadlines, LogLine, Worker, WorkerFault};
use tempfile::TempDir;

pub const DEADLINES: Deadlines = Deadlines {
    ready: Duration::from_secs(10),
    event: Duration::from_secs(10),
    shutdown: Duration::from_secs(5),
};

/// A directory that everybody may look into.
pub fn directory() -> TempDir {
    let directory = TempDir::new().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

/// The launcher is an example: `--test real` alone does not build it, a run of the whole package does.
pub fn host() -> Host {
    let built = std::env::current_exe().unwrap();
    let launcher = built.parent().and_then(Path::parent).unwrap().join("examples/plugin_exec");
    Host {
        launcher,
        launcher_arguments: Vec::new(),
        identity: Identity::default_for_loader(),
        without_landlock: Vec::new(),
        name: "h".to_owned(),
        sysfs: "/sys".into(),
        protected: Vec::new(),
    }
}

/// Writes a package of one file, whose hooks are the functions `attach` and `detach`.
pub fn write(package: &Path, name: &str, entry: &str, code: &str, permissions: &str) {
    fs::create_dir_all(package).unwrap();
    let manifest = format!(
        r#"{{"name": "{name}", "version": "1.0.0", "entry": "{entry}", "permissions": {permissions},
            "hooks": {{"onUSBAttach": "attach", "onUSBDetach": "detach"}}}}"#
    );
    fs::write(package.join("autoweave.plugin.json"), manifest).unwrap();
    fs::write(package.join(entry), code).unwrap();
    fs::set_permissions(package.join(entry), fs::Permissions::from_mode(0o755)).unwrap();
}

/// A package in a directory of its own, how to run it, and what it logs.
pub struct Plugin {
    pub directory: TempDir,
    pub log: Arc<Mutex<Vec<LogLine>>>,
    pub launch: Launch,
}

impl Plugin {
    pub fn new(entry: &str, code: &str) -> Self {
        Self::with(entry, code, "{}")
    }

    pub fn with(entry: &str, code: &str, permissions: &str) -> Self {
        Self::for_host(entry, code, permissions, &host())
    }

    pub fn for_host(entry: &str, code: &str, permissions: &str, host: &Host) -> Self {
        let directory = directory();
        write(directory.path(), "under-test", entry, code, permissions);
        let package = Package::check(directory.path(), false).unwrap();
        Self { directory, log: Arc::default(), launch: Launch::plan(&package, host).unwrap() }
    }

    /// Speaks the protocol in `sh`: `hear` reads a line, `ok` answers the event in it.
    pub fn shell(code: &str) -> Self {
        Self::new("run", &format!("{SHELL}{code}"))
    }

    pub fn start(&self) -> Result<Worker, WorkerFault> {
        self.start_with(DEADLINES)
    }

    pub fn start_with(&self, deadlines: Deadlines) -> Result<Worker, WorkerFault> {
        let log = Arc::clone(&self.log);
        Worker::start(&self.launch, deadlines, Box::new(move |line| log.lock().unwrap().push(line)))
    }

    pub fn logged(&self) -> Vec<String> {
        self.log.lock().unwrap().iter().map(|line| line.message.clone()).collect()
    }
}

pub const SHELL: &str = r#"#!/bin/sh
hear() { IFS= read -r line; }
id() { id=${line#*'"id":"'}; id=${id%%'"'*}; }
ok() { id; echo '{"type":"done","id":"'"$id"'","ok":true}'; }
ready() { hear && echo '{"type":"ready","protocol":1}'; }
"#;

pub fn event(number: u64, port: &str, action: Action) -> Event {
    let reading = Reading::bare(port.parse().unwrap(), 5, 0x046d, 0xc52b, Some(0));
    Event {
        seq: number,
        event_id: format!("E{number}"),
        producer: "p".to_owned(),
        action,
        reason: Reason::Hotplug,
        source: SourceName::Simulate,
        host: "h".to_owned(),
        timestamp: 1,
        edges: 1,
        seqnum: None,
        traceparent: None,
        device: Arc::new(Device::new(&reading, format!("046d:c52b@{port}"))),
    }
}

pub fn attach(number: u64) -> Event {
    event(number, "1-1", Action::Attach)
}

/// Looks until `condition` holds.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < end, "{what}: not within 20 s");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The processes whose process group is `group` and that have not ended.
pub fn group(group: u32) -> Vec<PathBuf> {
    let is_member = |path: &PathBuf| {
        let stat = fs::read_to_string(path.join("stat")).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        fields.len() > 2 && fields[0] != "Z" && fields[2] == group.to_string()
    };
    fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path()).filter(is_member).collect()
}
