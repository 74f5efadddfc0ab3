//! Debouncing, filters, and a configuration that changes while the daemon runs.

use std::fs;

use autoweave_usb_testbus::{Bus, Device, Interface};
use nix::sys::signal::Signal;

use crate::harness::{Daemon, QUICK, StateDir, devices, events, last_seq};
use crate::http::answer;
use crate::invariants::{check, headline, net, on_bus, places, port};

/// A window that only the end of the daemon closes, so that a busy machine cannot split a story in two.
const ENDLESS: &[(&str, &str)] = &[("AUTOWEAVE_USB__PERFORMANCE__DEBOUNCE_MS", "60000")];

#[test]
fn edges_in_a_window_give_the_first_one_and_then_the_net_effect() {
    let mut bus = Bus::enter().unwrap();
    bus.add_root_hub(1).unwrap();
    let state = StateDir::new();
    let daemon = Daemon::start(&bus, &state, ENDLESS);
    for port in ["1-1", "1-2", "1-3"] {
        bus.plug(port, &Device::numbered(1)).unwrap();
        bus.cycle(&[port], 5).unwrap();
    }
    bus.unplug("1-2").unwrap();
    bus.unplug("1-3").unwrap();
    bus.plug("1-3", &Device::storage("S3")).unwrap();
    bus.plug("1-4", &Device::receiver()).unwrap();
    daemon.wait_until("the last device is told", || last_seq(&state) == 5);
    daemon.stop();

    let events = events(&state);
    check(&events);
    assert_eq!(net(&events), on_bus(&bus));
    let told: Vec<_> = events.iter().map(|event| format!("{} {}", headline(event), event["edges"])).collect();
    assert_eq!(
        told,
        [
            "attach usb1 coldplug 1",
            "attach 1-1 hotplug 1",
            "attach 1-2 hotplug 1",
            "attach 1-3 hotplug 1",
            "attach 1-4 hotplug 1",
            "detach 1-2 hotplug 11",
            "detach 1-3 hotplug 1",
            "attach 1-3 hotplug 11"
        ]
    );
}

#[test]
fn by_default_flapping_is_coalesced() {
    let mut bus = Bus::enter().unwrap();
    bus.add_root_hub(1).unwrap();
    let state = StateDir::new();
    let daemon = Daemon::start(&bus, &state, &[]);
    bus.plug("1-1", &Device::receiver()).unwrap();
    let edges = bus.cycle(&["1-1"], 200).unwrap();
    bus.unplug("1-1").unwrap();
    let has_left = || events(&state).len() >= 3 && places(&devices(&state)) == on_bus(&bus);
    daemon.wait_until("the window ends and the device has left", has_left);
    daemon.stop();
    let events = events(&state);
    check(&events);
    assert_eq!(net(&events), on_bus(&bus));
    // Windows of 50 ms: a busy machine may spread the flapping over some of them, but not over all edges.
    assert!((events.len() as u64) < edges / 4, "{} events of {edges} edges", events.len());
}

#[test]
fn edges_that_become_no_event_are_counted_at_once() {
    let mut bus = Bus::enter().unwrap();
    bus.add_root_hub(1).unwrap();
    let state = StateDir::new();
    let rest = [
        // Nothing but an edge has the daemon tell anything.
        ("AUTOWEAVE_USB__MONITORING__INTERVAL", "3600000"),
        ("AUTOWEAVE_USB__FILTERS__VENDOR_BLACKLIST", "0x046d"),
    ];
    let daemon = Daemon::start(&bus, &state, &[ENDLESS, &rest].concat());
    let counts = |line: &str| answer("/metrics").1.lines().any(|told| told == line);
    bus.plug("1-1", &Device::receiver()).unwrap();
    daemon.wait_until("the hidden attach is counted", || {
        counts("usb_events_filtered_total{rule=\"vendor_blacklist\"} 1")
    });
    bus.plug("1-2", &Device::storage("S")).unwrap();
    bus.cycle(&["1-2"], 5).unwrap();
    // Ten edges follow the first. The window may end with a detach and an attach, whatever comes yet.
    daemon.wait_until("the others are counted", || counts("usb_events_coalesced_total 8"));
    daemon.stop();
}

#[test]
fn a_blacklisted_vendor_is_not_told() {
    assert_eq!(told_with("VENDOR_BLACKLIST", "0x046d"), ["1-2", "1-3"]);
}

#[test]
fn only_whitelisted_vendors_are_told() {
    assert_eq!(told_with("VENDOR_WHITELIST", "0x046d,0x1209"), ["1-1", "1-3"]);
}

#[test]
fn the_class_of_an_interface_counts() {
    assert_eq!(told_with("DEVICE_CLASS_FILTER", "8"), ["1-2", "1-3"]);
}

