//! What happens to a device that stays where it is, and is no event: authorisation, configuration, reset, drivers, sleep.

use std::fs;
use std::path::{Path, PathBuf};

use autoweave_usb_tests::guest::{Daemon, Edge, Entry, Gadget, Qmp, executable, run, story, wait_until};
use rusb::UsbContext as _;
use serde_json::json;

use crate::rig::Rig;

const DEVICES: &str = "/sys/bus/usb/devices";

fn attribute(port: &str, name: &str) -> PathBuf {
    Path::new(DEVICES).join(port).join(name)
}

fn read(port: &str, name: &str) -> String {
    let path = attribute(port, name);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.trim().to_owned()
}

fn write(path: &Path, value: &str) {
    fs::write(path, value).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// Runs `disturb` on a device that is there, and checks that only its arrival and its departure are told, each in its
/// time: another device's arrival, which the kernel tells after the disturbance, shows that it has been heard.
fn is_no_event(disturb: impl Fn(&Edge)) {
    let gadgets = Gadget::several(2);
    let mut rig = Rig::start(&[]);
    gadgets[0].plug();
    let edge = rig.kernel.wait_for("bind", 1).remove(0);
    disturb(&edge);
    gadgets[1].plug();
    let later = rig.kernel.wait_for("bind", 1).remove(0).port;
    let arrivals = [format!("attach {}", edge.port), format!("attach {later}")];
    assert_eq!(story(&rig.wait()), arrivals);
    for gadget in &gadgets {
        gadget.unplug();
        rig.kernel.wait_for("remove", 1);
    }
    let departures = [format!("detach {}", edge.port), format!("detach {later}")];
    assert_eq!(story(&rig.finish()), [arrivals, departures].concat());
}

#[test]
fn a_device_deauthorised_and_authorised_again() {
    is_no_event(|edge| {
        for _ in 0..5 {
            write(&attribute(&edge.port, "authorized"), "0");
            wait_until("it has no configuration", || read(&edge.port, "bConfigurationValue").is_empty());
            write(&attribute(&edge.port, "authorized"), "1");
            wait_until("it has one again", || read(&edge.port, "bConfigurationValue") == "1");
        }
    });
}

#[test]
fn a_device_configured_anew() {
    is_no_event(|edge| {
        for value in ["0", "1", "0", "1"] {
            // Zero is what it says as an empty line.
            write(&attribute(&edge.port, "bConfigurationValue"), value);
            let expected = if value == "0" { "" } else { value };
            wait_until("it is configured so", || read(&edge.port, "bConfigurationValue") == expected);
        }
    });
}

#[test]
fn a_device_reset() {
    is_no_event(|edge| {
        let context = rusb::Context::new().unwrap();
        let devices = context.devices().unwrap();
        let is_it = |device: &rusb::Device<rusb::Context>| {
            (u64::from(device.bus_number()), u64::from(device.address())) == (edge.bus, edge.address)
        };
        let device = devices.iter().find(is_it).expect("libusb sees it");
        let handle = device.open().unwrap();
        for _ in 0..5 {
            handle.reset().unwrap();
        }
        assert_eq!(read(&edge.port, "devnum"), edge.address.to_string(), "it came back at its address");
    });
}

#[test]
fn drivers_unbound_and_bound_again() {
    let mut qmp = Qmp::open();
    let mut rig = Rig::start(&[]);
    autoweave_usb_tests::guest::load(&["usbhid"]);
    let keyboard = qmp.plug("usb-kbd", json!({"bus": "xhci0.0"}));
    let port = rig.kernel.wait_for("bind", 1).remove(0).port;
    let interface = format!("{port}:1.0");
    let driver = Path::new("/sys/bus/usb/drivers");
    for _ in 0..3 {
        wait_until("its driver is bound", || attribute(&interface, "driver").exists());
        write(&driver.join("usbhid/unbind"), &interface);
        write(&driver.join("usbhid/bind"), &interface);
        write(&driver.join("usb/unbind"), &port);
        rig.kernel.wait_for("unbind", 1);
        write(&driver.join("usb/bind"), &port);
        rig.kernel.wait_for("bind", 1);
    }
    // As in `is_no_event`.
    let tablet = qmp.plug("usb-tablet", json!({"bus": "xhci1.0"}));
    let later = rig.kernel.wait_for("bind", 1).remove(0).port;
    let arrivals = [format!("attach {port}"), format!("attach {later}")];
    assert_eq!(story(&rig.wait()), arrivals);
    for id in [&keyboard, &tablet] {
        qmp.unplug(id);
        rig.kernel.wait_for("remove", 1);
    }
    let departures = [format!("detach {port}"), format!("detach {later}")];
    assert_eq!(story(&rig.finish()), [arrivals, departures].concat());
}

/// The kernel counts how long a device was awake.
#[test]
fn a_device_asleep_is_not_woken() {
    let gadgets = Gadget::several(1);
    let mut rig = Rig::start(&[]);
    gadgets[0].plug();
    let port = rig.kernel.wait_for("bind", 1).remove(0).port;
    rig.wait();
    write(&attribute(&port, "power/autosuspend_delay_ms"), "0");
    write(&attribute(&port, "power/control"), "auto");
    let hub = format!("usb{}", read(&port, "busnum"));
    write(&attribute(&hub, "power/control"), "auto");
    wait_until("it sleeps", || read(&port, "power/runtime_status") == "suspended");
    wait_until("its bus sleeps", || read(&hub, "power/runtime_status") == "suspended");
    let awake = || [&port, &hub].map(|port| read(port, "power/runtime_active_time"));
    let before = awake();
    // Each of these reads every device: a start, the command, and the scans of another daemon at every interval.
    rig.daemon.stop();
    let daemon = Daemon::start(&rig.redis, rig.state.path(), &[]);
    for _ in 0..10 {
        let devices = run(&[executable().to_str().unwrap(), "devices", "--json"]);
        assert!(devices.contains("SN000000"), "{devices}");
    }
    let is_coldplug = |entry: &Entry| entry.get("reason") != "hotplug" && entry.port() == port;
    assert!(!rig.redis.entries().iter().any(is_coldplug), "it was there before, and known");
    assert_eq!(awake(), before, "how long device and bus were awake, in ms");
    assert_eq!(read(&port, "power/runtime_status"), "suspended");
    daemon.stop();
}
