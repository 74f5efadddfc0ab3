//! What every source has to tell of the same devices.

use std::thread;

use autoweave_usb_testbus::Device;
use autoweave_usb_tests::make_sys_a_sysfs;
use serde_json::{Value, json};

use crate::harness::{Daemon, devices, events};
use crate::invariants::{check, check_hubs, net, on_bus, places, port};
use crate::machine::Machine;
use crate::program::{CALM, until_read};

/// Short enough for a poll not to be waited for, and unused by what listens: see [`CALM`].
const POLL: (&str, &str) = ("AUTOWEAVE_USB__MONITORING__INTERVAL", "100");

#[test]
fn every_source_tells_the_same_of_the_same_devices() {
    let told = until_read(|| {
        ["uevent", "libusb", "udev", "poll"]
            .map(|source| thread::spawn(|| paced_story(source)).join().unwrap())
    });
    let [uevent, others @ ..] = told;
    assert_eq!(uevent.len(), 14);
    let what = |events: &[Value]| -> Vec<Value> { events.iter().map(what_was_told).collect() };
    for other in others {
        for (told, expected) in what(&other).iter().zip(what(&uevent)) {
            assert_eq!(*told, expected, "{}", other[0]["source"]);
        }
        assert_eq!(other.len(), uevent.len());
    }
}

/// Each device is known before the next one comes.
fn paced_story(source: &str) -> Vec<Value> {
    let mut machine = Machine::new();
    make_sys_a_sysfs().unwrap();
    machine.bus.plug_silent("1-2", &Device::storage("COLD")).unwrap();
    let runtime = machine.runtime();
    let own =
        [if source == "poll" { POLL } else { CALM[2] }, ("RUNTIME_DIRECTORY", runtime.to_str().unwrap())];
    let env = [CALM, &own].concat();
    let daemon = Daemon::start_with(&machine.bus, machine.state.path(), &env, &["--source", source]);
    let settle = |machine: &Machine| {
        let is_known = || places(&devices(&machine.state)) == on_bus(&machine.bus);
        daemon.wait_until("the table is what is there", is_known);
    };
    settle(&machine);
    let plug = |machine: &mut Machine, port: &str, device: &Device| {
        match source {
            "udev" => machine.plug(port, device),
            _ => drop(machine.bus.plug(port, device).unwrap()),
        }
        settle(machine);
    };
    let unplug = |machine: &mut Machine, port: &str| {
        match source {
            "udev" => machine.unplug(port),
            _ => machine.bus.unplug(port).unwrap(),
        }
        settle(machine);
    };
    plug(&mut machine, "1-1", &Device::hub());
    plug(&mut machine, "1-1.4", &Device::receiver());
    plug(&mut machine, "1-1.2", &Device::storage("S1"));
    plug(&mut machine, "1-3", &Device::storage("S2"));
    unplug(&mut machine, "1-3");
    // Of devices that go with their hub, not every source can say which one went first.
    unplug(&mut machine, "1-1.2");
    unplug(&mut machine, "1-1");
    unplug(&mut machine, "1-2");
    plug(&mut machine, "1-3", &Device::receiver());
    // The same device in the same port, with another address.
    unplug(&mut machine, "1-3");
    plug(&mut machine, "1-3", &Device::receiver());
    daemon.stop();
    let events = events(&machine.state);
    check(&events);
    check_hubs(&events);
    assert_eq!(net(&events), on_bus(&machine.bus));
    // A scan that comes between a device and what is heard of it tells it first, as found and not as heard.
    assert!(events.iter().all(|event| event["source"] == source), "{events:?}");
    events
}

fn what_was_told(event: &Value) -> Value {
    let device = &event["device"];
    let names = [
        "device_id",
        "device_address",
        "vendor_id",
        "product_id",
        "serial_number",
        "product",
        "manufacturer",
    ];
    let names = names.map(|name| &device[name]);
    json!([event["action"], port(event), names, device["speed_mbps"], device["device_descriptor"]])
}
