//! The udev rules, read by udev itself.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use autoweave_usb_testbus::{Bus, Device, Interface};
use nix::mount::{MsFlags, mount};

use crate::harness::{Daemon, StateDir, events, executable, last_seq, wait_until};
use crate::installed;
use crate::program::{CALM, Running, finish};

const RULES: &str = "99-autoweave-usb.rules";

/// Where udev reads rules that nobody installed (udev(7)).
const RULES_DIRECTORY: &str = "/run/udev/rules.d";

/// A machine with the group `autoweave`, on which udev finds the rules. `udevadm test` makes links in `/dev/char`.
fn install(rules: &str) {
    let tmpfs = |at: &str| mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    tmpfs("/run");
    if Path::new("/dev/char").is_dir() {
        tmpfs("/dev/char");
    }
    fs::create_dir_all(RULES_DIRECTORY).unwrap();
    fs::write(Path::new(RULES_DIRECTORY).join(RULES), rules).unwrap();
    let groups = fs::read_to_string("/etc/group").unwrap();
    fs::write("/run/group", format!("{}\nautoweave:x:4242:\n", groups.trim_end())).unwrap();
    mount(Some("/run/group"), "/etc/group", None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
}

/// What udev would do with a device, and what it thinks of the rules.
fn udevadm_test(udevadm: &Path, action: &str, port: &str) -> String {
    let mut command = Command::new(udevadm);
    // The virtual bus stands in a tmpfs.
    command.env("SYSTEMD_DEVICE_VERIFY_SYSFS", "0").env("SYSTEMD_LOG_LEVEL", "debug");
    let device = fs::canonicalize(Path::new("/sys/bus/usb/devices").join(port)).unwrap();
    let ended = finish(command.arg("test").arg(format!("--action={action}")).arg(device)).ok();
    ended.stdout + &ended.stderr
}

/// A line that begins with the place in the rules is a complaint; what they do begins with the device.
fn complaint(said: &str) -> Option<&str> {
    let place = format!("{RULES_DIRECTORY}/{RULES}:");
    said.lines().find(|line| line.starts_with(&place))
}

fn assert_has(said: &str, words: &[&str]) {
    for words in words {
        assert!(said.contains(words), "{words:?} is not in:\n{said}");
    }
}

#[test]
fn udev_understands_the_rules_and_would_run_the_helper() {
    let Some(udevadm) = installed::udevadm() else { return };
    let mut bus = Bus::enter().unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/udev").join(RULES);
    let rules = fs::read_to_string(&file).unwrap();
    install(&rules);
    let with = |classes: &[u8]| {
        let first = Device::receiver().interfaces[0].clone();
        let interfaces =
            (0..).zip(classes).map(|(number, class)| Interface { number, class: *class, ..first.clone() });
        Device { interfaces: interfaces.collect(), ..Device::receiver() }
    };
    for (port, device) in [
        ("1-1", Device::hub()),
        ("1-2", Device::receiver()),
        ("1-3", Device::storage("S")),
        ("1-4", with(&[2, 10])),
    ] {
        bus.plug(port, &device).unwrap();
    }
    bus.plug("1-5", &with(&[7])).unwrap();

    // systemd 254 and later have a command for it.
    if finish(Command::new(&udevadm).args(["verify", "--help"])).code() == 0 {
        finish(Command::new(&udevadm).arg("verify").arg(&file)).ok();
    }
    for (port, tag) in [("1-1", "hub"), ("1-2", "hid"), ("1-3", "storage"), ("1-4", "cdc")] {
        let said = udevadm_test(&udevadm, "add", port);
        assert_eq!(complaint(&said), None);
        let run = format!("run: '/usr/local/bin/autoweave-udev-notify add {port}'");
        let tag = format!(":autoweave_{tag}:");
        assert_has(&said, &[&run, &tag, "MODE 0660", "GROUP 4242"]);
    }
    assert!(!udevadm_test(&udevadm, "add", "1-5").contains("GROUP 4242"), "a printer stays with its group");
    let said = udevadm_test(&udevadm, "remove", "1-2");
    assert_has(&said, &["run: '/usr/local/bin/autoweave-udev-notify remove 1-2'"]);
    let said = udevadm_test(&udevadm, "bind", "1-2");
    assert!(said.contains("autoweave_hid") && !said.contains("autoweave-udev-notify"), "{said}");
    let of_interface = udevadm_test(&udevadm, "add", "1-2:1.0");
    assert!(!of_interface.contains("autoweave_hid") && !of_interface.contains("autoweave-udev-notify"));

    // Or its silence would say nothing.
    fs::write(Path::new(RULES_DIRECTORY).join(RULES), rules.replace("RUN+=", "RAN+=")).unwrap();
    assert!(complaint(&udevadm_test(&udevadm, "add", "1-1")).is_some());
}

/// The helper and `udevd` as they would be installed, with a daemon that listens to nothing else.
#[test]
fn udevd_itself_runs_the_helper_and_the_daemon_hears_of_it() {
    let Some(udevadm) = installed::udevadm() else { return };
    let mut bus = Bus::enter().unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/udev").join(RULES);
    install(&fs::read_to_string(&file).unwrap());
    mount(Some("tmpfs"), "/usr/local/bin", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    symlink(executable(), "/usr/local/bin/autoweave-udev-notify").unwrap();
    bus.add_root_hub(1).unwrap();
    let state = StateDir::new();
    let own = [("RUNTIME_DIRECTORY", "/run/autoweave-usb"), ("AUTOWEAVE_USB__MONITORING__ENABLED", "false")];
    fs::create_dir(own[0].1).unwrap();
    let env = [CALM, &own].concat();
    let daemon = Daemon::start_with(&bus, state.path(), &env, &["--source", "udev"]);

    // They are one program.
    let mut command = Command::new(&udevadm);
    command.arg0("systemd-udevd");
    command.env("SYSTEMD_DEVICE_VERIFY_SYSFS", "0").args(["--debug", "--resolve-names=early"]);
    let udevd = Running::start(&mut command);
    wait_until("udevd listens", || Path::new("/run/udev/control").exists());
    for round in 0..5_u64 {
        bus.plug("1-2", &Device::receiver()).unwrap();
        daemon.wait_until("the attach is told", || last_seq(&state) >= 2 + 2 * round);
        bus.unplug("1-2").unwrap();
        daemon.wait_until("the detach is told", || last_seq(&state) >= 3 + 2 * round);
    }
    daemon.stop();
    for event in &events(&state)[1..] {
        assert_eq!(
            (&event["source"], &event["device"]["vendor_id"]),
            (&"udev".into(), &"046d".into()),
            "{event}"
        );
        assert!(event["seqnum"].is_u64() && event["reason"] == "hotplug", "{event}");
    }
    drop(udevd);
}
