//! What holds of every journal, whatever happened: the contract's promises about order and completeness.

use std::collections::{BTreeMap, BTreeSet};

use autoweave_usb_testbus::Bus;
use serde_json::Value;

/// Which device is where: its port as sysfs names it, address, vendor and product.
pub type Place = (String, u64, String, String);

/// Checks numbering, alternation per port and per `device_id`, and that each detach names the device that came.
pub fn check(events: &[Value]) {
    let mut event_ids = BTreeSet::new();
    let mut in_port: BTreeMap<String, Place> = BTreeMap::new();
    let mut by_id: BTreeMap<&str, &str> = BTreeMap::new();
    for (event, seq) in events.iter().zip(1..) {
        assert_eq!(event["seq"], seq, "sequence numbers have no gap: {event}");
        assert_eq!(event["producer"], events[0]["producer"], "one producer: {event}");
        assert!(event_ids.insert(text(&event["event_id"])), "an event_id is used once: {event}");
        assert!(event["edges"].as_u64() >= Some(1), "an event stands for an edge: {event}");
        let (port, id) = (port(event), text(&event["device"]["device_id"]));
        match text(&event["action"]) {
            "attach" => {
                let before = in_port.insert(port, place(&event["device"]));
                assert_eq!(before, None, "an attach into an empty port: {event}");
                let before = by_id.insert(id, text(&event["event_id"]));
                assert_eq!(before, None, "two connected devices have different names: {event}");
            }
            "detach" => {
                let there = in_port.remove(&port);
                assert_eq!(there, Some(place(&event["device"])), "what leaves is what was there: {event}");
                assert!(by_id.remove(id).is_some(), "a detach of a name that was attached: {event}");
            }
            other => panic!("no such action: {other}"),
        }
    }
}

/// Checks that a hub attaches before, and detaches after, everything below it. One exception: a device that came
/// and went before the scan that tells of its hub is told of at once.
pub fn check_hubs(events: &[Value]) {
    let mut connected = BTreeSet::new();
    for (index, event) in events.iter().enumerate() {
        let port = port(event);
        if text(&event["action"]) == "attach" {
            let has_hub = hub_of(&port).is_none_or(|hub| connected.contains(&hub));
            assert!(has_hub || goes_at_once(&events[index..]), "a hub attaches first: {event}");
            connected.insert(port);
        } else {
            let below = connected.iter().find(|other| hub_of(other).as_ref() == Some(&port));
            assert_eq!(below, None, "what is below a hub detaches first: {event}");
            connected.remove(&port);
        }
    }
}

fn goes_at_once(events: &[Value]) -> bool {
    events.get(1).is_some_and(|next| next["action"] == "detach" && port(next) == port(&events[0]))
}

/// What is connected after `events`.
pub fn net(events: &[Value]) -> BTreeSet<Place> {
    let mut connected = BTreeSet::new();
    for event in events {
        let place = place(&event["device"]);
        match text(&event["action"]) {
            "attach" => drop(connected.insert(place)),
            _ => drop(connected.remove(&place)),
        }
    }
    connected
}

/// What is connected according to rows of the device table.
pub fn places(devices: &[Value]) -> BTreeSet<Place> {
    devices.iter().map(place).collect()
}

/// What is plugged in.
pub fn on_bus(bus: &Bus) -> BTreeSet<Place> {
    let place = |device: autoweave_usb_testbus::Present| {
        let id = |id: u16| format!("{id:04x}");
        (device.port, u64::from(device.devnum), id(device.vendor), id(device.product))
    };
    bus.devices().into_iter().map(place).collect()
}

/// The port of an event's device as sysfs names it.
pub fn port(event: &Value) -> String {
    port_name(&event["device"])
}

/// `attach 1-1.2 hotplug`, for comparing short stories.
pub fn headline(event: &Value) -> String {
    format!("{} {} {}", text(&event["action"]), port(event), text(&event["reason"]))
}

/// The text in a JSON string.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no string"))
}

fn place(device: &Value) -> Place {
    let id = |name: &str| text(&device[name]).to_owned();
    (port_name(device), device["device_address"].as_u64().unwrap_or(0), id("vendor_id"), id("product_id"))
}

fn port_name(device: &Value) -> String {
    match text(&device["port_path"]) {
        "0" => format!("usb{}", device["bus_number"]),
        path => format!("{}-{path}", device["bus_number"]),
    }
}

fn hub_of(port: &str) -> Option<String> {
    let (bus, path) = port.split_once('-')?;
    Some(path.rsplit_once('.').map_or_else(|| format!("usb{bus}"), |(hub, _)| format!("{bus}-{hub}")))
}
