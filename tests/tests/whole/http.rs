//! The door to look in, of the running daemon.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use autoweave_usb_testbus::{Bus, Device};
use serde_json::{Value, json};

use crate::harness::{Daemon, PATIENCE, QUICK, StateDir, last_seq};

/// Every bus has a loopback of its own, so the default port is free.
const ADDRESS: &str = "127.0.0.1:8080";

fn get(path: &str, headers: &str) -> TcpStream {
    get_from(ADDRESS, path, headers)
}

fn get_from(address: &str, path: &str, headers: &str) -> TcpStream {
    let address: SocketAddr = address.parse().unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(client, "GET {path} HTTP/1.0\r\nHost: localhost\r\n{headers}\r\n").unwrap();
    client
}

/// The first line of an answer, and its body.
pub fn answer(path: &str) -> (String, String) {
    answer_of(ADDRESS, path)
}

/// [`answer`], of whoever listens on `address`.
pub fn answer_of(address: &str, path: &str) -> (String, String) {
    read(get_from(address, path, ""))
}

/// [`answer`] to a request with these header lines.
pub fn answer_with(path: &str, headers: &str) -> (String, String) {
    read(get(path, headers))
}

fn read(mut client: TcpStream) -> (String, String) {
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

/// The first line of the answer to who asks for `/health` by the name `host`.
pub fn status_by(host: &str) -> String {
    let mut client = TcpStream::connect(ADDRESS).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(client, "GET /health HTTP/1.0\r\nHost: {host}\r\n\r\n").unwrap();
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    text.lines().next().unwrap().to_owned()
}

/// Reads an event stream until it has `count` events, and returns their ids.
fn ids(stream: &mut TcpStream, count: usize) -> Vec<u64> {
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    loop {
        let ids: Vec<u64> =
            text.lines().filter_map(|line| line.strip_prefix("id:")?.trim().parse().ok()).collect();
        if ids.len() >= count {
            return ids;
        }
        let read = stream.read(&mut buffer).unwrap();
        assert!(read > 0, "the stream ended: {text}");
        text += std::str::from_utf8(&buffer[..read]).unwrap();
    }
}

#[test]
fn it_tells_how_the_daemon_is_what_is_connected_and_what_happened() {
    let mut bus = Bus::enter().unwrap();
    bus.add_root_hub(1).unwrap();
    let state = StateDir::new();
    let daemon = Daemon::start(&bus, &state, QUICK);
    bus.plug("1-1", &Device::receiver()).unwrap();
    daemon.wait_until("the plug is journaled", || last_seq(&state) >= 2);

    daemon.wait_until("it is told", || answer("/api/v1/devices").1.contains("046d:c52b:ABC123"));
    let (status, health) = answer("/health");
    let health: Value = serde_json::from_str(&health).unwrap();
    assert!(status.contains("200"), "{status}");
    assert_eq!((&health["status"], &health["devices"]["connected"]), (&"ok".into(), &2.into()));
    assert_eq!((&health["source"]["active"], &health["journal"]["last_seq"]), (&"uevent".into(), &2.into()));
    assert!(answer("/ready").0.contains("200"));
    let metrics = answer("/metrics").1;
    assert!(metrics.contains("usb_devices_connected 2"), "{metrics}");
    let hotplug = r#"usb_events_total{action="attach",source="uevent",reason="hotplug"} 1"#;
    assert!(metrics.contains(hotplug), "{metrics}");
    let events: Value = serde_json::from_str(&answer("/api/v1/events?since=1").1).unwrap();
    assert_eq!((&events["events"][0]["seq"], &events["next"]), (&2.into(), &2.into()));
    assert!(answer("/nothing").0.contains("404"));
    daemon.stop();
}

#[test]
fn descriptors_are_decoded_for_as_long_as_the_device_is_there() {
    let mut bus = Bus::enter().unwrap();
    bus.add_root_hub(1).unwrap();
    bus.plug("1-1", &Device::hub()).unwrap();
    bus.plug("1-1.4", &Device::receiver()).unwrap();
    let broken = Device { descriptors: Some(vec![9, 2, 0]), ..Device::storage("S") };
    bus.plug("1-2", &broken).unwrap();
    let state = StateDir::new();
    // No scan finds what is done behind the daemon's back.
    let rarely = [QUICK, &[("AUTOWEAVE_USB__MONITORING__INTERVAL", "3600000")]].concat();
    let daemon = Daemon::start(&bus, &state, &rarely);
    daemon.wait_until("all are told", || {
        last_seq(&state) >= 4 && answer("/api/v1/devices").1.contains("ABC123")
    });
    let ask = |port: &str| {
        let (status, body) = answer(&format!("/api/v1/devices/{port}/descriptors"));
        (status, serde_json::from_str::<Value>(&body).unwrap())
    };

    let (status, body) = ask("1-1.4");
    assert!(status.contains("200"), "{status} {body}");
    assert_eq!((&body["device_id"], &body["fault"]), (&"046d:c52b:ABC123".into(), &Value::Null));
    let devices: Value = serde_json::from_str(&answer("/api/v1/devices").1).unwrap();
    let known =
        devices["devices"].as_array().unwrap().iter().find(|one| one["device_id"] == body["device_id"]);
    let known = known.unwrap();
    assert_eq!(body["device_descriptor"], known["device_descriptor"]);
    assert_eq!(body["signature"], known["signature"]);
    let endpoint = json!({"bEndpointAddress": 0x81, "bmAttributes": 3, "wMaxPacketSize": 8, "bInterval": 10});
    let interface = json!({
        "bInterfaceNumber": 0, "bAlternateSetting": 0, "bInterfaceClass": 3, "bInterfaceSubClass": 1,
        "bInterfaceProtocol": 1, "endpoints": [endpoint],
    });
    let configuration = json!({
        "bConfigurationValue": 1, "bmAttributes": 0xa0, "bMaxPower": 50, "interfaces": [interface],
        "associations": [],
    });
    assert_eq!(body["configurations"], json!([configuration]));
    assert_eq!(ask("usb1").1["configurations"][0]["interfaces"][0]["bInterfaceClass"], 9);
    let (status, body) = ask("1-2");
    assert!(status.contains("200"), "{status} {body}");
    assert_eq!(body["fault"], "the descriptor at byte 0 runs past the end");

    // The daemon does not hear of these: sysfs says whether it is still the device that is known.
    bus.unplug_silent("1-1.4").unwrap();
    let (status, body) = ask("1-1.4");
    assert!(
        status.contains("404") && body["detail"].as_str().unwrap().contains("has gone"),
        "{status} {body}"
    );
    bus.plug_silent("1-1.4", &Device::receiver()).unwrap();
    assert!(ask("1-1.4").0.contains("404"));
    daemon.stop();
}

#[test]
fn nobody_but_who_asks_waits_for_descriptors_that_cannot_be_read_yet() {
    let mut bus = Bus::enter().unwrap();
    bus.add_root_hub(1).unwrap();
    bus.plug("1-1", &Device::receiver()).unwrap();
    let state = StateDir::new();
    let daemon = Daemon::start(&bus, &state, QUICK);
    daemon.wait_until("both are told", || answer("/api/v1/devices").1.contains("ABC123"));
    let whole = fs::read("/sys/bus/usb/devices/1-1/descriptors").unwrap();
    let blocked = bus.make_blocking_attribute("1-1", "descriptors").unwrap();
    let mut waiting = [(); 2].map(|()| get("/api/v1/devices/1-1/descriptors", ""));
    for client in &waiting {
        client.set_nonblocking(true).unwrap();
    }
    bus.plug("1-2", &Device::storage("S")).unwrap();
    daemon.wait_until("an event is in the journal", || answer("/api/v1/events").1.contains("SanDisk"));
    assert!(answer("/health").0.contains("200"));
    for client in &mut waiting {
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        client.set_nonblocking(false).unwrap();
    }
    blocked.release(&whole).unwrap();
    for client in waiting {
        let (status, body) = read(client);
        assert!(status.contains("200") && body.contains("ABC123"), "{status} {body}");
    }
    daemon.stop();
}

#[test]
fn a_stream_resumes_over_a_restart_without_a_gap() {
    let mut bus = Bus::enter().unwrap();
    bus.add_root_hub(1).unwrap();
    let state = StateDir::new();
    let daemon = Daemon::start(&bus, &state, QUICK);
    let mut stream = get("/api/v1/events/stream?since=0", "");
    bus.plug("1-1", &Device::receiver()).unwrap();
    assert_eq!(ids(&mut stream, 2), [1, 2]);
    daemon.stop();
    bus.unplug("1-1").unwrap();
    let daemon = Daemon::start(&bus, &state, QUICK);
    let mut stream = get("/api/v1/events/stream", "Last-Event-ID: 2\r\n");
    bus.plug("1-2", &Device::storage("S")).unwrap();
    assert_eq!(ids(&mut stream, 2), [3, 4]);
    daemon.stop();
}

#[test]
fn it_is_asked_by_the_machines_name_whatever_events_call_it_and_by_those_it_is_told() {
    let bus = Bus::enter().unwrap();
    let state = StateDir::new();
    let names =
        [("AUTOWEAVE_USB__HOST", "node-7"), ("AUTOWEAVE_USB__MONITORING__HOSTS", "usbd, usb.example.org")];
    let daemon = Daemon::start(&bus, &state, &[QUICK, &names].concat());
    let machine = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    for host in ["node-7", "usbd:8080", "usb.example.org", machine.trim()] {
        assert!(status_by(host).contains("200"), "{host}");
    }
    assert!(status_by("example.org").contains("403"));
    daemon.stop();
}

#[test]
fn a_port_in_use_is_named_and_http_can_be_left_out() {
    let bus = Bus::enter().unwrap();
    let state = StateDir::new();
    let _taken = TcpListener::bind(ADDRESS).unwrap();
    let mut daemon = Daemon::spawn(&bus, state.path(), QUICK, &[]);
    assert_eq!(daemon.wait().code(), Some(69));
    let log = daemon.log();
    assert!(log.contains(ADDRESS) && log.contains("monitoring.healthcheck_port"), "{log}");
    let without = [QUICK, &[("AUTOWEAVE_USB__MONITORING__ENABLED", "false")]].concat();
    Daemon::start(&bus, &state, &without).stop();
}

#[test]
fn health_is_an_exit_code() {
    let bus = Bus::enter().unwrap();
    let state = StateDir::new();
    let ask = || crate::program::usbd(&["health"]);
    ask().fails(1, &["127.0.0.1:8080"]);
    let daemon = Daemon::start(&bus, &state, QUICK);
    assert!(ask().ok().stdout.contains(r#""status":"ok""#));
    let json = crate::program::usbd(&["health", "--json"]).ok().json();
    assert!(json.len() == 1 && json[0]["status"] == "ok", "{json:?}");
    daemon.stop();
}
