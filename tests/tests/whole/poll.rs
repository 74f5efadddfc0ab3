//! The source for where there are no uevents.

use autoweave_usb_testbus::{Bus, Device};

use crate::harness::{Daemon, QUICK, StateDir, devices, events};
use crate::invariants::{check, check_hubs, headline, net, on_bus, places};

#[test]
fn polling_sees_what_comes_and_goes() {
    let mut bus = Bus::enter().unwrap();
    bus.add_root_hub(1).unwrap();
    let state = StateDir::new();
    let env = [QUICK, &[("AUTOWEAVE_USB__MONITORING__INTERVAL", "100")]].concat();
    let daemon = Daemon::start_with(&bus, state.path(), &env, &["--source", "poll"]);
    let settle = |bus: &Bus| {
        daemon.wait_until("the table is what is there", || places(&devices(&state)) == on_bus(bus));
    };
    bus.plug_silent("1-1", &Device::hub()).unwrap();
    bus.plug_silent("1-1.1", &Device::receiver()).unwrap();
    settle(&bus);
    bus.unplug_silent("1-1.1").unwrap();
    settle(&bus);
    bus.plug_silent("1-1.1", &Device::storage("S1")).unwrap();
    settle(&bus);
    bus.unplug_silent("1-1").unwrap();
    settle(&bus);
    daemon.stop();

    let events = events(&state);
    check(&events);
    check_hubs(&events);
    assert_eq!(net(&events), on_bus(&bus));
    assert_eq!(events[0]["source"], "poll");
    let told: Vec<_> = events.iter().map(headline).collect();
    assert_eq!(
        told,
        [
            "attach usb1 coldplug",
            "attach 1-1 reconcile",
            "attach 1-1.1 reconcile",
            "detach 1-1.1 reconcile",
            "attach 1-1.1 reconcile",
            "detach 1-1.1 reconcile",
            "detach 1-1 reconcile"
        ]
    );
}

#[test]
fn devices_that_do_not_answer_hold_up_no_other() {
    let mut bus = Bus::enter().unwrap();
    bus.add_root_hub(1).unwrap();
    let stuck = ["1-1", "1-2", "1-3", "1-4", "1-5"];
    for port in stuck {
        bus.plug_silent(port, &Device::receiver()).unwrap();
    }
    let state = StateDir::new();
    let env = [QUICK, &[("AUTOWEAVE_USB__MONITORING__INTERVAL", "100")]].concat();
    let daemon = Daemon::start_with(&bus, state.path(), &env, &["--source", "poll"]);
    let blocked = stuck[..3].iter().map(|port| bus.make_blocking_attribute(port, "serial").unwrap());
    let blocked: Vec<_> = blocked.collect();
    for round in 0..3 {
        bus.plug_silent("1-6", &Device::storage(&format!("S{round}"))).unwrap();
        daemon.wait_until("it is told", || places(&devices(&state)) == on_bus(&bus));
        bus.unplug_silent("1-6").unwrap();
        daemon.wait_until("it is told", || places(&devices(&state)) == on_bus(&bus));
    }
    let log = daemon.stop();
    assert!(!log.contains("the source poll failed"), "{log}");
    drop(blocked);
}
