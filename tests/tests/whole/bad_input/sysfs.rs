//! Attributes that are not what the kernel would show.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use autoweave_usb_testbus::{Bus, Device};
use serde_json::Value;

use super::{counted, goes_on, wait_for_event};
use crate::harness::{Daemon, StateDir, events};
use crate::program::{CALM, Unprivileged, finish};

/// A page, the most the kernel puts into a text attribute.
const ATTRIBUTE_BYTES_MAX: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Missing,
    /// For whoever is not root.
    Unreadable,
    Binary,
    /// 1 MiB, where a page is the most.
    Huge,
    Directory,
    Empty,
}

const FAULTS: [Fault; 6] =
    [Fault::Missing, Fault::Unreadable, Fault::Binary, Fault::Huge, Fault::Directory, Fault::Empty];

/// Breaks an attribute of the device or interface `name`.
fn damage(bus: &Bus, name: &str, attribute: &str, fault: Fault) {
    let path = PathBuf::from("/sys/bus/usb/devices").join(name).join(attribute);
    match fault {
        Fault::Missing => bus.remove_attribute(name, attribute).unwrap(),
        Fault::Unreadable => fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap(),
        Fault::Binary => bus.set_attribute(name, attribute, &(0..=255).rev().collect::<Vec<u8>>()).unwrap(),
        Fault::Huge => bus.set_attribute(name, attribute, &vec![b'x'; 1 << 20]).unwrap(),
        Fault::Directory => {
            bus.remove_attribute(name, attribute).unwrap();
            fs::create_dir(path).unwrap();
        }
        Fault::Empty => bus.set_attribute(name, attribute, b"").unwrap(),
    }
}

/// What says which device it is, and what only describes it.
const IDENTITY: [&str; 4] = ["devnum", "idVendor", "idProduct", "descriptors"];
const DESCRIPTION: [&str; 6] =
    ["bDeviceClass", "speed", "manufacturer", "product", "serial", "bConfigurationValue"];
const OF_INTERFACE: [&str; 3] = ["bInterfaceNumber", "bInterfaceClass", "bInterfaceProtocol"];

/// Shows the devices of a bus with a healthy device in 1-1 and one in 1-2 with a broken attribute.
fn show(bus: &mut Bus, user: &Unprivileged, broken: (&str, &str), fault: Fault) -> (Option<Value>, String) {
    bus.plug_silent("1-2", &Device::receiver()).unwrap();
    let (name, attribute) = broken;
    damage(bus, name, attribute, fault);
    let shown = finish(user.command().args(["devices", "--json"])).ok();
    bus.unplug_silent("1-2").unwrap();
    let devices = shown.json();
    let in_port = |path: &str| devices.iter().find(|device| device["port_path"] == path).cloned();
    assert_eq!(in_port("1").expect("the healthy one")["serial_number"], "fine", "{attribute} {fault:?}");
    assert!(shown.stdout.len() < 100_000, "{attribute} {fault:?} makes {} bytes", shown.stdout.len());
    (in_port("2"), shown.stderr)
}

#[test]
fn a_broken_attribute_costs_no_more_than_itself() {
    let mut bus = Bus::enter().unwrap();
    bus.plug_silent("1-1", &Device::storage("fine")).unwrap();
    let user = Unprivileged::new();
    let of_device = DESCRIPTION.iter().map(|attribute| ("1-2", *attribute));
    let of_interface = OF_INTERFACE.iter().map(|attribute| ("1-2:1.0", *attribute));
    for (name, attribute) in of_device.chain(of_interface) {
        for fault in FAULTS {
            let (device, stderr) = show(&mut bus, &user, (name, attribute), fault);
            let device = device.unwrap_or_else(|| panic!("{attribute} {fault:?} hides the device: {stderr}"));
            assert_eq!([&device["vendor_id"], &device["product_id"]], ["046d", "c52b"]);
            assert!(device["device_descriptor"].is_object());
            assert_eq!(
                device["interfaces"][0]["class"], 3,
                "{attribute} {fault:?}: the descriptors still say it"
            );
            let key = if attribute == "serial" { "serial_number" } else { attribute };
            if !["manufacturer", "product", "serial"].contains(&attribute) {
                continue;
            }
            match (fault, &device[key]) {
                (Fault::Binary, Value::String(_)) => assert!(device["raw_strings"][key].is_string()),
                (Fault::Huge, Value::String(text)) => assert_eq!(text.len(), ATTRIBUTE_BYTES_MAX),
                (Fault::Missing | Fault::Unreadable | Fault::Directory | Fault::Empty, Value::Null) => {}
                (fault, other) => panic!("{attribute} {fault:?} gives {other}"),
            }
        }
    }
}