/// Plugs three devices and unplugs them; the ports of which both was told.
fn told_with(filter: &str, value: &str) -> Vec<String> {
    let mut bus = Bus::enter().unwrap();
    bus.add_root_hub(1).unwrap();
    let state = StateDir::new();
    let key = format!("AUTOWEAVE_USB__FILTERS__{filter}");
    let daemon = Daemon::start(&bus, &state, &[QUICK, &[(&key, value)]].concat());
    bus.plug("1-1", &Device::receiver()).unwrap();
    bus.plug("1-2", &Device::storage("S1")).unwrap();
    bus.plug("1-3", &combined()).unwrap();
    // These pass every filter here, so what was to be told of those before was told by then.
    let is_told =
        |port: &str| events(&state).iter().any(|event| headline(event) == format!("attach {port} hotplug"));
    bus.plug("1-4", &combined()).unwrap();
    daemon.wait_until("1-4 is told", || is_told("1-4"));
    ["1-1", "1-2", "1-3"].iter().for_each(|port| bus.unplug(port).unwrap());
    bus.plug("1-5", &combined()).unwrap();
    daemon.wait_until("1-5 is told", || is_told("1-5"));
    daemon.stop();
    let events = events(&state);
    check(&events);
    let ports = |action: &str| {
        let told = events.iter().filter(|event| event["action"] == action).map(port);
        told.filter(|port| !["usb1", "1-4", "1-5"].contains(&port.as_str())).collect::<Vec<_>>()
    };
    assert_eq!(ports("attach"), ports("detach"), "a detach is told if its attach was");
    ports("attach")
}

/// A keyboard with a disk in it.
fn combined() -> Device {
    let interface = |number, class| Interface { number, class, subclass: 0, protocol: 0, driver: None };
    Device { interfaces: vec![interface(0, 3), interface(1, 8)], ..Device::numbered(1) }
}

#[test]
fn a_reload_tells_what_the_filters_change_and_a_bad_one_is_refused() {
    let mut bus = Bus::enter().unwrap();
    bus.add_root_hub(1).unwrap();
    bus.plug("1-1", &Device::receiver()).unwrap();
    bus.plug("1-2", &Device::storage("S1")).unwrap();
    let state = StateDir::new();
    let file = state.path().join("usbd.toml");
    let configure = |filters: &str| {
        fs::write(&file, format!("[performance]\ndebounce_ms = 0\n[filters]\n{filters}\n")).unwrap();
    };
    configure("");
    let daemon = Daemon::start(&bus, &state, &[("AUTOWEAVE_USB_CONFIG", file.to_str().unwrap())]);
    let reload = |filters: &str, answers: usize, answer: &str| {
        configure(filters);
        daemon.signal(Signal::SIGHUP);
        daemon.wait_until(answer, || daemon.log().matches(answer).count() == answers);
    };
    reload("vendor_blacklist = [\"046d\"]", 1, "the configuration was reloaded");
    reload("vendor_blacklist = [\"046d\"", 1, "the old one stands");
    reload("vendor_blacklisst = []", 2, "the old one stands");
    bus.unplug("1-1").unwrap();
    bus.plug("1-1", &Device::receiver()).unwrap();
    bus.plug("1-3", &Device::storage("S3")).unwrap();
    daemon.wait_until("it lives, and the old filter stands", || last_seq(&state) == 5);
    reload("vendor_whitelist = [\"046d\"]", 2, "the configuration was reloaded");
    reload("", 3, "the configuration was reloaded");
    daemon.stop();

    let events = events(&state);
    check(&events);
    let told: Vec<_> = events[3..].iter().map(headline).collect();
    assert_eq!(
        told,
        [
            "detach 1-1 reconcile",
            "attach 1-3 hotplug",
            "detach 1-3 reconcile",
            "detach 1-2 reconcile",
            "detach usb1 reconcile",
            "attach 1-1 reconcile",
            "attach usb1 reconcile",
            "attach 1-2 reconcile",
            "attach 1-3 reconcile"
        ]
    );
    assert_eq!(net(&events), on_bus(&bus));
}

#[test]
fn a_reload_applies_what_it_can_and_names_what_needs_a_restart() {
    let mut bus = Bus::enter().unwrap();
    bus.add_root_hub(1).unwrap();
    let state = StateDir::new();
    let file = state.path().join("usbd.toml");
    fs::write(&file, "[log]\nlevel = \"info\"\n").unwrap();
    let daemon = Daemon::start(&bus, &state, &[("AUTOWEAVE_USB_CONFIG", file.to_str().unwrap())]);
    let reload = |text: &str, answer: &str| {
        fs::write(&file, text).unwrap();
        daemon.signal(Signal::SIGHUP);
        daemon.wait_for_log(answer);
    };
    let needs = "need a restart: host, journal.durability, monitoring.healthcheck_port";
    reload(
        "host = \"edge\"\n[journal]\ndurability = \"process\"\nmax_events = 3\n[performance]\ndebounce_ms = 0\n\
         [monitoring]\nhealthcheck_port = 8081\n",
        needs,
    );
    bus.plug("1-1", &Device::receiver()).unwrap();
    bus.cycle(&["1-1"], 3).unwrap();
    daemon.wait_until("every edge is told", || last_seq(&state) == 8);
    assert_eq!(events(&state).len(), 3, "the new bound holds");
    reload("[redis]\nhost = \"/nowhere\"\n[log]\nlevel = \"warn\"\n", "need a restart: redis, redis.host");
    bus.unplug("1-1").unwrap();
    daemon.wait_until("the unplug is told", || last_seq(&state) == 9);
    let log = daemon.stop();
    let told = |text: &str| log.contains(text);
    assert!(!told("stopped") && told(needs), "no information is logged any more: {log}");
}
