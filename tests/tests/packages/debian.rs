//! A Debian that systemd boots, in a container of systemd's with the virtual bus for its network namespace.

mod trouble;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use autoweave_usb_testbus::{Bus, Device};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{given, network_namespace, said, wait_until};

/// All that `systemd-analyze security` may find wrong, of 10.
const EXPOSURE_MAX: f64 = 2.0;

const UNIT: &str = "autoweave-usb.service";

/// What the sandbox of plugins calls, and containers of systemd's refuse.
const SANDBOX_CALLS: &str = "landlock_create_ruleset landlock_add_rule landlock_restrict_self";

/// Where a plugin may write, and the plugin.
const SEEN: &str = "/srv/seen";
const SEEN_PLUGIN: &str = r#"
import { appendFileSync } from "node:fs";
const seen = (edge) => ({ device }) => appendFileSync("/srv/seen/edges", `${edge} ${device.device_id}\n`);
export const attached = seen("attached");
export const detached = seen("detached");
"#;

struct Machine {
    place: TempDir,
    container: Child,
    /// Its PID 1, as we see it.
    systemd: String,
}

impl Machine {
    /// Boots it in this network namespace.
    fn boot(network: &str) -> Self {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("root");
        said(
            Command::new("cp").args(["--archive", "--reflink=auto"]).arg(given("AUTOWEAVE_ROOT")).arg(&root),
        );
        let console = File::create(place.path().join("console")).unwrap();
        let mut nspawn = Command::new("systemd-nspawn");
        nspawn.args(["--register=no", "--keep-unit", "--boot", "--directory"]).arg(&root);
        nspawn.arg(format!("--network-namespace-path={network}"));
        nspawn.arg(format!("--system-call-filter={SANDBOX_CALLS}"));
        nspawn.stdin(Stdio::null()).stdout(console.try_clone().unwrap()).stderr(console);
        let container = nspawn.spawn().unwrap();
        let mut machine = Self { place, container, systemd: String::new() };
        wait_until("it has booted", || {
            let console = || fs::read_to_string(machine.place.path().join("console")).unwrap();
            assert!(machine.container.try_wait().unwrap().is_none(), "{}", console());
            // Its first child is not yet the one that stays.
            let pid = machine.container.id();
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            machine.systemd = children.trim().to_owned();
            let output = machine.command(&["systemctl", "is-system-running"]).output().unwrap();
            ["running\n", "degraded\n"].map(str::as_bytes).contains(&output.stdout.as_slice())
        });
        machine
    }

    fn root(&self) -> PathBuf {
        self.place.path().join("root")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args([
            "--target",
            &self.systemd,
            "--mount",
            "--uts",
            "--ipc",
            "--net",
            "--pid",
            "--root",
            "--wd",
        ]);
        command
            .args(["--", "/usr/bin/env", "-i", "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"])
            .args(words);
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> String {
        said(&mut self.command(words))
    }

    fn ask(&self, property: &str) -> String {
        self.run(&["systemctl", "show", "--value", "--property", property, UNIT]).trim().to_owned()
    }

    /// The events that the daemon wrote down, as `ACTION PORT_PATH REASON`.
    fn events(&self) -> Vec<String> {
        let lines = self.run(&["autoweave-usbd", "events", "--since", "0", "--json"]);
        let short = |line: &str| {
            let event: Value = serde_json::from_str(line).unwrap();
            let word = |value: &Value| value.as_str().unwrap().to_owned();
            let [action, reason] = [&event["action"], &event["reason"]].map(word);
            format!("{action} {} {reason}", word(&event["device"]["port_path"]))
        };
        lines.lines().map(short).collect()
    }

    fn wait_until_healthy(&self) {
        wait_until("the service is well", || {
            self.command(&["autoweave-usbd", "health"]).output().is_ok_and(|output| output.status.success())
        });
    }

    /// Everything with our name.
    fn left(&self) -> String {
        self.run(&[
            "find",
            "/",
            "-xdev",
            "-name",
            "*autoweave*",
            "-not",
            "-path",
            "/root/*",
            "-not",
            "-path",
            "/var/cache/*",
        ])
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if thread::panicking() {
            let mut journal = self.command(&["journalctl", "--no-pager", "--lines=40"]);
            if let Ok(output) = journal.output() {
                eprintln!("{}", String::from_utf8_lossy(&output.stdout));
            }
        }
        if let Ok(systemd) = self.systemd.parse() {
            let _ = kill(Pid::from_raw(systemd), Signal::SIGKILL);
        }
        let _ = self.container.kill();
        let _ = self.container.wait();
    }
}

/// A bus on a thread of its own, and its network namespace: what boots a machine takes the real `/sys`.
fn bus_elsewhere() -> (Bus, String) {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bus = Bus::enter().unwrap();
        bus.add_root_hub(1).unwrap();
        sender.send((bus, network_namespace())).unwrap();
        // The namespaces are as old as their thread.
        loop {
            thread::park();
        }
    });
    receiver.recv().unwrap()
}

