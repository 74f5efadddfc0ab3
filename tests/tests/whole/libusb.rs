//! The source that hears of devices through libusb.

use std::fs;

use autoweave_usb_testbus::{Bus, Device};
use autoweave_usb_tests::make_sys_a_sysfs;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde_json::Value;

use crate::harness::{Daemon, QUICK, StateDir, devices, events, executable};
use crate::invariants::{check, headline, net, on_bus, places};
use crate::program::CALM;
use crate::stop::is_heard_amid_a_flood;

fn enter() -> Bus {
    let mut bus = Bus::enter().unwrap();
    bus.add_root_hub(1).unwrap();
    make_sys_a_sysfs().unwrap();
    bus
}

fn start(bus: &Bus, state: &StateDir, env: &[(&str, &str)], source: &str) -> Daemon {
    Daemon::start_with(bus, state.path(), env, &["--source", source])
}

fn settle(daemon: &Daemon, state: &StateDir, bus: &Bus) {
    daemon.wait_until("the table is what is there", || places(&devices(state)) == on_bus(bus));
}

#[test]
fn the_first_scan_finds_what_was_there() {
    let mut bus = enter();
    bus.plug_silent("1-1", &Device::hub()).unwrap();
    bus.plug_silent("1-1.1", &Device::storage("S1")).unwrap();
    let state = StateDir::new();
    let log = start(&bus, &state, CALM, "libusb").stop();
    assert!(log.contains("watching the callbacks of libusb 1.0."), "{log}");
    let told: Vec<_> = events(&state).iter().map(headline).collect();
    assert_eq!(told, ["attach usb1 coldplug", "attach 1-1 coldplug", "attach 1-1.1 coldplug"]);
    assert_eq!(drivers(&state), ["hub", "usb-storage", "hub"]);
}

#[test]
fn interfaces_and_drivers_are_known_soon_after_the_device() {
    let mut bus = enter();
    let state = StateDir::new();
    let daemon = start(&bus, &state, CALM, "libusb");
    bus.plug("1-1", &Device::storage("S1")).unwrap();
    daemon.wait_until("the driver is known", || drivers(&state) == ["usb-storage", "hub"]);
    daemon.stop();
}

/// Of the first interface of each device.
fn drivers(state: &StateDir) -> Vec<Value> {
    devices(state).iter().map(|device| device["interfaces"][0]["driver"].clone()).collect()
}

#[test]
fn devices_gone_at_once_leave_nothing_behind() {
    let mut bus = enter();
    let state = StateDir::new();
    let daemon = start(&bus, &state, CALM, "libusb");
    for round in 0..20 {
        bus.plug("1-1", &Device::storage(&format!("S{round}"))).unwrap();
        bus.unplug("1-1").unwrap();
    }
    bus.plug("1-2", &Device::receiver()).unwrap();
    settle(&daemon, &state, &bus);
    daemon.stop();
    let events = events(&state);
    check(&events);
    assert_eq!(net(&events), on_bus(&bus));
    // libusb leaves out both edges of a device that is gone before it could read it.
    assert!(events.len().is_multiple_of(2) && (2..=42).contains(&events.len()), "{}", events.len());
}

#[test]
fn a_flood_ends_in_what_is_there() {
    let mut bus = enter();
    bus.plug_silent("1-1", &Device::receiver()).unwrap();
    bus.plug_silent("1-2", &Device::storage("S1")).unwrap();
    let state = StateDir::new();
    let env = [QUICK, &[("AUTOWEAVE_USB__MONITORING__INTERVAL", "200")]].concat();
    let daemon = start(&bus, &state, &env, "libusb");
    bus.cycle(&["1-1", "1-2"], 3000).unwrap();
    bus.unplug("1-2").unwrap();
    bus.plug("1-3", &Device::storage("S2")).unwrap();
    settle(&daemon, &state, &bus);
    daemon.stop();
    let events = events(&state);
    check(&events);
    assert_eq!(net(&events), on_bus(&bus));
}

#[test]
fn sigterm_is_heard_while_callbacks_keep_coming() {
    is_heard_amid_a_flood(enter(), &["--source", "libusb"]);
}

#[test]
fn a_later_start_tells_only_what_changed_meanwhile() {
    let mut bus = enter();
    bus.plug_silent("1-1", &Device::hub()).unwrap();
    bus.plug_silent("1-1.2", &Device::receiver()).unwrap();
    bus.plug_silent("1-2", &Device::storage("AA")).unwrap();
    let state = StateDir::new();
    start(&bus, &state, CALM, "libusb").stop();
    let before = events(&state).len();
    start(&bus, &state, CALM, "libusb").stop();
    assert_eq!(events(&state).len(), before, "nothing changed, so nothing is told");

    bus.unplug_silent("1-2").unwrap();
    bus.plug_silent("1-3", &Device::storage("BB")).unwrap();
    start(&bus, &state, CALM, "libusb").stop();
    let told: Vec<_> = events(&state)[before..].iter().map(headline).collect();
    assert_eq!(told, ["detach 1-2 reconcile", "attach 1-3 reconcile"]);
}

