//! State directories that are taken, damaged or full.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use autoweave_usb_testbus::{Bus, Device};
use nix::mount::{MsFlags, mount};

use crate::harness::{Daemon, QUICK, StateDir, devices, events, last_seq};
use crate::invariants::{check, headline, net, on_bus, places};

fn bus_with_a_device() -> Bus {
    let mut bus = Bus::enter().unwrap();
    bus.add_root_hub(1).unwrap();
    bus.plug("1-1", &Device::receiver()).unwrap();
    bus
}

#[test]
fn a_second_daemon_is_turned_away() {
    let bus = bus_with_a_device();
    let state = StateDir::new();
    let first = Daemon::start(&bus, &state, QUICK);
    let mut second = Daemon::spawn(&bus, state.path(), QUICK, &[]);
    assert_eq!(second.wait().code(), Some(73));
    let log = second.log();
    assert!(log.contains(state.path().to_str().unwrap()), "{log}");
    assert!(log.contains(&format!("process {}", first.daemon_pid())), "{log}");
    first.stop();
    assert_eq!(events(&state).len(), 2);
}

#[test]
fn a_damaged_journal_is_set_aside_and_a_new_one_begun() {
    let bus = bus_with_a_device();
    let state = StateDir::new();
    Daemon::start(&bus, &state, QUICK).stop();
    fs::write(state.path().join("journal.db"), [0x5a; 8192]).unwrap();
    let log = Daemon::start(&bus, &state, QUICK).stop();
    assert!(log.contains("it is kept as"), "{log}");
    let names = fs::read_dir(state.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let kept: Vec<_> = names.filter(|name| name.to_str().unwrap().contains("set-aside")).collect();
    assert_eq!(kept.len(), 1);
    assert_eq!(fs::read(state.path().join(&kept[0])).unwrap(), [0x5a; 8192]);
    let events = events(&state);
    check(&events);
    assert_eq!(
        events.iter().map(headline).collect::<Vec<_>>(),
        ["attach usb1 coldplug", "attach 1-1 coldplug"]
    );
}

/// A file system of `kib` that only this thread and what it starts can see.
fn small_disk(at: &Path, kib: u32) {
    let options = format!("size={kib}k");
    mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).unwrap();
}

/// Takes all the room there is.
fn fill(disk: &Path) {
    let mut file = File::create(disk.join("filler")).unwrap();
    for size in [64 << 10, 4 << 10, 1] {
        while file.write(&vec![0; size]).is_ok_and(|written| written > 0) {}
    }
}

#[test]
fn a_full_disk_at_the_start_is_named() {
    let bus = bus_with_a_device();
    let state = StateDir::new();
    small_disk(state.path(), 256);
    fill(state.path());
    let mut daemon = Daemon::spawn(&bus, state.path(), QUICK, &[]);
    assert_eq!(daemon.wait().code(), Some(73));
    let log = daemon.log();
    assert!(log.contains(state.path().to_str().unwrap()) && log.contains("full"), "{log}");
}

#[test]
fn a_disk_that_fills_up_delays_events_and_loses_none() {
    let mut bus = bus_with_a_device();
    let state = StateDir::new();
    small_disk(state.path(), 4096);
    let daemon = Daemon::start(&bus, &state, QUICK);
    let mut edges = 2;
    let mut cycle = |bus: &mut Bus| {
        edges += bus.cycle(&["1-1"], 20).unwrap();
        edges
    };
    let written = cycle(&mut bus);
    daemon.wait_until("the edges are in the log", || last_seq(&state) == written);

    fill(state.path());
    daemon.wait_until("the disk is too full for more", || {
        cycle(&mut bus);
        daemon.log().contains("the journal cannot be written")
    });
    let sent = cycle(&mut bus);
    bus.plug("1-2", &Device::storage("S1")).unwrap();
    fs::remove_file(state.path().join("filler")).unwrap();
    daemon.wait_until("everything is in the log", || last_seq(&state) == sent + 1);
    daemon.stop();
    let events = events(&state);
    assert_eq!(events.len() as u64, sent + 1, "nothing twice");
    check(&events);
    assert_eq!(net(&events), on_bus(&bus));
    assert_eq!(places(&devices(&state)), on_bus(&bus));
}
