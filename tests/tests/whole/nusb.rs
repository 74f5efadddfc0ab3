//! The source that hears of devices through nusb, whose notifications are udev's here: a relay stands in for udevd.

use autoweave_usb_testbus::{Bus, Device};
use serde_json::{Value, json};

use crate::harness::{Daemon, QUICK, StateDir, devices, events};
use crate::invariants::{check, check_hubs, headline, net, on_bus, places, port};
use crate::program::CALM;

struct Story {
    bus: Bus,
    state: StateDir,
    daemon: Daemon,
}

impl Story {
    fn begin(env: &[(&str, &str)], source: &str) -> Self {
        let mut bus = Bus::enter().unwrap();
        bus.add_root_hub(1).unwrap();
        bus.plug_silent("1-2", &Device::storage("COLD")).unwrap();
        let state = StateDir::new();
        let daemon = Daemon::start_with(&bus, state.path(), env, &["--source", source]);
        let story = Self { bus, state, daemon };
        story.settle();
        story
    }

    fn settle(&self) {
        self.daemon
            .wait_until("the table is what is there", || places(&devices(&self.state)) == on_bus(&self.bus));
    }

    fn plug(&mut self, port: &str, device: &Device) {
        self.bus.plug(port, device).unwrap();
        self.bus.send_as_udev(&self.bus.message("add", port).unwrap()).unwrap();
        self.settle();
    }

    fn unplug(&mut self, port: &str) {
        let message = self.bus.message("remove", port).unwrap();
        self.bus.unplug(port).unwrap();
        self.bus.send_as_udev(&message).unwrap();
        self.settle();
    }

    fn end(self) -> Vec<Value> {
        self.daemon.stop();
        let events = events(&self.state);
        check(&events);
        check_hubs(&events);
        assert_eq!(net(&events), on_bus(&self.bus));
        events
    }
}

fn what_was_told(event: &Value) -> Value {
    let device = &event["device"];
    let names = ["device_id", "device_address", "product", "manufacturer", "speed_mbps", "device_class"];
    let interfaces = device["interfaces"].as_array().unwrap().iter();
    let classes: Vec<_> = interfaces.map(|interface| [&interface["number"], &interface["class"]]).collect();
    let names = names.map(|name| &device[name]);
    json!([headline(event), port(event), names, classes, device["device_descriptor"]])
}

#[test]
fn nusb_tells_what_uevents_tell() {
    let tell = |source: &str| {
        let mut story = Story::begin(CALM, source);
        story.plug("1-1", &Device::hub());
        story.plug("1-1.4", &Device::receiver());
        story.plug("1-3", &Device::storage("S1"));
        story.unplug("1-1");
        story.unplug("1-2");
        story.plug("1-1", &Device::receiver());
        story.end()
    };
    let run = |source: &'static str| std::thread::spawn(move || tell(source)).join().unwrap();
    let (nusb, uevent) = (run("nusb"), run("uevent"));
    assert!(nusb.iter().all(|event| event["source"] == "nusb"), "{nusb:?}");
    let told = |events: &[Value]| -> Vec<Value> { events.iter().map(what_was_told).collect() };
    assert_eq!(told(&nusb), told(&uevent));
}

#[test]
fn a_scan_finds_what_nusb_was_not_told() {
    let mut story =
        Story::begin(&[QUICK, &[("AUTOWEAVE_USB__MONITORING__INTERVAL", "100")]].concat(), "nusb");
    story.bus.plug_silent("1-1", &Device::storage("S1")).unwrap();
    story.settle();
    let message = story.bus.message("remove", "1-2").unwrap();
    story.unplug("1-2");
    story.bus.send_as_udev(&message).unwrap();
    let log = "malformed";
    story.daemon.wait_for_log(log);
    let told: Vec<_> = story.end().iter().map(headline).collect();
    assert_eq!(
        told,
        ["attach usb1 coldplug", "attach 1-2 coldplug", "attach 1-1 reconcile", "detach 1-2 hotplug"]
    );
}
