//! Many devices, many times: order below hubs, and memory.

use std::fs;

use autoweave_usb_testbus::{Bus, Device};

use crate::harness::{Daemon, QUICK, StateDir, devices, events, last_seq};
use crate::invariants::{check, check_hubs, headline, net, on_bus, places};

const HUBS: u32 = 5;
const DEVICES_PER_HUB: u32 = 10;

#[test]
fn fifty_devices_come_and_go_behind_hubs_in_order() {
    come_and_go(QUICK);
}

#[test]
fn fifty_devices_come_and_go_behind_hubs_in_order_with_debouncing() {
    come_and_go(&[]);
}

fn come_and_go(env: &[(&str, &str)]) {
    let mut bus = Bus::enter().unwrap();
    bus.add_root_hub(1).unwrap();
    let state = StateDir::new();
    let daemon = Daemon::start(&bus, &state, env);
    bus.plug("1-1", &Device::hub()).unwrap();
    for hub in 1..=HUBS {
        bus.plug(&format!("1-1.{hub}"), &Device::hub()).unwrap();
    }
    for n in 0..HUBS * DEVICES_PER_HUB {
        let (hub, slot) = (n % HUBS + 1, n / HUBS + 1);
        bus.plug(&format!("1-1.{hub}.{slot}"), &Device::numbered(n)).unwrap();
    }
    let count = u64::from(1 + HUBS + HUBS * DEVICES_PER_HUB);
    daemon.wait_until("all attach", || last_seq(&state) == 1 + count);
    assert_eq!(places(&devices(&state)), on_bus(&bus));

    bus.unplug("1-1").unwrap();
    daemon.wait_until("all detach", || last_seq(&state) == 1 + 2 * count);
    daemon.stop();
    let events = events(&state);
    assert_eq!(events.len() as u64, 1 + 2 * count);
    check(&events);
    check_hubs(&events);
    assert_eq!(headline(&events[events.len() - 1]), "detach 1-1 hotplug");
    assert_eq!(net(&events), on_bus(&bus));
    assert!(events[1..].iter().all(|event| event["reason"] == "hotplug"));
}

const WARM_UP: u32 = 400;
const CYCLES: u32 = 1000;
const CYCLES_LONG: u32 = 100_000;
const GROWTH_KIB_MAX: u64 = 1024;

#[test]
fn memory_does_not_grow_with_the_number_of_cycles() {
    let mut bus = Bus::enter().unwrap();
    bus.add_root_hub(1).unwrap();
    let state = StateDir::new();
    let daemon = Daemon::start(&bus, &state, QUICK);
    let cycles = if std::env::var_os("AUTOWEAVE_LONG").is_some() { CYCLES_LONG } else { CYCLES };

    cycle(&mut bus, &daemon, &state, WARM_UP);
    let before = resident_kib(&daemon);
    cycle(&mut bus, &daemon, &state, cycles);
    let after = resident_kib(&daemon);
    println!("{cycles} cycles: {before} KiB resident before, {after} KiB after");
    assert!(after.saturating_sub(before) < GROWTH_KIB_MAX, "{before} KiB grew to {after} KiB");

    daemon.stop();
    let events = events(&state);
    assert_eq!(events.len() as u64, 1 + 2 * u64::from(WARM_UP + cycles));
    check(&events);
}

/// Full plugs and unplugs of ten devices at a time, at the pace of the journal.
fn cycle(bus: &mut Bus, daemon: &Daemon, state: &StateDir, cycles: u32) {
    let mut written = last_seq(state);
    for round in 0..cycles / 10 {
        for slot in 1..=10 {
            bus.plug(&format!("1-{slot}"), &Device::numbered(10 * round + slot)).unwrap();
        }
        for slot in 1..=10 {
            bus.unplug(&format!("1-{slot}")).unwrap();
        }
        written += 20;
        daemon.wait_until("the round is in the log", || last_seq(state) == written);
    }
}

fn resident_kib(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.daemon_pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
