//! Hubs with what is behind them, and many devices at once.

use std::collections::BTreeSet;

use autoweave_usb_tests::guest::{Entry, Qmp, story};
use serde_json::json;

use crate::rig::Rig;

/// Ports of QEMU's hub.
const HUB_PORTS: usize = 8;

const CONTROLLERS: usize = 4;

#[test]
fn children_of_an_unplugged_hub_detach_first() {
    let mut qmp = Qmp::open();
    let mut rig = Rig::start(&[]);
    let hub = qmp.plug("usb-hub", json!({"bus": "xhci0.0", "port": "1"}));
    qmp.plug("usb-hub", json!({"bus": "xhci0.0", "port": "1.2"}));
    qmp.plug("usb-kbd", json!({"bus": "xhci0.0", "port": "1.1"}));
    qmp.plug("usb-tablet", json!({"bus": "xhci0.0", "port": "1.2.3"}));
    rig.kernel.wait_for("bind", 4);
    qmp.unplug(&hub);
    rig.kernel.wait_for("remove", 4);
    let told = rig.finish();
    assert_eq!(told.len(), 8, "{:?}", story(&told));
    check_order(&told);
    assert!(told[7].port().ends_with("-1"), "the hub leaves last: {:?}", story(&told));
}

#[test]
fn fifty_devices_at_once_behind_hubs() {
    let mut qmp = Qmp::open();
    let mut rig = Rig::start(&[]);
    let hubs: Vec<String> = (0..2 * CONTROLLERS)
        .map(|hub| qmp.plug("usb-hub", json!({"bus": bus(hub), "port": port(hub)})))
        .collect();
    let mut plugged = hubs.len();
    for device in 0..50 {
        let (hub, below) = (device % hubs.len(), device / hubs.len() + 1);
        assert!(below <= HUB_PORTS);
        qmp.plug("usb-kbd", json!({"bus": bus(hub), "port": format!("{}.{below}", port(hub))}));
        plugged += 1;
    }
    rig.kernel.wait_for("bind", plugged);
    for hub in &hubs {
        qmp.unplug(hub);
    }
    rig.kernel.wait_for("remove", plugged);
    let told = rig.finish();
    assert_eq!(told.len(), 2 * plugged);
    check_order(&told);
}

fn bus(hub: usize) -> String {
    format!("xhci{}.0", hub % CONTROLLERS)
}

fn port(hub: usize) -> String {
    (hub / CONTROLLERS + 1).to_string()
}

/// A hub attaches before, and detaches after, everything below it.
fn check_order(told: &[Entry]) {
    let mut connected = BTreeSet::new();
    for entry in told {
        let port = entry.port();
        let hub = port.rsplit_once('.').map(|(hub, _)| hub.to_owned());
        if entry.get("action") == "attach" {
            assert!(hub.is_none_or(|hub| connected.contains(&hub)), "before its hub: {entry:?}");
            connected.insert(port);
        } else {
            let below = format!("{port}.");
            assert!(
                !connected.iter().any(|other| other.starts_with(&below)),
                "before its devices: {entry:?}"
            );
            connected.remove(&port);
        }
    }
}
