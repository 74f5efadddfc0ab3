//! Edges faster than anyone could plug.

use std::collections::BTreeMap;
use std::iter;

use autoweave_usb_testbus::{Bus, Device};

use crate::harness::{Daemon, QUICK, StateDir, devices, events, last_seq};
use crate::invariants::{check, check_hubs, net, on_bus, places, port, text};

const DEVICES: u32 = 500;
const ROUNDS: u32 = 20;

/// A bus addresses 127 devices, the root hub among them.
const DEVICES_PER_BUS: u32 = 100;

#[test]
fn of_ten_thousand_pairs_every_edge_is_in_the_log_once_and_in_order() {
    let mut bus = Bus::enter().unwrap();
    let ports = plug_many(&mut bus, DEVICES);
    let state = StateDir::new();
    let daemon = Daemon::start(&bus, &state, QUICK);
    let before = last_seq(&state);
    assert_eq!(
        before,
        u64::from(DEVICES + DEVICES / DEVICES_PER_BUS),
        "everything there is told at the start"
    );

    let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
    let at_once = messages_at_once(&daemon.log());
    let rounds_at_once = if at_once >= 2 * DEVICES * ROUNDS { ROUNDS } else { 1 };
    let mut sent = 0;
    for ports in ports.chunks(usize::try_from(at_once / 2).unwrap()) {
        for _ in 0..ROUNDS / rounds_at_once {
            sent += bus.cycle(ports, rounds_at_once).unwrap();
            daemon.wait_until("all edges are in the log", || last_seq(&state) >= before + sent);
        }
    }
    assert_eq!(sent, u64::from(2 * DEVICES * ROUNDS));

    let log = daemon.stop();
    assert!(!log.contains("overruns"), "{log}");
    let events = events(&state);
    assert_eq!(events.len() as u64, before + sent, "none twice");
    check(&events);
    check_hubs(&events);
    let hotplug = events.iter().filter(|event| event["reason"] == "hotplug");
    let mut count: BTreeMap<(String, &str), u32> = BTreeMap::new();
    hotplug.for_each(|event| *count.entry((port(event), text(&event["action"]))).or_default() += 1);
    assert_eq!(count.len(), 2 * ports.len());
    assert!(count.values().all(|count| *count == ROUNDS), "{count:?}");
    assert_eq!(net(&events), on_bus(&bus));
    assert_eq!(places(&devices(&state)), on_bus(&bus));
}

#[test]
fn what_an_overrun_took_is_found_by_a_scan() {
    let mut bus = Bus::enter().unwrap();
    bus.add_root_hub(1).unwrap();
    let ports = hub_and_others(20);
    let state = StateDir::new();
    let env = [QUICK, &[("AUTOWEAVE_USB__SOURCE__RECEIVE_BUFFER_BYTES", "4096")]].concat();
    let daemon = Daemon::start(&bus, &state, &env);

    let mut random = Random(7);
    let mut steps = 0;
    daemon.wait_until("the small buffer overflows in 3,000 steps or more", || {
        for _ in 0..300 {
            steps += 1;
            plug_or_unplug(&mut bus, &ports[random.below(ports.len())], steps);
        }
        steps >= 3000 && daemon.log().contains("usb_source_overruns_total=")
    });

    let at_rest = || places(&devices(&state)) == on_bus(&bus);
    daemon.wait_until("the table is what is there", at_rest);
    daemon.stop();
    let events = events(&state);
    check(&events);
    check_hubs(&events);
    assert_eq!(net(&events), on_bus(&bus));
    assert!(at_rest());
    assert!(events.iter().any(|event| event["reason"] == "reconcile"), "the scan found what was lost");
}

/// Root hubs and `count` devices, there before anyone listens.
fn plug_many(bus: &mut Bus, count: u32) -> Vec<String> {
    let mut ports = Vec::new();
    for n in 0..count {
        let (number, slot) = (n / DEVICES_PER_BUS + 1, n % DEVICES_PER_BUS + 1);
        if slot == 1 {
            bus.add_root_hub(number.try_into().unwrap()).unwrap();
        }
        ports.push(format!("{number}-{slot}"));
        bus.plug_silent(&ports[ports.len() - 1], &Device::numbered(n)).unwrap();
    }
    ports
}

/// The ports of a hub, of `count` devices below it, and of as many beside it.
pub fn hub_and_others(count: u32) -> Vec<String> {
    let pairs = (1..=count).flat_map(|n| [format!("1-1.{n}"), format!("1-{}", n + 1)]);
    iter::once("1-1".to_owned()).chain(pairs).collect()
}

/// Takes out what is in `port`, or puts in a device made from `n`. What would need the hub that is not there
/// puts in the hub.
pub fn plug_or_unplug(bus: &mut Bus, port: &str, n: u32) {
    let is_there = |port: &str| bus.devices().iter().any(|device| device.port == port);
    if is_there(port) {
        bus.unplug(port).unwrap();
    } else if port.starts_with("1-1.") && !is_there("1-1") || port == "1-1" {
        bus.plug("1-1", &Device::hub()).unwrap();
    } else {
        bus.plug(port, &Device::numbered(n)).unwrap();
    }
}

/// How many uevents fit the receive buffer that the daemon was granted, with room to spare. For root of the
/// machine that is more than any flood here; for others (`rmem_max`) the flood comes in waves.
fn messages_at_once(log: &str) -> u32 {
    let (_, rest) = log.split_once("receive buffer of ").unwrap();
    let mut words = rest.split_whitespace();
    let number: u32 = words.next().unwrap().parse().unwrap();
    // A queued uevent takes up to 1.3 KiB (struct sk_buff and its data).
    number * if words.next() == Some("MiB") { 1024 / 2 } else { 1 } / 2
}

/// Splitmix64 (Steele, Lea, Flood, 2014): tests choose at random but always the same.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        usize::try_from(mixed % limit as u64).unwrap()
    }
}
