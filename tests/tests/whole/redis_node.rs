//! The specification's consumer, run by Node, reads what the daemon writes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use autoweave_usb_testbus::{Bus, Device};
use redis::Value as Answer;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{StateDir, events, last_seq, wait_until};
use crate::installed::node_modules;
use crate::invariants::{check, text};
use crate::program::Running;
use crate::redis_server::{STREAM, Server, start, wait_until_published};

const GROUP: &str = "plugin-loader";

const PORTS: [&str; 3] = ["1-1", "1-2", "1-3"];

/// The running consumer, and the directory it runs in.
struct Consumer {
    running: Running,
    _directory: TempDir,
}

impl Consumer {
    /// Starts it beside its packages, for that is where Node looks for them.
    fn start(server: &Server, modules: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let script = directory.path().join("consumer.mjs");
        fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/node/consumer.mjs"), &script).unwrap();
        symlink(modules, directory.path().join("node_modules")).unwrap();
        let running = Running::start(Command::new("node").arg(script).arg(server.socket()));
        Self { running, _directory: directory }
    }
}

/// What the server says of the consumer's group, once there is one.
fn group(server: &Server) -> Option<BTreeMap<String, Answer>> {
    let mut xinfo = redis::cmd("XINFO");
    let groups: redis::RedisResult<Vec<BTreeMap<String, Answer>>> =
        xinfo.arg("GROUPS").arg(STREAM).query(&mut server.connect()?);
    groups.ok()?.pop()
}

/// Waits until the consumer was given, and has acknowledged, all that is in the stream.
fn wait_until_acknowledged(server: &Server) {
    wait_until("all is acknowledged", || {
        group(server)
            .is_some_and(|group| ["pending", "lag"].iter().all(|name| group[*name] == Answer::Int(0)))
    });
}

/// What the consumer makes of an event of the journal.
fn parsed(event: &Value) -> Value {
    let device = &event["device"];
    let number = |id: &Value| u32::from_str_radix(text(id), 16).unwrap();
    let or_empty = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    json!({
        "source": event["source"],
        "action": event["action"],
        "vendorId": number(&device["vendor_id"]),
        "productId": number(&device["product_id"]),
        "deviceSignature": device["signature"],
        "manufacturer": or_empty(&device["manufacturer"]),
        "product": or_empty(&device["product"]),
        "serialNumber": or_empty(&device["serial_number"]),
        "timestamp": event["timestamp"],
        "deviceDescriptor": device["device_descriptor"],
    })
}

/// Every event of the journal was printed, once, in order and with the right fields.
fn compare(state: &StateDir, consumer: &Consumer) {
    let events = events(state);
    check(&events);
    let mut printed = consumer.running.json();
    for event in &mut printed {
        let id = event.as_object_mut().unwrap().remove("messageId").unwrap();
        assert!(text(&id).contains('-'), "an entry's id: {id}");
    }
    assert_eq!(printed, events.iter().map(parsed).collect::<Vec<_>>());
}

fn bus_with_devices() -> Bus {
    let mut bus = Bus::enter().unwrap();
    let devices = [Device::receiver(), Device::storage("S-1"), Device::numbered(7)];
    for (port, device) in PORTS.iter().zip(&devices) {
        bus.plug_silent(port, device).unwrap();
    }
    bus
}

#[test]
fn the_specifications_consumer_gets_every_event_once_while_the_daemon_is_killed() {
    let Some(modules) = node_modules() else { return };
    let mut bus = bus_with_devices();
    let server = Server::start();
    let state = StateDir::new();
    // It makes its group at the end of the stream, so it has to be there first.
    let consumer = Consumer::start(&server, &modules);
    wait_until("the consumer has its group", || group(&server).is_some());
    for _ in 0..3 {
        let daemon = start(&bus, &state, &server);
        let before = last_seq(&state);
        bus.cycle(&PORTS, 10).unwrap();
        daemon.wait_until("some are journaled", || last_seq(&state) > before);
        daemon.kill();
    }
    let daemon = start(&bus, &state, &server);
    bus.plug("1-9", &Device::new(0x0403, 0x6001)).unwrap();
    bus.unplug("1-9").unwrap();
    wait_until_published(&daemon, &state, &server);
    daemon.stop();
    wait_until_acknowledged(&server);
    compare(&state, &consumer);
}

#[test]
fn the_specifications_consumer_gets_what_happened_before_it_from_a_group_at_the_beginning() {
    let Some(modules) = node_modules() else { return };
    let mut bus = bus_with_devices();
    let server = Server::start();
    let state = StateDir::new();
    let daemon = start(&bus, &state, &server);
    bus.cycle(&PORTS, 5).unwrap();
    daemon.wait_until("some are journaled", || last_seq(&state) >= 30);
    wait_until_published(&daemon, &state, &server);
    server.order(&format!("XGROUP CREATE {STREAM} {GROUP} 0"));
    let consumer = Consumer::start(&server, &modules);
    wait_until_acknowledged(&server);
    daemon.stop();
    compare(&state, &consumer);
}
