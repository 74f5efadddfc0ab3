//! What a start says, by what happened since the daemon ran last.

use autoweave_usb_testbus::{Bus, Device};
use serde_json::Value;

use crate::harness::{Daemon, QUICK, StateDir, devices, events, last_seq};
use crate::invariants::{check, check_hubs, headline, net, on_bus, places};

const BOOTS: [&str; 2] = ["11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"];

fn bus_with_a_hub() -> Bus {
    let mut bus = Bus::enter().unwrap();
    bus.add_root_hub(1).unwrap();
    bus.plug_silent("1-1", &Device::hub()).unwrap();
    bus.plug_silent("1-1.2", &Device::receiver()).unwrap();
    bus.plug_silent("1-2", &Device::storage("AA")).unwrap();
    bus
}

/// Starts the daemon, stops it, and returns what it wrote.
fn run_once(bus: &Bus, state: &StateDir) -> Vec<String> {
    let before = events(state).len();
    Daemon::start(bus, state, QUICK).stop();
    let events = events(state);
    check(&events);
    check_hubs(&events);
    assert_eq!(net(&events), on_bus(bus));
    assert_eq!(places(&devices(state)), on_bus(bus));
    events[before..].iter().map(headline).collect()
}

#[test]
fn the_first_start_tells_what_is_there() {
    let bus = bus_with_a_hub();
    let told = run_once(&bus, &StateDir::new());
    assert_eq!(
        told,
        ["attach usb1 coldplug", "attach 1-1 coldplug", "attach 1-1.2 coldplug", "attach 1-2 coldplug"]
    );
}

#[test]
fn a_later_start_tells_only_what_changed_meanwhile() {
    let mut bus = bus_with_a_hub();
    let state = StateDir::new();
    run_once(&bus, &state);
    assert_eq!(run_once(&bus, &state), [""; 0], "nothing changed, so nothing is told");

    bus.unplug_silent("1-1.2").unwrap();
    bus.plug_silent("1-1.2", &Device::receiver()).unwrap();
    bus.unplug_silent("1-2").unwrap();
    bus.plug_silent("1-3", &Device::storage("AA")).unwrap();
    let told = run_once(&bus, &state);
    assert_eq!(
        told,
        ["detach 1-2 reconcile", "detach 1-1.2 reconcile", "attach 1-1.2 reconcile", "attach 1-3 reconcile"]
    );
    assert_eq!(run_once(&bus, &state), [""; 0]);
}

#[test]
fn after_a_reboot_everything_leaves_and_everything_present_comes() {
    let mut bus = bus_with_a_hub();
    let state = StateDir::new();
    bus.set_boot_id(BOOTS[0]).unwrap();
    run_once(&bus, &state);
    bus.set_boot_id(BOOTS[1]).unwrap();
    bus.unplug_silent("1-2").unwrap();
    let told = run_once(&bus, &state);
    assert_eq!(
        told,
        [
            "detach 1-2 reboot",
            "detach 1-1.2 reboot",
            "detach 1-1 reboot",
            "detach usb1 reboot",
            "attach usb1 reboot",
            "attach 1-1 reboot",
            "attach 1-1.2 reboot"
        ]
    );
    assert_eq!(run_once(&bus, &state), [""; 0]);
}

#[test]
fn killed_right_after_a_start_the_next_one_gives_the_same_reason() {
    let bus = bus_with_a_hub();
    for moment in 0..8 {
        let state = StateDir::new();
        bus.set_boot_id(BOOTS[0]).unwrap();
        assert_eq!(reasons_of_a_start_that_is_killed(&bus, &state, moment), ["coldplug"; 4]);
        bus.set_boot_id(BOOTS[1]).unwrap();
        assert_eq!(reasons_of_a_start_that_is_killed(&bus, &state, moment), ["reboot"; 8]);
    }
}

/// Kills the daemon when it has written `moment` events or more, starts it again, and says why they all came.
fn reasons_of_a_start_that_is_killed(bus: &Bus, state: &StateDir, moment: u64) -> Vec<Value> {
    let before = last_seq(state);
    let daemon = Daemon::spawn(bus, state.path(), QUICK, &[]);
    daemon.wait_until("it writes", || last_seq(state) >= before + moment.min(4));
    daemon.kill();
    run_once(bus, state);
    let events = events(state);
    let after = events.iter().filter(|event| event["seq"].as_u64() > Some(before));
    after.map(|event| event["reason"].clone()).collect()
}
