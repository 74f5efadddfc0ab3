//! A directory of plugins that write down what they hear.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::StateDir;

/// Speaks the protocol; `$seq`, `$action`, `$reason`, `$delivery` and `$device` are the event's.
const SHELL: &str = r#"#!/bin/sh
part() { rest=${line#*"$1"}; rest=${rest%%"$2"*}; }
ok() { echo '{"type":"done","id":"'"$id"'","ok":true}'; }
fail() { echo '{"type":"done","id":"'"$id"'","ok":false,"error":"'"$1"'"}'; }
note() { echo "$seq $action $reason $delivery $device" >>$out; }
while IFS= read -r line; do case $line in
*'"hello"'*) echo '{"type":"ready","protocol":1}'; continue ;;
*'"shutdown"'*) exit 0 ;;
esac
part '"id":"' '"'; id=$rest
part '"delivery":' ','; delivery=$rest
part '"seq":' ','; seq=$rest
part '"action":"' '"'; action=$rest
part '"reason":"' '"'; reason=$rest
part '"device_id":"' '"'; device=$rest
"#;

/// What a plugin heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    pub seq: u64,
    pub action: String,
    pub reason: String,
    pub delivery: u32,
    pub device: String,
}

pub struct Bed {
    pub plugins: TempDir,
    out: TempDir,
    cache: TempDir,
    pub state: StateDir,
}

impl Bed {
    pub fn new() -> Self {
        let directory = |mode| {
            let directory = tempfile::tempdir().unwrap();
            fs::set_permissions(directory.path(), fs::Permissions::from_mode(mode)).unwrap();
            directory
        };
        // Plugins of a root run as somebody else.
        Self {
            plugins: directory(0o755),
            out: directory(0o777),
            cache: directory(0o755),
            state: StateDir::new(),
        }
    }

    /// The environment of a daemon that runs them.
    pub fn env(&self) -> Vec<(String, String)> {
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        let pairs = [
            ("AUTOWEAVE_USB__PLUGINS__DIR", path(self.plugins.path())),
            ("AUTOWEAVE_USB__PLUGINS__MAX_DELIVERIES", "3".to_owned()),
            ("AUTOWEAVE_USB__PERFORMANCE__DEBOUNCE_MS", "0".to_owned()),
            ("AUTOWEAVE_USB__PERFORMANCE__MAX_EVENTS_PER_SECOND", "0".to_owned()),
            ("AUTOWEAVE_USB__JOURNAL__DURABILITY", "process".to_owned()),
            ("CACHE_DIRECTORY", path(self.cache.path())),
        ];
        pairs.map(|(key, value)| (key.to_owned(), value)).to_vec()
    }

    /// A plugin that does `on_event`, written in `sh`.
    pub fn shell(&self, name: &str, on_event: &str) {
        let out = self.out();
        let code = format!("{SHELL}{on_event}\ndone\n");
        let code = code.replacen('\n', &format!("\nout={}\n", out.join(name).display()), 1);
        self.install(name, "run", &code);
    }

    /// A plugin in Python, with the functions `attach` and `detach`.
    pub fn python(&self, name: &str, code: &str) {
        self.install(name, "main.py", code);
    }

    /// Where plugins may write, as they see it.
    pub fn out(&self) -> PathBuf {
        fs::canonicalize(self.out.path()).unwrap()
    }

    fn install(&self, name: &str, entry: &str, code: &str) {
        let manifest = format!(
            r#"{{"name": "{name}", "version": "1.0.0", "entry": "{entry}",
                "hooks": {{"onUSBAttach": "attach", "onUSBDetach": "detach"}},
                "permissions": {{"usb": {{"vendor_ids": ["*"]}}, "filesystem": [{{"path": "{}", "mode": "readwrite"}}]}}}}"#,
            self.out().display()
        );
        // In one go, as an installer would.
        let (new, package) = (self.plugins.path().join(format!(".{name}")), self.plugins.path().join(name));
        fs::create_dir(&new).unwrap();
        fs::write(new.join("autoweave.plugin.json"), manifest).unwrap();
        fs::write(new.join(entry), code).unwrap();
        fs::set_permissions(new.join(entry), fs::Permissions::from_mode(0o755)).unwrap();
        if package.exists() {
            fs::remove_dir_all(&package).unwrap();
        }
        fs::rename(&new, &package).unwrap();
    }

    /// What the plugin wrote down, without lines that a kill cut short.
    pub fn heard(&self, name: &str) -> Vec<Heard> {
        let text = fs::read_to_string(self.out.path().join(name)).unwrap_or_default();
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        whole.lines().filter_map(heard).collect()
    }

    /// How much it wrote down: cheap enough to wait on.
    pub fn heard_bytes(&self, name: &str) -> u64 {
        fs::metadata(self.out.path().join(name)).map_or(0, |metadata| metadata.len())
    }

    /// Makes the file that a plugin waits for: `$out.go`.
    pub fn let_go(&self, name: &str) {
        fs::write(self.out.path().join(format!("{name}.go")), "").unwrap();
    }

    pub fn dead_letters_file(&self) -> PathBuf {
        self.state.path().join("dead-letters.jsonl")
    }

    /// The numbers of the events that were given up, by plugin.
    pub fn dead(&self) -> BTreeMap<String, BTreeSet<u64>> {
        let text = fs::read_to_string(self.dead_letters_file()).unwrap_or_default();
        let mut dead: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
        for letter in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            let plugin = letter["plugin"].as_str().unwrap().to_owned();
            dead.entry(plugin).or_default().insert(letter["seq"].as_u64().unwrap());
        }
        dead
    }
}

fn heard(line: &str) -> Option<Heard> {
    let words: Vec<&str> = line.split(' ').collect();
    let [seq, action, reason, delivery, device] = words[..] else { return None };
    Some(Heard {
        seq: seq.parse().ok()?,
        action: action.to_owned(),
        reason: reason.to_owned(),
        delivery: delivery.parse().ok()?,
        device: device.to_owned(),
    })
}

/// Each of the numbers was heard, and for each device in order. Repeats may come, as far back as may be, but from there
/// on in order again, up to the last one: so no two are at it side by side, and nobody ends with something old.
pub fn assert_all_in_order(heard: &[Heard], expected: impl IntoIterator<Item = u64>, who: &str) {
    let mut devices: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    for heard in heard.iter().filter(|heard| heard.reason != "coldplug") {
        devices.entry(&heard.device).or_default().insert(heard.seq);
    }
    let numbers: BTreeSet<u64> = devices.values().flatten().copied().collect();
    let missing: Vec<u64> = expected.into_iter().filter(|seq| !numbers.contains(seq)).collect();
    assert!(
        missing.is_empty(),
        "{who} missed {} events: {:?}",
        missing.len(),
        &missing[..missing.len().min(20)]
    );
    // How many of the device's events there were by then. What was there at the start came before, or is of its attach.
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for heard in heard {
        let Some(events) = devices.get(&*heard.device) else { continue };
        let place = events.range(..=heard.seq).count();
        let before = places.insert(&heard.device, place);
        assert!(
            before.is_none_or(|before| place <= before + 1),
            "{who}: too early, or after something old: {heard:?}"
        );
    }
    for (device, place) in places {
        assert_eq!(place, devices[device].len(), "{who} heard of {device} something old at last");
    }
}

/// As [`crate::harness::command`] takes it.
pub fn pairs(env: &[(String, String)]) -> Vec<(&str, &str)> {
    env.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}
