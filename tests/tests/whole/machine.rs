//! A machine whose udev runs the helper, played by the test.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use autoweave_usb_testbus::{Bus, Device};
use serde_json::Value;
use tempfile::TempDir;

use crate::fault::{self, Instead};
use crate::harness::{Daemon, StateDir, events, executable, last_seq};
use crate::invariants::{check, net, on_bus};
use crate::program::{CALM, finish};

/// A machine with a hub, and directories that the daemon and the helper share.
pub struct Machine {
    pub bus: Bus,
    pub state: StateDir,
    pub shared: TempDir,
    pub seqnum: u64,
}

impl Machine {
    pub fn new() -> Self {
        let mut bus = Bus::enter().unwrap();
        bus.add_root_hub(1).unwrap();
        let shared = tempfile::tempdir().unwrap();
        fs::create_dir(shared.path().join("run")).unwrap();
        symlink(executable(), shared.path().join("autoweave-udev-notify")).unwrap();
        Self { bus, state: StateDir::new(), shared, seqnum: 1_000_000 }
    }

    pub fn runtime(&self) -> PathBuf {
        self.shared.path().join("run")
    }

    pub fn socket(&self) -> PathBuf {
        self.runtime().join("notify.sock")
    }

    /// Puts something in place of the socket that is none.
    pub fn break_socket(&self, daemon: &Daemon) {
        fault::break_unix_socket(daemon.daemon_pid(), &bound_name(&self.socket(), daemon), Instead::File);
    }

    pub fn spool(&self) -> PathBuf {
        self.state.path().join("spool")
    }

    pub fn spawn(&self, state: &Path, arguments: &[&str]) -> Daemon {
        let runtime = self.runtime();
        let own = [
            ("RUNTIME_DIRECTORY", runtime.to_str().unwrap()),
            ("AUTOWEAVE_USB__MONITORING__ENABLED", "false"),
        ];
        let env = [CALM, &own].concat();
        Daemon::spawn(&self.bus, state, &env, arguments)
    }

    /// One whose scans find what its source does not hear of.
    pub fn start_scanning(&self, arguments: &[&str]) -> Daemon {
        let runtime = self.runtime();
        let own = [
            ("RUNTIME_DIRECTORY", runtime.to_str().unwrap()),
            ("AUTOWEAVE_USB__MONITORING__ENABLED", "false"),
            ("AUTOWEAVE_USB__MONITORING__INTERVAL", "100"),
        ];
        let env = [&CALM[..2], &own].concat();
        let daemon = Daemon::spawn(&self.bus, self.state.path(), &env, arguments);
        daemon.wait_for_log("watching ");
        daemon
    }

    pub fn start(&self, arguments: &[&str]) -> Daemon {
        let daemon = self.spawn(self.state.path(), arguments);
        daemon.wait_for_log("watching ");
        daemon
    }

    /// What udev does when the kernel says `action`; the device has to be there to be asked what the kernel says.
    pub fn notify(&mut self, action: &str, port: &str) {
        let message = self.bus.message(action, port).unwrap();
        self.notify_late(&message, action, port);
    }

    /// What udev does when it comes late to a `message` of the kernel's.
    pub fn notify_late(&mut self, message: &[u8], action: &str, port: &str) {
        self.seqnum += 1;
        let fields = message.split(|byte| *byte == 0).filter_map(|field| std::str::from_utf8(field).ok());
        let uevent = fields.filter_map(|field| field.split_once('='));
        let mut helper = Command::new(self.shared.path().join("autoweave-udev-notify"));
        helper.args([action, port]).env_clear().envs(uevent).stdin(Stdio::null());
        helper.env("SEQNUM", self.seqnum.to_string());
        helper.env("RUNTIME_DIRECTORY", self.runtime()).env("STATE_DIRECTORY", self.state.path());
        assert_eq!(finish(&mut helper).ok().stderr, "");
    }

    pub fn plug(&mut self, port: &str, device: &Device) {
        self.bus.plug_silent(port, device).unwrap();
        self.notify("add", port);
    }

    /// Takes out a device and what is below it.
    pub fn unplug(&mut self, port: &str) {
        let is_below = |other: &String| other.starts_with(&format!("{port}."));
        let present: Vec<String> = self.bus.devices().into_iter().map(|device| device.port).collect();
        let leaving = present.iter().rev().filter(|other| is_below(other)).map(String::as_str).chain([port]);
        let messages: Vec<_> =
            leaving.map(|leaf| (leaf, self.bus.message("remove", leaf).unwrap())).collect();
        // The kernel takes the attributes away before it says so (device_del() in drivers/base/core.c).
        self.bus.unplug_silent(port).unwrap();
        for (leaf, message) in messages {
            self.notify_late(&message, "remove", leaf);
        }
    }

    /// A device that is there for no longer than its helpers take.
    pub fn flash(&mut self, port: &str) {
        self.plug(port, &Device::receiver());
        self.unplug(port);
    }

    /// A device that is there until scans have told it and that it is gone. What the kernel says of it: `add`, `remove`.
    pub fn flash_scanned(&mut self, daemon: &Daemon, port: &str) -> [(&'static str, Vec<u8>); 2] {
        let before = last_seq(&self.state);
        self.bus.plug_silent(port, &Device::storage("AA")).unwrap();
        let messages = ["add", "remove"].map(|action| (action, self.bus.message(action, port).unwrap()));
        self.wait_for(daemon, before + 1);
        self.bus.unplug_silent(port).unwrap();
        self.wait_for(daemon, before + 2);
        messages
    }

    pub fn wait_for(&self, daemon: &Daemon, seq: u64) {
        daemon.wait_until(&format!("there are {seq} events"), || last_seq(&self.state) >= seq);
    }

    /// The last `count` events as `attach 1-1 udev`.
    pub fn last(&self, count: usize) -> Vec<String> {
        let events = events(&self.state);
        events[events.len() - count..].iter().map(brief).collect()
    }

    pub fn check(&self) {
        let events = events(&self.state);
        check(&events);
        assert_eq!(net(&events), on_bus(&self.bus));
        let numbers: Vec<_> = events.iter().filter_map(|event| event["seqnum"].as_u64()).collect();
        let mut once = numbers.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), numbers.len(), "a notice was told twice: {numbers:?}");
    }
}

/// The name under which `daemon` bound what is now at `socket`.
pub fn bound_name(socket: &Path, daemon: &Daemon) -> String {
    socket.with_file_name(format!(".notify.{}", daemon.daemon_pid())).to_str().unwrap().to_owned()
}

fn brief(event: &Value) -> String {
    let word = |name: &str| event[name].as_str().unwrap().to_owned();
    format!("{} {} {}", word("action"), event["device"]["port_path"].as_str().unwrap(), word("source"))
}