/// The same package as the next version.
fn next_version(of: &Path, to: &Path) {
    let place = tempfile::tempdir().unwrap();
    let tree = place.path().join("tree");
    said(Command::new("dpkg-deb").arg("--raw-extract").arg(of).arg(&tree));
    let control = tree.join("DEBIAN/control");
    let text = fs::read_to_string(&control).unwrap();
    fs::write(&control, text.replacen(env!("CARGO_PKG_VERSION"), "99.0.0", 1)).unwrap();
    said(Command::new("dpkg-deb").args(["--root-owner-group", "-Znone", "--build"]).arg(&tree).arg(to));
}

fn plug_and_unplug(bus: &mut Bus, port: &str) {
    bus.plug(port, &Device::receiver()).unwrap();
    bus.unplug(port).unwrap();
}

/// What the service may do, as systemd and the kernel see it.
fn check_hardening(machine: &Machine) {
    let pid = machine.ask("MainPID");
    let status = machine.run(&["cat", &format!("/proc/{pid}/status")]);
    for line in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{line:?} is not in:\n{status}");
    }
    assert_eq!(
        machine.run(&["stat", "--format=%U:%G %a", "/var/lib/autoweave-usb"]),
        "autoweave:autoweave 750\n"
    );
    assert_eq!(
        machine.run(&["stat", "--format=%U:%G %a", "/run/autoweave-usb"]),
        "autoweave:autoweave 755\n"
    );
    let report = machine.run(&["systemd-analyze", "security", "--no-pager", UNIT]);
    let overall = report.lines().find(|line| line.contains("Overall exposure level")).unwrap();
    println!("{overall}");
    let level = overall.split(": ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    assert!(level.parse::<f64>().unwrap() <= EXPOSURE_MAX, "{report}");
    machine.run(&["systemd-analyze", "verify", UNIT]);
}

#[test]
fn a_package_is_installed_used_upgraded_removed_and_purged() {
    let (mut bus, network) = bus_elsewhere();
    let machine = Machine::boot(&network);
    let package = given("AUTOWEAVE_PACKAGE");
    fs::copy(&package, machine.root().join("root/old.deb")).unwrap();
    next_version(&package, &machine.root().join("root/new.deb"));

    machine.run(&["dpkg", "--install", "/root/old.deb"]);
    machine.wait_until_healthy();
    check_hardening(&machine);
    plug_and_unplug(&mut bus, "1-1");
    wait_until("both edges are told", || machine.events().len() == 2);
    assert_eq!(machine.events(), ["attach 1 hotplug", "detach 1 hotplug"]);
    let simulated =
        ["autoweave-usbd", "simulate", "--devices", "3", "--cycles", "2", "--rate", "0", "--json"];
    assert_eq!(machine.run(&simulated).lines().count(), 12);
    assert!(
        machine.run(&["autoweave-usbd", "check"]).contains("the helper is /usr/bin/autoweave-udev-notify")
    );
    machine.run(&["man", "--where", "autoweave-usbd"]);

    machine.run(&["systemctl", "kill", "--signal=KILL", "--kill-who=main", UNIT]);
    plug_and_unplug(&mut bus, "1-2");
    wait_until("what came while none ran is told", || machine.events().len() == 4);
    assert_eq!(machine.ask("NFileDescriptorStore"), "2");

    let configuration = machine.root().join("etc/autoweave/usbd.toml");
    let text = fs::read_to_string(&configuration).unwrap();
    fs::write(&configuration, text + "host = \"kept\"\n").unwrap();
    let before = machine.ask("MainPID");
    machine.run(&["dpkg", "--install", "/root/new.deb"]);
    machine.wait_until_healthy();
    assert_ne!(machine.ask("MainPID"), before);
    plug_and_unplug(&mut bus, "1-3");
    wait_until("the new one tells on", || machine.events().len() == 6);
    assert!(fs::read_to_string(&configuration).unwrap().ends_with("host = \"kept\"\n"));

    machine.run(&["dpkg", "--remove", "autoweave-usb"]);
    assert!(configuration.exists() && machine.root().join("var/lib/autoweave-usb/journal.db").exists());
    assert!(!machine.command(&["systemctl", "is-active", UNIT]).status().unwrap().success());
    machine.run(&["dpkg", "--purge", "autoweave-usb"]);
    assert_eq!(machine.left(), "");
    assert!(!fs::read_to_string(machine.root().join("etc/passwd")).unwrap().contains("autoweave"));
}