#[test]
fn a_device_that_does_not_say_which_it_is_is_left_out_and_told() {
    let mut bus = Bus::enter().unwrap();
    bus.plug_silent("1-1", &Device::storage("fine")).unwrap();
    let user = Unprivileged::new();
    for attribute in IDENTITY {
        for fault in FAULTS {
            let (device, stderr) = show(&mut bus, &user, ("1-2", attribute), fault);
            if attribute == "descriptors" && [Fault::Binary, Fault::Huge].contains(&fault) {
                assert_eq!(device.expect("the ids are known")["device_descriptor"], Value::Null);
                continue;
            }
            assert_eq!(device, None, "{attribute} {fault:?}");
            assert!(
                stderr.contains("1-2") && stderr.contains("cannot be read"),
                "{attribute} {fault:?}: {stderr}"
            );
        }
    }
}

#[test]
fn a_plug_is_told_with_what_its_uevent_says_when_sysfs_does_not() {
    let mut bus = Bus::enter().unwrap();
    bus.add_root_hub(1).unwrap();
    let state = StateDir::new();
    let daemon = Daemon::start(&bus, &state, CALM);
    let faults = [Fault::Missing, Fault::Binary, Fault::Huge, Fault::Directory];
    for (attribute, fault) in IDENTITY.into_iter().zip(faults) {
        // Not binary descriptors: they are read, whatever they say.
        bus.plug_silent("1-2", &Device::receiver()).unwrap();
        damage(&bus, "1-2", attribute, fault);
        let before = events(&state).len();
        bus.announce("1-2").unwrap();
        daemon.wait_until("the attach is told", || events(&state).len() == before + 1);
        bus.unplug("1-2").unwrap();
        daemon.wait_until("the detach is told", || events(&state).len() == before + 2);
        for event in &events(&state)[before..] {
            let device = &event["device"];
            let known = [&device["vendor_id"], &device["product_id"], &device["port_path"]];
            assert_eq!(known, ["046d", "c52b", "2"], "{attribute}");
            assert_eq!(
                [&device["serial_number"], &device["device_descriptor"]],
                [&Value::Null; 2],
                "{attribute}"
            );
        }
    }
    goes_on(&mut bus, &daemon, &state);
    daemon.stop();
}

#[test]
fn a_device_is_attached_once_it_can_be_read() {
    let mut bus = Bus::enter().unwrap();
    bus.plug_silent("1-1", &Device::storage("fine")).unwrap();
    bus.plug_silent("1-2", &Device::receiver()).unwrap();
    let devnum = fs::read("/sys/bus/usb/devices/1-2/devnum").unwrap();
    damage(&bus, "1-2", "devnum", Fault::Binary);
    let state = StateDir::new();
    let env = [CALM, &[("AUTOWEAVE_USB__MONITORING__INTERVAL", "100")]].concat();
    let daemon = Daemon::start(&bus, &state, &env);
    assert_eq!(events(&state).len(), 2, "the root hub and the healthy one");
    bus.set_attribute("1-2", "devnum", &devnum).unwrap();
    let event = wait_for_event(&daemon, &state, "the next scan finds it", |event| {
        event["device"]["device_id"] == "046d:c52b:ABC123"
    });
    assert_eq!(event["reason"], "reconcile");
    let log = daemon.stop();
    assert!(counted(&log, "unreadable") > 0, "{log}");
}
