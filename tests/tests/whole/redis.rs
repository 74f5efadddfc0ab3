//! From the bus into a real Redis, read back by a plain client.

use autoweave_usb_testbus::{Bus, Device};
use serde_json::Value;

use crate::harness::{StateDir, command, last_seq};
use crate::installed::valkey;
use crate::program::finish;
use crate::redis_server::{Server, compare, start};

#[test]
fn an_entry_has_the_specifications_fields_and_then_ours() {
    let mut bus = Bus::enter().unwrap();
    let server = Server::start();
    let state = StateDir::new();
    let daemon = start(&bus, &state, &server);
    bus.plug("1-1", &Device::receiver()).unwrap();
    daemon.wait_until("the plug is published", || server.length() >= 1);
    let entry = &server.entries()[0];
    let names: Vec<&str> = entry.iter().map(|(name, _)| name.as_str()).collect();
    let expected = "source action vendor_id product_id device_signature manufacturer product serial_number bus_number \
                    device_address port_path timestamp device_descriptor event_id seq producer host device_id reason \
                    edges speed_mbps interfaces traceparent schema";
    assert_eq!(names, expected.split_whitespace().collect::<Vec<_>>());
    let field = |name: &str| &entry.iter().find(|(known, _)| known == name).unwrap().1;
    assert_eq!((field("vendor_id").as_str(), field("product_id").as_str()), ("046d", "c52b"));
    assert_eq!((field("action").as_str(), field("product").as_str()), ("attach", "USB Receiver"));
    let descriptor: Value = serde_json::from_str(field("device_descriptor")).unwrap();
    assert_eq!(descriptor["idVendor"], 0x046d);
    daemon.stop();
    compare(&state, &server);
}

#[test]
fn a_flood_with_kills_of_redis_and_of_the_daemon_is_in_the_stream_once_and_in_order() {
    flood(Server::start);
}

#[test]
fn the_same_holds_of_valkey() {
    let Some(valkey) = valkey() else { return };
    flood(|| Server::start_program(valkey, &[]));
}

/// Plugs without a pause and kills the server and the daemon in turn.
fn flood(server: impl FnOnce() -> Server) {
    let mut bus = Bus::enter().unwrap();
    let ports: Vec<String> = (1..=50).map(|port| format!("1-{port}")).collect();
    for (number, port) in (0..).zip(&ports) {
        bus.plug_silent(port, &Device::numbered(number)).unwrap();
    }
    let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
    let mut server = server();
    let state = StateDir::new();
    let mut daemon = start(&bus, &state, &server);
    for round in 0..6 {
        bus.cycle(&ports, 10).unwrap();
        if round % 2 == 0 {
            server.kill_and_restart();
        } else {
            daemon.kill();
            daemon = start(&bus, &state, &server);
        }
    }
    let published = || server.length() == last_seq(&state) && server.length() > 0;
    daemon.wait_until("all is published", published);
    daemon.stop();
    compare(&state, &server);
}

#[test]
fn what_redis_forgot_is_published_again() {
    let mut bus = Bus::enter().unwrap();
    let server = Server::start();
    let state = StateDir::new();
    let daemon = start(&bus, &state, &server);
    bus.plug("1-1", &Device::receiver()).unwrap();
    daemon.wait_until("the plug is published", || server.length() == last_seq(&state) && server.length() > 0);
    redis::cmd("FLUSHALL").exec(&mut server.connect().unwrap()).unwrap();
    bus.unplug("1-1").unwrap();
    daemon.wait_until("all is published", || server.length() == last_seq(&state) && server.length() > 1);
    daemon.stop();
    compare(&state, &server);
}

#[test]
fn check_looks_at_redis_and_at_the_port() {
    let bus = Bus::enter().unwrap();
    let server = Server::start();
    let state = StateDir::new();
    let url = server.url();
    let env = [("REDIS_URL", url.as_str())];
    let check = || finish(command(&env).args(["check", "--state-dir"]).arg(state.path())).ok().stdout;
    let alone = check();
    assert!(
        alone.contains("aw:hotplug: no stream yet") && alone.contains("127.0.0.1:8080 is free"),
        "{alone}"
    );
    let daemon = start(&bus, &state, &server);
    let beside = check();
    assert!(beside.contains("a healthy daemon answers on 127.0.0.1:8080"), "{beside}");
    daemon.stop();
    drop(server);
    let without = check();
    assert!(without.contains("warn") && without.contains("redis.sock"), "{without}");
}

#[test]
fn check_shows_each_thing_of_redis_whatever_else_is_wrong() {
    let _bus = Bus::enter().unwrap();
    let server = Server::start();
    for words in [
        "XGROUP CREATE aw:hotplug audit 0 MKSTREAM",
        "XGROUP CREATE aw:hotplug other 0",
        "XADD aw:hotplug * a b",
        "XADD aw:hotplug * a b",
        "XREADGROUP GROUP audit one COUNT 1 STREAMS aw:hotplug >",
    ] {
        server.order(words);
    }
    let state = StateDir::new();
    let url = server.url();
    let check = || {
        let env = [("REDIS_URL", url.as_str())];
        finish(command(&env).args(["check", "--json", "--state-dir"]).arg(state.path()))
    };
    let shown = |what: &str| -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let findings = check().json().into_iter().filter(|finding| finding["what"] == what);
        findings.map(|finding| (text(&finding["outcome"]), text(&finding["found"]))).collect()
    };
    let has = |what: &str, outcome: &str, words: &str| {
        let shown = shown(what);
        let is = |finding: &&(String, String)| finding.0 == outcome && finding.1.contains(words);
        assert_eq!(shown.iter().filter(is).count(), 1, "{outcome} {words} is not in {shown:?}");
    };
    has("redis", "ok", "redis.sock: version ");
    has("redis", "ok", "maxmemory-policy noeviction");
    has("redis", "ok", "it takes writes");

    server.order("CONFIG SET maxmemory-policy allkeys-lru");
    server.order("CONFIG SET maxmemory 100mb");
    server.order("REPLICAOF 127.0.0.1 1");
    has("redis", "ok", "redis.sock: version ");
    has("redis", "warn", "maxmemory-policy allkeys-lru");
    has("redis", "warn", "read-only replica");
    has("stream", "ok", "aw:hotplug: 2 entries");
    has("group", "ok", "audit: 1 consumers, 1 entries not acknowledged, 1 not delivered");
    has("group", "ok", "other: 0 consumers, 0 entries not acknowledged, 2 not delivered");
    check().ok();

    // What time does not mend is a failure, and hides no more.
    server.order("REPLICAOF NO ONE");
    server.order("ACL SETUSER default resetkeys ~aw:hotplug");
    has("redis", "fail", "the Redis user may not do what is needed");
    has("redis", "warn", "maxmemory-policy allkeys-lru");
    has("stream", "ok", "aw:hotplug: 2 entries");
    check().fails(69, &["something that the daemon needs does not work here"]);
}