/// Two packages in the directory of plugins: one in Node, which is granted [`SEEN`], and one in shell.
fn add_plugins(machine: &Machine) {
    let plugins = "/etc/autoweave/plugins";
    machine.run(&["mkdir", plugins]);
    machine.run(&["install", "--directory", "--owner=autoweave", SEEN]);
    for (name, language) in [("seen", "node"), ("said", "shell")] {
        let new = ["autoweave-usbd", "plugins", "new", name, "--lang", language];
        machine.run(&[&["env", "--chdir", plugins], &new[..]].concat());
    }
    let package = machine.root().join("etc/autoweave/plugins/seen");
    fs::write(package.join("index.mjs"), SEEN_PLUGIN).unwrap();
    let manifest = package.join("autoweave.plugin.json");
    let mut text: Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    text["permissions"]["filesystem"] = json!([{ "path": SEEN, "mode": "readwrite" }]);
    fs::write(manifest, text.to_string()).unwrap();

    let configuration = machine.root().join("etc/autoweave/usbd.toml");
    let text = fs::read_to_string(&configuration).unwrap();
    fs::write(&configuration, format!("{text}plugins.dir = {plugins:?}\n")).unwrap();
}

#[test]
fn plugins_run_with_the_drop_in_and_not_without() {
    let (mut bus, network) = bus_elsewhere();
    let machine = Machine::boot(&network);
    fs::copy(given("AUTOWEAVE_PACKAGE"), machine.root().join("root/usbd.deb")).unwrap();
    machine.run(&["dpkg", "--install", "/root/usbd.deb"]);
    add_plugins(&machine);
    let log = || machine.run(&["journalctl", "--no-pager", "--unit", UNIT]);

    machine.run(&["systemctl", "restart", UNIT]);
    machine.wait_until_healthy();
    plug_and_unplug(&mut bus, "1-1");
    wait_until("the watcher tells both edges", || machine.events().len() == 2);
    assert!(log().contains("no plugin runs here"), "{}", log());

    let drop_ins = "/etc/systemd/system/autoweave-usb.service.d";
    machine.run(&["mkdir", drop_ins]);
    machine.run(&["cp", "/usr/share/doc/autoweave-usb/plugins.conf", drop_ins]);
    let seen = machine.root().join(&drop_ins[1..]).join("seen.conf");
    fs::write(seen, format!("[Service]\nReadWritePaths={SEEN}\n")).unwrap();
    machine.run(&["systemctl", "daemon-reload"]);
    machine.run(&["systemctl", "restart", UNIT]);
    machine.wait_until_healthy();
    check_hardening(&machine);

    plug_and_unplug(&mut bus, "1-2");
    let edges = machine.root().join(&SEEN[1..]).join("edges");
    let seen = || fs::read_to_string(&edges).unwrap_or_default();
    wait_until("the plugin in Node writes down the unplug", || seen().contains("detached"));
    assert_eq!(seen(), "attached 046d:c52b@1-2\ndetached 046d:c52b@1-2\n");
    wait_until("the plugin in shell tells of it", || log().contains("onUSBDetach: 046d:c52b"));
}

#[test]
fn the_command_install_does_the_same_and_uninstall_undoes_it() {
    let (mut bus, network) = bus_elsewhere();
    let machine = Machine::boot(&network);
    fs::copy(given("AUTOWEAVE_USBD"), machine.root().join("root/autoweave-usbd")).unwrap();

    let planned = machine.run(&["/root/autoweave-usbd", "install", "--dry-run"]);
    assert!(planned.contains("write /etc/systemd/system/autoweave-usb.service\n"), "{planned}");
    assert_eq!(machine.left(), "");
    machine.run(&["/root/autoweave-usbd", "install"]);
    machine.wait_until_healthy();
    check_hardening(&machine);
    plug_and_unplug(&mut bus, "1-1");
    wait_until("both edges are told", || machine.events().len() == 2);

    // Again is an upgrade.
    let before = machine.ask("MainPID");
    machine.run(&["/root/autoweave-usbd", "install"]);
    machine.wait_until_healthy();
    assert_ne!(machine.ask("MainPID"), before);

    machine.run(&["/root/autoweave-usbd", "uninstall"]);
    assert!(machine.left().contains("/var/lib/autoweave-usb"));
    machine.run(&["/root/autoweave-usbd", "uninstall", "--purge"]);
    assert_eq!(machine.left(), "");
}
