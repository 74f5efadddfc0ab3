//! Devices that are slow to be read, or gone before they are.

use autoweave_usb_testbus::{Bus, Device};
use serde_json::Value;

use crate::harness::{Daemon, QUICK, StateDir, devices, events, last_seq};
use crate::invariants::{check, check_hubs, headline};

fn find<'a>(events: &'a [Value], line: &str) -> &'a Value {
    events.iter().find(|event| headline(event) == line).unwrap_or_else(|| panic!("no {line} in {events:?}"))
}

#[test]
fn a_device_that_cannot_be_read_holds_up_nobody_and_its_detach_tells_what_came_late() {
    let mut bus = Bus::enter().unwrap();
    bus.add_root_hub(1).unwrap();
    let state = StateDir::new();
    let daemon = Daemon::start(&bus, &state, QUICK);

    bus.plug_silent("1-1", &Device::receiver()).unwrap();
    let blocked = bus.make_blocking_attribute("1-1", "serial").unwrap();
    bus.announce("1-1").unwrap();
    bus.plug("1-2", &Device::storage("S1")).unwrap();
    daemon.wait_until("both attach although one is blocked", || last_seq(&state) == 3);
    bus.plug("1-3", &Device::storage("S2")).unwrap();
    daemon.wait_until("so does one later", || last_seq(&state) == 4);
    blocked.release(b"ABC123\n").unwrap();
    let knows_serial = || devices(&state).iter().any(|device| device["serial_number"] == "ABC123");
    daemon.wait_until("the table has the serial number", knows_serial);
    bus.unplug("1-1").unwrap();
    daemon.wait_until("it detaches", || last_seq(&state) == 5);
    daemon.stop();

    let events = events(&state);
    check(&events);
    let attach = find(&events, "attach 1-1 hotplug");
    assert_eq!(
        (&attach["device"]["vendor_id"], &attach["device"]["product_id"]),
        (&"046d".into(), &"c52b".into())
    );
    assert_eq!(attach["device"]["serial_number"], Value::Null);
    assert_eq!(find(&events, "detach 1-1 hotplug")["device"]["serial_number"], "ABC123");
    let waited =
        events[3]["timestamp"].as_u64().unwrap().saturating_sub(attach["timestamp"].as_u64().unwrap());
    println!("attach to the next device's attach: {waited} ms");
    assert_eq!(events[2]["device"]["serial_number"], "S1", "the others are read as ever");
    assert_eq!(events[3]["device"]["serial_number"], "S2");
}

#[test]
fn a_hub_that_cannot_be_read_does_not_hold_up_what_is_below_it() {
    let mut bus = Bus::enter().unwrap();
    bus.add_root_hub(1).unwrap();
    let state = StateDir::new();
    let daemon = Daemon::start(&bus, &state, QUICK);

    bus.plug_silent("1-1", &Device::hub()).unwrap();
    let blocked = bus.make_blocking_attribute("1-1", "serial").unwrap();
    bus.announce("1-1").unwrap();
    bus.plug("1-1.1", &Device::receiver()).unwrap();
    daemon.wait_until("hub and device attach", || last_seq(&state) == 3);
    bus.unplug("1-1").unwrap();
    daemon.wait_until("device and hub detach", || last_seq(&state) == 5);
    drop(blocked);
    daemon.stop();
    let events = events(&state);
    check(&events);
    check_hubs(&events);
}

#[test]
fn a_device_that_is_gone_before_it_is_read_attaches_and_detaches_with_its_ids() {
    let mut bus = Bus::enter().unwrap();
    bus.add_root_hub(1).unwrap();
    let state = StateDir::new();
    let daemon = Daemon::start(&bus, &state, QUICK);
    let sent = bus.flood("1-1", &Device::receiver(), 500).unwrap();
    daemon.wait_until("every edge is in the log", || last_seq(&state) == 1 + sent);
    daemon.stop();
    let events = events(&state);
    assert_eq!(events.len() as u64, 1 + sent);
    check(&events);
    for pair in events[1..].chunks(2) {
        assert_eq!(headline(&pair[0]), "attach 1-1 hotplug");
        assert_eq!(headline(&pair[1]), "detach 1-1 hotplug");
        for event in pair {
            let device = &event["device"];
            assert_eq!((&device["vendor_id"], &device["product_id"]), (&"046d".into(), &"c52b".into()));
        }
    }
}