#[test]
fn no_device_is_opened() {
    let mut bus = enter();
    bus.plug_silent("1-1", &Device::storage("COLD")).unwrap();
    let opened = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
    opened.add_watch("/dev/bus/usb/001", AddWatchFlags::IN_OPEN).unwrap();
    let state = StateDir::new();
    let daemon = start(&bus, &state, CALM, "libusb");
    bus.plug("1-2", &Device::storage("S1")).unwrap();
    settle(&daemon, &state, &bus);
    daemon.stop();
    let nodes = || opened.read_events().unwrap_or_default().into_iter().filter_map(|event| event.name);
    // The bus itself opens a node to make it; that is before the daemon hears of the device.
    let by_the_bus = nodes().filter(|node| node != "003").count();
    assert_eq!(by_the_bus, 0);
    fs::File::open("/dev/bus/usb/001/002").unwrap();
    assert_eq!(nodes().count(), 1, "an open would have been seen");
}

#[test]
fn the_build_listens_to_the_kernel_and_not_to_udev() {
    let program = fs::read(executable()).unwrap();
    let has = |text: &str| program.windows(text.len()).any(|part| part == text.as_bytes());
    assert!(has("netlink event thread"));
    assert!(!has("udev_monitor"));
}

#[test]
fn without_usbfs_it_does_not_start_and_says_so() {
    let bus = Bus::without_usb().unwrap();
    make_sys_a_sysfs().unwrap();
    refuses(&bus, "libusb does not start");
}

fn refuses(bus: &Bus, why: &str) {
    let state = StateDir::new();
    let mut daemon = Daemon::spawn(bus, state.path(), QUICK, &["--source", "libusb"]);
    assert!(!daemon.wait().success());
    assert!(daemon.log().contains(why), "{}", daemon.log());
}

#[test]
fn a_libusb_that_has_gone_deaf_is_opened_anew() {
    let mut bus = enter();
    let state = StateDir::new();
    let env = [QUICK, &[("AUTOWEAVE_USB__MONITORING__INTERVAL", "100")]].concat();
    let daemon = start(&bus, &state, &env, "libusb");
    daemon.wait_until("it is found to be deaf", || {
        // No uevent: for libusb that is as if its socket were gone.
        bus.plug_silent("1-1", &Device::receiver()).unwrap();
        settle(&daemon, &state, &bus);
        bus.unplug_silent("1-1").unwrap();
        settle(&daemon, &state, &bus);
        daemon
            .log()
            .contains("the source libusb failed (it does not hear what scans find) and was opened anew")
    });
    bus.plug("1-3", &Device::receiver()).unwrap();
    settle(&daemon, &state, &bus);
    daemon.stop();
    check(&events(&state));
}

#[test]
fn on_the_virtual_bus_as_it_is_libusb_hears_as_well() {
    let mut bus = Bus::enter().unwrap();
    bus.add_root_hub(1).unwrap();
    let state = StateDir::new();
    let daemon = start(&bus, &state, CALM, "libusb");
    bus.plug("1-1", &Device::storage("S1")).unwrap();
    settle(&daemon, &state, &bus);
    bus.unplug("1-1").unwrap();
    settle(&daemon, &state, &bus);
    daemon.stop();
    let told: Vec<_> = events(&state).iter().map(headline).collect();
    assert_eq!(told, ["attach usb1 coldplug", "attach 1-1 hotplug", "detach 1-1 hotplug"]);
}

#[test]
fn more_callbacks_than_have_room_are_counted_and_lead_to_a_scan() {
    let mut bus = enter();
    bus.plug_silent("1-1", &Device::storage("S1")).unwrap();
    bus.plug_silent("1-2", &Device::receiver()).unwrap();
    let state = StateDir::new();
    let daemon = start(&bus, &state, QUICK, "libusb");
    // libusb does not read it; whoever does is slow from now on.
    let blocked = bus.make_blocking_attribute("1-1", "serial").unwrap();
    bus.cycle(&["1-1"], 20_000).unwrap();
    blocked.release(b"S1\n").unwrap();
    bus.unplug_silent("1-2").unwrap();
    daemon.wait_for_log("usb_source_overruns_total=1 ");
    settle(&daemon, &state, &bus);
    let log = daemon.stop();
    let lost = log.split(" lost=").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
    assert!(lost.parse::<u64>().unwrap() > 100, "{log}");
    check(&events(&state));
    assert_eq!(net(&events(&state)), on_bus(&bus));
}
